//! The GitLab double as a program: `gitlab-double SCENARIO [ADDRESS] [SECRET_FILE]`.
//!
//! It reads the scenario again whenever the file changes, writes the secret
//! that kas must have, and prints what it was asked when it is ended (Ctrl-C).

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use tests::gitlab_double::{GitLabDouble, Scenario};

/// How often the scenario file is looked at.
const LOOK: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let usage = "usage: gitlab-double SCENARIO [ADDRESS] [SECRET_FILE]";
    let file = PathBuf::from(args.next().context(usage)?);
    let address = args.next().and_then(|it| it.into_string().ok());
    let address = address.unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let double = GitLabDouble::listen(Scenario::load(&file)?, &address, None).await?;
    if let Some(secret) = args.next() {
        double.write_secret(Path::new(&secret))?;
    }
    say(&format!("GitLab double at {}", double.url()));
    tokio::select! {
        ended = tokio::signal::ctrl_c() => ended?,
        () = follow(&double, &file) => {}
    }
    say(&serde_json::to_string_pretty(&double.counters())?);
    Ok(())
}

async fn follow(double: &GitLabDouble, file: &Path) {
    let mut seen = changed(file);
    loop {
        tokio::time::sleep(LOOK).await;
        let now = changed(file);
        if now == seen {
            continue;
        }
        seen = now;
        match Scenario::load(file) {
            Ok(scenario) => double.change(|old| *old = scenario),
            Err(error) => say(&format!("the scenario stays as it was: {error:#}")),
        }
    }
}

fn changed(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|it| it.modified()).ok()
}

#[expect(clippy::print_stdout, reason = "what the program is for")]
fn say(text: &str) {
    println!("{text}");
}

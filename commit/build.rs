//! Tells the programs the commit they are built from.

use std::{env, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=KAS_COMMIT");
    // It changes with every commit and checkout, and with nothing else. A file that is not there
    // would make each build run this again.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && Path::new(&log).exists()
    {
        println!("cargo::rerun-if-changed={log}");
    }
    println!("cargo::rustc-env=KAS_COMMIT={}", commit());
}

/// What the builder says, what git says, or that nobody does.
fn commit() -> String {
    env::var("KAS_COMMIT")
        .ok()
        .filter(|given| !given.is_empty())
        .or_else(|| git(&["rev-parse", "--short=8", "HEAD"]))
        .unwrap_or_else(|| "unknown".to_owned())
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !said.trim().is_empty()).then(|| said.trim().to_owned())
}

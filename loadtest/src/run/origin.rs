//! What is measured, and on what.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

const VERSION_TIMEOUT: Duration = Duration::from_secs(5);
const LONGEST_CHARS: usize = 200;

/// The first line of what a program says with `--version`; empty if it says nothing in time.
pub(super) async fn version(program: &Path) -> String {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null());
    let said = timeout(VERSION_TIMEOUT, command.kill_on_drop(true).output()).await;
    let said = said
        .ok()
        .and_then(Result::ok)
        .filter(|it| it.status.success());
    said.map_or(String::new(), |it| {
        let text = String::from_utf8_lossy(&it.stdout);
        let line = text.lines().next().unwrap_or_default();
        line.chars().take(LONGEST_CHARS).collect()
    })
}

/// What Linux calls the CPU; empty if it has no name for it.
pub(super) fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    model(&text).to_owned()
}

fn model(cpuinfo: &str) -> &str {
    let lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let mut models = lines.filter(|(name, _)| name.trim() == "model name");
    models.next().map_or("", |(_, model)| model.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_found_in_cpuinfo() {
        assert_eq!(
            model("processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nflags\t: a"),
            "A CPU @ 2 GHz"
        );
        assert_eq!(model("processor\t: 0"), "");
    }

    #[tokio::test]
    async fn a_program_says_its_version_or_nothing() {
        assert!(version(Path::new("bash")).await.contains("bash"));
        assert_eq!(version(Path::new("/nowhere/kas")).await, "");
    }
}

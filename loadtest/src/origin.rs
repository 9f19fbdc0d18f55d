//! What is measured, by what, and on what.

use std::{
    collections::BTreeSet,
    path::Path,
    process::Stdio,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::join_all;
use serde::Serialize;
use tokio::{process::Command, time::timeout};

use crate::{http_get, scenario::Attach};

/// Version and commit of this program.
pub(crate) const LOADTEST: &str =
    concat!(env!("CARGO_PKG_VERSION"), ", commit ", env!("KAS_COMMIT"));

const VERSION_TIMEOUT: Duration = Duration::from_secs(5);
const LONGEST_CHARS: usize = 200;
/// The metric of kas, GitLab's too, whose label says the version.
const BUILD_INFO: &str = "gitlab_build_info{";

/// Where figures come from.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Origin {
    /// What was measured: what each program says of its version, and where it is.
    pub(crate) programs: Vec<(String, String)>,
    /// When it began, in seconds since 1970.
    pub(crate) began: u64,
    pub(crate) cpus: usize,
    /// What CPUs they are.
    pub(crate) cpu: String,
    /// Version and commit of the loadtest that measured.
    pub(crate) loadtest: String,
}

impl Origin {
    /// This machine, this program, and now.
    pub(crate) fn here() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            programs: Vec::new(),
            began: now.map_or(0, |now| now.as_secs()),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: cpu(),
            loadtest: LOADTEST.to_owned(),
        }
    }

    /// Asks these programs for their versions.
    pub(crate) async fn of(programs: &[&Path]) -> Self {
        let asked = programs
            .iter()
            .map(async |it| (version(it).await, it.display().to_string()));
        Self {
            programs: join_all(asked).await,
            ..Self::here()
        }
    }
}

/// The first line of what a program says with `--version`; empty if it says nothing in time.
pub(crate) async fn version(program: &Path) -> String {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null());
    let said = timeout(VERSION_TIMEOUT, command.kill_on_drop(true).output()).await;
    let said = said
        .ok()
        .and_then(Result::ok)
        .filter(|it| it.status.success());
    said.map_or(String::new(), |it| {
        first_line(&String::from_utf8_lossy(&it.stdout))
    })
}

/// What a kas that runs already is: by the programs of its processes on this machine, or else by its metrics. Replicas
/// of several versions have all of them; empty if none can be asked.
pub(crate) async fn of_attached(attach: &Attach) -> String {
    // It leads to the program that runs, also where another one has taken its place since.
    let programs = attach.pids.iter().map(|pid| format!("/proc/{pid}/exe"));
    let asked = programs.map(async |program| version(Path::new(&program)).await);
    let said = together(join_all(asked).await);
    if !said.is_empty() {
        return said;
    }
    together(join_all(attach.metrics.iter().map(|url| of_metrics(url))).await)
}

/// Each version once.
fn together(versions: Vec<String>) -> String {
    let versions: BTreeSet<_> = versions.into_iter().filter(|it| !it.is_empty()).collect();
    versions.into_iter().collect::<Vec<_>>().join("; ")
}

async fn of_metrics(url: &str) -> String {
    let answer = timeout(VERSION_TIMEOUT, http_get::get(url)).await;
    let text = answer
        .ok()
        .and_then(Result::ok)
        .map(|(_, body)| String::from_utf8_lossy(&body).into_owned());
    let build = text.as_deref().and_then(build).map(first_line);
    build.map_or(String::new(), |it| format!("{it} by its metrics"))
}

/// The version in metrics.
fn build(metrics: &str) -> Option<&str> {
    let mut lines = metrics.lines();
    let labels = lines.find_map(|line| line.strip_prefix(BUILD_INFO))?;
    let (_, version) = labels.split_once("version=\"")?;
    Some(version.split_once('"')?.0)
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(LONGEST_CHARS).collect()
}

/// What Linux calls the CPU; empty if it has no name for it.
fn cpu() -> String {
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

    #[test]
    fn metrics_say_the_version() {
        let metrics = "# HELP gitlab_build_info a\n\
            gitlab_build_info{built=\"today\",version=\"v16.5.0\"} 1\nother{version=\"v1\"} 1\n";

        assert_eq!(build(metrics), Some("v16.5.0"));
        assert_eq!(build("other{version=\"v1\"} 1"), None);
    }

    #[tokio::test]
    async fn processes_that_run_already_say_their_version_each_once() {
        let mut processes = Vec::new();
        for _ in 0..2 {
            let mut process = Command::new("bash");
            // It reads what never comes.
            process.arg("-c").arg("read").stdin(Stdio::piped());
            processes.push(process.kill_on_drop(true).spawn().expect("bash is there"));
        }
        let attach = Attach {
            pids: processes.iter().filter_map(|it| it.id()).collect(),
            ..Attach::default()
        };

        let said = of_attached(&attach).await;

        assert_eq!(said, version(Path::new("bash")).await);
    }

    #[tokio::test]
    async fn what_cannot_be_asked_has_no_version() {
        let attach = Attach {
            metrics: vec!["http://127.0.0.1:1/metrics".to_owned()],
            ..Attach::default()
        };

        assert_eq!(of_attached(&attach).await, "");
    }
}

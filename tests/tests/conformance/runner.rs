//! ginkgo with Kubernetes' e2e.test.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tests::{parts, process::Process};
use tokio::process::Command;

use crate::{
    outcomes::Outcomes,
    settings::{Group, Settings, Way},
};

/// For one group by one way.
const RUN_TIMEOUT: Duration = Duration::from_secs(3 * 3600);
/// ginkgo ends by itself before that.
const GINKGO_TIMEOUT: &str = "--timeout=170m";

/// Runs tests, and leaves what they say in a folder.
#[derive(Debug)]
pub(crate) struct Runner<'a> {
    settings: &'a Settings,
    folder: &'a Path,
    ginkgo: PathBuf,
    tests: PathBuf,
    kubectl: PathBuf,
}

impl<'a> Runner<'a> {
    pub(crate) fn new(settings: &'a Settings, folder: &'a Path) -> Result<Self> {
        let program = |name| parts::program(name).with_context(|| format!("no {name}"));
        Ok(Self {
            settings,
            folder,
            ginkgo: program("ginkgo")?,
            tests: program("e2e.test")?,
            kubectl: program("kubectl")?,
        })
    }

    /// Runs the conformance tests of a group, but for those that are skipped.
    pub(crate) async fn run(
        &self,
        group: Group,
        way: Way,
        kubeconfig: &Path,
        skip: &[&str],
    ) -> Result<Outcomes> {
        let name = format!("{group}-{way}");
        let report = format!("{name}-report.json");
        let mut command = Command::new(&self.ginkgo);
        command
            .arg(format!("--procs={}", self.settings.at_once))
            .args([GINKGO_TIMEOUT, "--no-color", "--silence-skips"])
            .arg(format!("--output-dir={}", self.folder.display()))
            .arg(format!("--json-report={report}"))
            .arg(format!("--focus={}", self.focus(group)))
            .args(
                skip.iter()
                    .map(|test| format!("--skip= {}$", literal(test))),
            )
            .arg(&self.tests)
            .args(["--", "--provider=skeleton", "--disable-log-dump"])
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--kubectl-path={}", self.kubectl.display()))
            .current_dir(self.folder)
            .env("KUBERC", "off")
            .env("HOME", self.folder)
            .env_remove("KUBECONFIG");
        let mut ginkgo = Process::spawn(&name, &mut command, self.folder)?;
        // Tests that fail are in the report.
        ginkgo.ended(RUN_TIMEOUT).await?;
        let outcomes = Outcomes::read(&self.folder.join(report));
        let outcomes = outcomes.with_context(|| ginkgo.tail())?;
        ensure!(outcomes.count() > 0, "no test was run\n{}", ginkgo.tail());
        Ok(outcomes)
    }

    /// ginkgo looks in names that begin with the suite's own.
    fn focus(&self, group: Group) -> String {
        let prefix = literal(&group.prefix());
        match &self.settings.focus {
            Some(part) => format!(" {prefix}.*(?:{part})"),
            None => format!(r" {prefix}.*\[Conformance\]"),
        }
    }
}

/// A regular expression of these very characters.
fn literal(text: &str) -> String {
    let escaped = |letter: char| {
        let special = !letter.is_alphanumeric() && letter != ' ';
        let slash = if special { "\\" } else { "" };
        format!("{slash}{letter}")
    };
    text.chars().map(escaped).collect()
}

#[test]
fn names_of_tests_are_matched_as_they_are() {
    let pattern = literal("[sig-node] Pods should *not* (be) a.b");

    assert_eq!(pattern, r"\[sig\-node\] Pods should \*not\* \(be\) a\.b");
}

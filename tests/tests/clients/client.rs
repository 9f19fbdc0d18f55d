//! The clients: which there are here, and how each is asked for something.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use tests::parts::{self, Part};
use tokio::process::Command;

use crate::{kube_rs, world::Way};

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Lists objects, page by page.
    List,
    /// Watches one from where a list ended.
    Watch,
    /// Follows one as the client's library has it for controllers.
    Informer,
    /// Reads a pod's log.
    Logs,
    /// Runs a command that reads, writes to both outputs, and ends by a code.
    Exec,
    /// Reads 300 kB from a port of a pod.
    Forward,
    /// Installs a chart, waits until its pod is ready, changes it, and takes it away.
    Release,
}

impl Action {
    pub(crate) const ALL: [Self; 7] = [
        Self::List,
        Self::Watch,
        Self::Informer,
        Self::Logs,
        Self::Exec,
        Self::Forward,
        Self::Release,
    ];

    /// The word that clients know.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Watch => "watch",
            Self::Informer => "informer",
            Self::Logs => "logs",
            Self::Exec => "exec",
            Self::Forward => "forward",
            Self::Release => "release",
        }
    }

    /// The column's heading.
    pub(crate) fn heading(self) -> &'static str {
        match self {
            Self::Forward => "port-forward",
            Self::Release => "install, upgrade, uninstall",
            other => other.word(),
        }
    }

    /// Whether it goes on until the client is ended.
    pub(crate) fn goes_on(self) -> bool {
        matches!(self, Self::Watch | Self::Informer)
    }
}

/// A client of some version.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    pub(crate) program: Program,
}

/// How it is asked.
#[derive(Debug, Clone)]
pub(crate) enum Program {
    /// kubectl, by its own words.
    Kubectl(PathBuf),
    /// Helm, by its own words.
    Helm(PathBuf),
    /// One of ours, made with a library: `… ACTION KUBECONFIG NAMESPACE`.
    Library(Vec<OsString>),
}

impl Client {
    /// What distinguishes it from the others.
    pub(crate) fn label(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    /// What it can do.
    pub(crate) fn actions(&self) -> &'static [Action] {
        use Action::{Exec, Forward, Informer, List, Logs, Release, Watch};
        match self.program {
            Program::Kubectl(_) => &[List, Watch, Logs, Exec, Forward],
            Program::Library(_) => &[List, Watch, Informer, Logs, Exec, Forward],
            Program::Helm(_) => &[Release],
        }
    }

    /// One of ours, asked for this.
    pub(crate) fn library(program: &[OsString], action: Action, way: &Way) -> Command {
        let mut command = Command::new(&program[0]);
        command.args(&program[1..]).arg(action.word());
        command.arg(&way.kubeconfig).arg("default");
        command
    }
}

/// Those that are here, in the order of the table; of the others it is said that they are not.
pub(crate) fn all() -> Result<Vec<Client>> {
    let mut clients = kubectls()?;
    let library = |name, version: Option<&str>, program: &str| {
        let program = parts::program(program)?;
        Some(Client {
            name,
            version: version?.to_owned(),
            program: Program::Library(vec![program.into()]),
        })
    };
    let own = std::env::current_exe()?;
    clients.push(Client {
        name: "kube-rs",
        version: kube_rs_version().context("no version of kube in Cargo.lock")?,
        program: Program::Library(vec![own.into(), kube_rs::ROLE.into()]),
    });
    let go = include_str!("../../clients/go/go.mod");
    let python = include_str!("../../clients/python/requirements.txt");
    let javascript = include_str!("../../clients/javascript/package.json");
    let others = [
        (
            Part::ClientGo,
            library(
                "client-go",
                after(go, "k8s.io/client-go v"),
                "kas-client-go",
            ),
        ),
        (
            Part::ClientPython,
            library(
                "Python kubernetes",
                after(python, "\nkubernetes=="),
                "kas-client-python",
            ),
        ),
        (
            Part::ClientJavascript,
            library(
                "JavaScript @kubernetes/client-node",
                after(javascript, "client-node\": \""),
                "kas-client-javascript",
            ),
        ),
        (Part::Helm3, helm("3")),
        (Part::Helm4, helm("4")),
    ];
    for (part, client) in others {
        let skipped = parts::skipped("a row of the clients' table", &[part]);
        clients.extend(client.filter(|_| !skipped));
    }
    publish_sources()?;
    Ok(clients)
}

/// Each version that is built.
fn kubectls() -> Result<Vec<Client>> {
    let mut versions: Vec<_> = std::fs::read_dir(parts::cache().join("bin"))?
        .filter_map(Result::ok)
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .filter(|(name, folder)| name.starts_with("v1.") && folder.join("kubectl").is_file())
        .collect();
    versions.sort();
    let client = |(version, folder): (String, PathBuf)| Client {
        name: "kubectl",
        version: version.trim_start_matches('v').to_owned(),
        program: Program::Kubectl(folder.join("kubectl")),
    };
    Ok(versions.into_iter().map(client).collect())
}

/// By the version that `tests/setup/clients` builds: what is built from a module does not say all of its own.
fn helm(major: &str) -> Option<Client> {
    let pins = include_str!("../../setup/clients");
    let version = after(pins, &format!("\nHELM{major}=v"))?;
    Some(Client {
        name: if major == "3" { "Helm 3" } else { "Helm 4" },
        version: version.to_owned(),
        program: Program::Helm(parts::program(&format!("kas-client-helm{major}"))?),
    })
}

/// The programs that need their libraries beside them lie where `tests/setup/clients` has put those.
fn publish_sources() -> Result<()> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    let to = parts::cache().join("clients");
    for file in ["python/client.py", "javascript/client.js"] {
        if to.join(file).parent().is_some_and(Path::is_dir) {
            std::fs::copy(from.join(file), to.join(file))?;
        }
    }
    Ok(())
}

fn kube_rs_version() -> Option<String> {
    let lock = include_str!("../../../Cargo.lock");
    let version = after(lock, "name = \"kube\"\nversion = \"")?;
    Some(version.trim_matches('"').to_owned())
}

/// The word behind these.
fn after<'a>(text: &'a str, words: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(words)?;
    rest.split([' ', '\n', '"']).next()
}

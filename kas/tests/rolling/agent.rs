//! The agent: ours in this process, or the program that `AGENTK_BIN` names.

use std::{ffi::OsString, net::SocketAddr, path::Path};

use agentk::{ClusterSource, Config, Token};
use tokio::process::{Child, Command};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Runs until it is dropped.
#[derive(Debug)]
pub(crate) enum Agent {
    Ours(#[expect(dead_code, reason = "held for its Drop")] AbortOnDropHandle<()>),
    Other(#[expect(dead_code, reason = "held for its Drop")] Child),
}

/// Whether no other agent is asked for.
pub(crate) fn is_ours() -> bool {
    other().is_none()
}

fn other() -> Option<OsString> {
    std::env::var_os("AGENTK_BIN").filter(|program| !program.is_empty())
}

impl Agent {
    /// Serves the API at `cluster` to kas.
    pub(crate) fn start(kas: SocketAddr, token: &Path, cluster: &str, folder: &Path) -> Self {
        let kas = format!("ws://{kas}");
        match other() {
            Some(program) => {
                println!("the agent is {}", program.display());
                Self::Other(spawn(program, &kas, token, cluster, folder))
            }
            None => Self::Ours(run(&kas, token, cluster)),
        }
    }
}

fn run(kas: &str, token: &Path, cluster: &str) -> AbortOnDropHandle<()> {
    let cluster = ClusterSource::Server(cluster.to_owned());
    let config = Config::new(kas, Token::File(token.to_owned()), cluster).unwrap();
    let running = agentk::run(config, CancellationToken::new(), CancellationToken::new());
    AbortOnDropHandle::new(tokio::spawn(async move { running.await.unwrap() }))
}

fn spawn(program: OsString, kas: &str, token: &Path, cluster: &str, folder: &Path) -> Child {
    let kubeconfig = folder.join("kubeconfig");
    let text = format!(
        "{{apiVersion: v1, kind: Config, current-context: a, contexts: [{{name: a, context: {{cluster: a}}}}], \
         clusters: [{{name: a, cluster: {{server: '{cluster}'}}}}]}}"
    );
    std::fs::write(&kubeconfig, text).unwrap();
    let log = std::fs::File::create(folder.join("agentk.log")).unwrap();
    Command::new(program)
        .args(["--kas-address", kas])
        .arg("--token-file")
        .arg(token)
        .arg("--kubeconfig")
        .arg(&kubeconfig)
        .args(["--observability-listen-address", "127.0.0.1:0"])
        .env("POD_NAMESPACE", "default")
        .env("POD_NAME", "agentk")
        .env_remove("KUBECONFIG")
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

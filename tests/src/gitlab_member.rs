//! One replica of several with GitLab as their control plane.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::process::Command;

use crate::{
    gitlab_double::GitLabDouble,
    http, ports,
    process::Process,
    programs,
    wait::{until, until_accepts},
};

/// A start takes a second; a busy machine takes longer.
pub const LIMIT: Duration = Duration::from_secs(60);

/// One replica.
#[derive(Debug)]
pub struct Member {
    /// The process.
    pub process: Process,
    /// Where GitLab calls.
    pub api: u16,
    /// Where agents connect.
    pub agents: u16,
    /// Where callers connect.
    pub users: u16,
    /// Where it says how it is.
    pub observability: u16,
    /// Where operators connect.
    pub admin: u16,
}

impl Member {
    /// Starts it with what the double has written into the folder, so that it
    /// polls repositories every `poll` seconds.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(
        number: usize,
        poll: u32,
        double: &GitLabDouble,
        redis: u16,
        folder: &Path,
    ) -> Result<Self> {
        let [api, agents, users, peers, observability, admin] = [(); 6].map(|()| ports::free());
        let file = folder.join(format!("kas-{number}.yaml"));
        let (secret, private) = (folder.join("secret"), folder.join("private"));
        std::fs::write(&private, BASE64_STANDARD.encode([7; 32]))?;
        let text = format!(
            "gitlab: {{address: '{gitlab}', external_url: 'https://gitlab.example.com', authentication_secret_file: {secret}}}\n\
             agent:\n  listen: {{address: '127.0.0.1:{agents}', websocket: true, listen_grace_period: 1s}}\n  events: {{}}\n  \
             configuration: {{poll_period: {poll}s}}\n  kubernetes_api:\n    \
             listen: {{address: '127.0.0.1:{users}', listen_grace_period: 1s, shutdown_grace_period: 10s}}\n    url_path_prefix: /k8s-proxy/\n    websocket_token_secret_file: {secret}\n\
             api: {{listen: {{address: '127.0.0.1:{api}', authentication_secret_file: {secret}}}}}\n\
             private_api: {{listen: {{address: '127.0.0.1:{peers}', authentication_secret_file: {private}}}}}\n\
             admin: {{listen: {{address: '127.0.0.1:{admin}'}}}}\n\
             redis: {{server: {{address: '127.0.0.1:{redis}'}}}}\n\
             observability: {{listen: {{address: '127.0.0.1:{observability}'}}, logging: {{level: debug}}, usage_reporting_period: 1s}}\n",
            gitlab = double.url(),
            secret = secret.display(),
            private = private.display(),
        );
        std::fs::write(&file, text)?;
        let mut command = Command::new(programs::kas()?);
        command
            .arg("--configuration-file")
            .arg(&file)
            .env("OWN_PRIVATE_API_URL", format!("grpc://127.0.0.1:{peers}"));
        let process = Process::spawn(&format!("kas-{number}"), &mut command, folder)?;
        for port in [api, agents, users, peers, observability, admin] {
            let listens = until_accepts(port, LIMIT).await;
            listens.with_context(|| process.tail())?;
        }
        Ok(Self {
            process,
            api,
            agents,
            users,
            observability,
            admin,
        })
    }

    /// Waits until it knows so many replicas.
    ///
    /// # Errors
    /// When it does not come to know them.
    pub async fn knows(&self, count: usize) -> Result<()> {
        let known = async || {
            let replicas = self.sample("routing_replicas ").await?;
            (replicas == count as u64).then_some(())
        };
        let known = until("the replicas to know each other", LIMIT, known).await;
        known.with_context(|| self.process.tail())
    }

    /// How often it called a method of Gitaly; nothing while it does not answer.
    pub async fn called(&self, method: &str) -> Option<u64> {
        let name = format!("gitaly_requests_total{{call=\"{method}\",outcome=\"Ok\"}} ");
        self.sample(&name).await
    }

    /// One of its metrics, by its line up to the number; nothing while it does not
    /// answer.
    pub async fn sample(&self, name: &str) -> Option<u64> {
        let url = format!("http://127.0.0.1:{}/metrics", self.observability);
        let answer = http::get(&url, "").await.ok()?;
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        let value = text.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().parse().ok()
    }
}

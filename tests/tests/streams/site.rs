//! Three replicas, users at the first, and an agent that connects to the others through a link that is cut.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{
    agentk::{Agentk, Links},
    chaos::Chaos,
    http as client,
    replicas::Replicas,
    wait::until,
};

/// Longest wait for anything that should come soon.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);
/// The replicas that the agent connects to: not the one that users are at.
const OWNERS: [usize; 2] = [1, 2];
const RESUMED: &str = "k8s_api_proxy_upgraded_connections_resumed_total";
const BROKEN: &str = "k8s_api_proxy_upgraded_connections_broken_total";

pub(crate) struct Site {
    pub(crate) replicas: Replicas,
    pub(crate) link: Chaos,
    pub(crate) agent: Agentk,
    /// A user's bearer token for the agent.
    pub(crate) bearer: String,
    /// A user's token.
    pub(crate) user: String,
}

impl Site {
    pub(crate) async fn start(kubeconfig: &Path, folder: &Path) -> Result<Self> {
        let replicas = Replicas::start(3, folder).await?;
        let token = replicas.cli(&["agent", "create", "site"]).await?;
        let user = replicas.cli(&["user", "create", "ana"]).await?;
        let grant = [
            "access", "grant", "--agent", "site", "--user", "ana", "--as", "agent",
        ];
        replicas.cli(&grant).await?;
        let agents = replicas.cli(&["agent", "list", "-o", "json"]).await?;
        let agents: Vec<Value> = serde_json::from_str(&agents)?;
        let agent = agents.iter().find(|agent| agent["name"] == "site");
        let id = agent.context("the agent is listed")?["id"].to_string();
        let link = Chaos::start(&OWNERS.map(|owner| replicas.members[owner].agents)).await?;
        let links = Links {
            kas: format!("grpc://127.0.0.1:{}", link.port()),
            ca: None,
            kubeconfig: kubeconfig.to_owned(),
        };
        let site = Self {
            agent: Agentk::start("agentk", &links, &token, folder)?,
            bearer: format!("pat:{id}:{user}"),
            user,
            link,
            replicas,
        };
        let url = format!("{}version", site.server());
        let serves = async || {
            let answer = client::get(&url, &site.bearer).await.ok()?;
            answer.status().is_success().then_some(())
        };
        let serves = until("the agent to serve", LIMIT, serves).await;
        serves.with_context(|| site.tails())?;
        Ok(site)
    }

    /// Where users are.
    pub(crate) fn server(&self) -> String {
        format!(
            "http://127.0.0.1:{}/k8s-proxy/",
            self.replicas.members[0].users
        )
    }

    /// Kills an owner and starts it again.
    pub(crate) async fn replace_owner(&mut self, turn: usize) -> Result<()> {
        let owner = OWNERS[turn % OWNERS.len()];
        self.replicas.members[owner].kill().await?;
        self.replicas.restart(owner).await
    }

    /// How often connections were resumed, and how many broke.
    pub(crate) async fn counts(&self) -> Result<(f64, f64)> {
        let port = self.replicas.members[0].observability;
        let text = client::get(&format!("http://127.0.0.1:{port}/metrics"), "").await?;
        let text = String::from_utf8_lossy(text.body()).into_owned();
        let sum = |name: &str| -> Result<f64> {
            let lines = text.lines().filter(|line| line.starts_with(name));
            let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            let values: Vec<f64> = values.collect();
            ensure!(!values.is_empty(), "no {name}");
            Ok(values.iter().sum())
        };
        Ok((sum(RESUMED)?, sum(BROKEN)?))
    }

    /// What kas said of connections that broke.
    pub(crate) fn breaks(&self) -> String {
        let log = self.replicas.members[0].process.output();
        let breaks = log.lines().filter(|line| line.contains("connection broke"));
        breaks.collect::<Vec<_>>().join("\n")
    }

    /// Waits until the agent keeps nothing for nobody.
    pub(crate) async fn nothing_is_kept(&self) -> Result<()> {
        let port = self.agent.observability;
        let kept = async || {
            let text = client::get(&format!("http://127.0.0.1:{port}/metrics"), "")
                .await
                .ok()?;
            let text = String::from_utf8_lossy(text.body()).into_owned();
            let name = "agentk_upgraded_connections_detached ";
            let value = text.lines().find_map(|line| line.strip_prefix(name))?;
            (value.trim() == "0").then_some(())
        };
        until("the agent to keep no connection", LIMIT, kept).await
    }

    pub(crate) fn tails(&self) -> String {
        let members = self.replicas.members.iter();
        let tails: String = members.map(|it| it.process.tail()).collect();
        tails + &self.agent.process.tail()
    }
}

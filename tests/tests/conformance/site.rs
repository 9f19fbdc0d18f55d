//! Three replicas behind HAProxy, for users and for the agent, whose connections can be reset on their way there.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use tests::{
    agentk::{Agentk, Links},
    certs::Certs,
    chaos::Chaos,
    haproxy::{Front, Haproxy},
    kube::Cluster,
    kubectl::Kubectl,
    replicas::Replicas,
    wait::until,
};

use crate::settings::Way;

const REPLICAS: usize = 3;
const BETWEEN_CUTS: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_secs(90);

pub(crate) struct Site {
    direct: PathBuf,
    through: PathBuf,
    link: Chaos,
    agent: Agentk,
    replicas: Replicas,
    _fronts: [Haproxy; 2],
}

impl Site {
    pub(crate) async fn start(cluster: &Cluster, folder: &Path) -> Result<Self> {
        let replicas = Replicas::start(REPLICAS, folder).await?;
        let certs = Certs::create(&folder.join("certs"))?;
        let agents: Vec<_> = replicas.members.iter().map(|it| it.agents).collect();
        let users: Vec<_> = replicas.members.iter().map(|it| it.users).collect();
        let agents = Haproxy::balancing(Front::Agents, &agents, &certs, folder).await?;
        let users = Haproxy::balancing(Front::Users, &users, &certs, folder).await?;
        let link = Chaos::start(&[agents.port()]).await?;
        let token = replicas.cli(&["agent", "create", "site"]).await?;
        let links = Links {
            kas: format!("wss://localhost:{}/", link.port()),
            ca: Some(certs.ca.clone()),
            kubeconfig: cluster.agent_kubeconfig(),
        };
        let through = replicas
            .kubeconfig_as_agent("site", users.port(), &certs.ca)
            .await?;
        let site = Self {
            direct: cluster.agent_kubeconfig(),
            through,
            agent: Agentk::start("agentk", &links, &token, folder)?,
            link,
            replicas,
            _fronts: [agents, users],
        };
        let kas = Kubectl::new(&site.through);
        let serves = async || kas.ok(&["get", "--raw", "/version"]).await.ok();
        let serves = until("the agent to serve", SOON, serves).await;
        serves.with_context(|| site.tails())?;
        Ok(site)
    }

    /// How to reach the API server by this way.
    pub(crate) fn kubeconfig(&self, way: Way) -> &Path {
        match way {
            Way::Direct => &self.direct,
            Way::Kas | Way::Cuts => &self.through,
        }
    }

    /// Does something while connections are reset, if that is the way.
    pub(crate) async fn during<T>(&self, way: Way, done: impl Future<Output = T>) -> T {
        if way != Way::Cuts {
            return done.await;
        }
        tokio::select! {
            done = done => done,
            never = self.link.cut_every(BETWEEN_CUTS) => match never {},
        }
    }

    pub(crate) fn tails(&self) -> String {
        let members = self.replicas.members.iter();
        let tails: String = members.map(|it| it.process.tail()).collect();
        tails + &self.agent.process.tail()
    }
}

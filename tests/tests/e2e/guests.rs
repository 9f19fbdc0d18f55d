//! Agents that come later: new ones, more pods of old ones, and one that never answers.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tests::{
    agentk::{Agentk, Links},
    counting_api, programs,
    replicas::Replicas,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    fleet::{self, Agent, Kind, reachable},
    fronts::{Fronts, Route},
};

/// The number of the first one.
const FIRST: usize = 1000;
/// How long requests may take to reach an agent that does not answer them.
const ARRIVE: Duration = Duration::from_secs(120);
/// Before one is made again.
const PAUSE: Duration = Duration::from_millis(100);

/// What guests need.
#[derive(Debug)]
pub(crate) struct Guests {
    links: Links,
    folder: PathBuf,
    /// What a user may ask them with.
    pub(crate) token: String,
    came: AtomicUsize,
}

/// A guest that answers.
#[derive(Debug)]
pub(crate) struct Guest {
    agent: Agent,
    /// After what time it answered through every replica.
    pub(crate) after: Duration,
    process: Agentk,
}

/// A guest that gets requests and keeps silent.
#[derive(Debug)]
pub(crate) struct Silent {
    _process: Agentk,
    _silence: Vec<TcpStream>,
    _requests: JoinSet<()>,
}

impl Guests {
    pub(crate) fn new(
        fronts: &Fronts,
        fleet: &fleet::Fleet,
        folder: &Path,
        token: &str,
    ) -> Result<Self> {
        let api = &fleet.apis[&Kind::Own];
        Ok(Self {
            links: fleet::links(Route::WebSocket, api, fronts, folder)?,
            folder: folder.to_owned(),
            token: token.to_owned(),
            came: AtomicUsize::new(0),
        })
    }

    /// A new agent, as soon as it answers through every replica.
    pub(crate) async fn new_agent(&self, replicas: &Replicas) -> Result<Guest> {
        let came = Instant::now();
        let (agent, process) = self.start(&self.links).await?;
        let reached = reachable(replicas, std::slice::from_ref(&agent), &self.token).await;
        reached.with_context(|| process.process.tail())?;
        Ok(Guest {
            agent,
            after: came.elapsed(),
            process,
        })
    }

    /// Asks a guest through every replica, once.
    pub(crate) async fn ask(&self, guest: &Guest, replicas: &Replicas) -> Result<()> {
        for replica in &replicas.members {
            let url = format!("http://127.0.0.1:{}/k8s-proxy/bytes/1", replica.users);
            let bearer = format!("pat:{}:{}", guest.agent.id, self.token);
            let answer = tests::http::get(&url, &bearer).await?;
            ensure!(
                answer.status().is_success(),
                "{answer:?}\n{}",
                guest.process.process.tail()
            );
        }
        Ok(())
    }

    /// One more pod of `agent`, at this port of kas.
    pub(crate) fn pod(&self, agent: &Agent, port: u16) -> Result<Agentk> {
        let token = std::fs::read_to_string(self.folder.join(format!("{}.token", agent.name)))?;
        let links = Links {
            kas: format!("ws://127.0.0.1:{port}/"),
            ..self.links.clone()
        };
        let name = format!("{}-pod-{port}", agent.name);
        Agentk::run(programs::own_agentk()?, &name, &links, &token, &self.folder)
    }

    /// A new agent whose API accepts connections and says nothing, with so many requests for it that
    /// came in at this port.
    pub(crate) async fn silent(&self, users: u16, requests: usize) -> Result<Silent> {
        let api = TcpListener::bind(("127.0.0.1", 0)).await?;
        let links = Links {
            kubeconfig: counting_api::kubeconfig(api.local_addr()?.port(), &self.folder)?,
            ..self.links.clone()
        };
        let (agent, process) = self.start(&links).await?;
        let url = format!("http://127.0.0.1:{users}/k8s-proxy/bytes/1");
        let bearer = format!("pat:{}:{}", agent.id, self.token);
        let mut sent = JoinSet::new();
        for _ in 0..requests {
            let (url, bearer) = (url.clone(), bearer.clone());
            sent.spawn(async move {
                // Again while the agent is not there yet; it is the others whose answers matter.
                loop {
                    tests::http::get(&url, &bearer).await.ok();
                    sleep(PAUSE).await;
                }
            });
        }
        let mut silence = Vec::new();
        let arrived = async {
            while silence.len() < requests {
                silence.push(api.accept().await?.0);
            }
            anyhow::Ok(())
        };
        let arrived = tokio::time::timeout(ARRIVE, arrived).await;
        arrived.with_context(|| process.process.tail())??;
        Ok(Silent {
            _process: process,
            _silence: silence,
            _requests: sent,
        })
    }

    async fn start(&self, links: &Links) -> Result<(Agent, Agentk)> {
        let number = FIRST + self.came.fetch_add(1, Ordering::Relaxed);
        let (name, id) = (format!("guest-{number}"), number.to_string());
        let token = fleet::create(&name, &id, &self.folder).await?;
        let process = Agentk::run(programs::own_agentk()?, &name, links, &token, &self.folder)?;
        let kind = Kind::Own;
        Ok((Agent { id, name, kind }, process))
    }
}

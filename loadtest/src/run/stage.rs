//! Everything that a run starts: GitLab's part, Redis, replicas, links, load balancers, agents.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, ensure};
use tokio::sync::Mutex;

use super::{
    agents::{Agents, Way},
    attached,
    census::Census,
};
use crate::{
    chaos::Chaos,
    output,
    scenario::Scenario,
    topology::{ControlPlane, GitLab, Product, Replica, Setup, Store, ports::loopback},
};

/// A topology that runs.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) place: Place,
    pub(super) census: Arc<Census>,
    pub(super) replicas: Vec<Mutex<Replica>>,
    pub(super) redis: Option<Mutex<Option<Store>>>,
    pub(super) links: Links,
    pub(super) agents: Agents,
    pub(super) redis_server: PathBuf,
    pub(super) logs: PathBuf,
    /// The names of replicas, and their memory before an agent came.
    pub(super) empty_kib: Vec<(String, u64)>,
    _gitlab: Option<GitLab>,
}

/// Where traffic goes and figures come from.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The Kubernetes API proxy, without a slash at the end.
    pub(super) url: String,
    /// The bearer token, with `{agent}` for the number.
    pub(super) bearer: String,
    pub(super) certificate: Option<PathBuf>,
    /// `host:port` of Redis.
    pub(super) redis: Option<String>,
    /// Name and URL of each replica's metrics.
    pub(super) metrics: Vec<(String, String)>,
}

/// Links that can be disturbed.
#[derive(Debug, Default)]
pub(super) struct Links {
    pub(super) agents: Option<Chaos>,
    pub(super) users: Option<Chaos>,
    pub(super) redis: Vec<Chaos>,
    pub(super) peers: Vec<Chaos>,
}

impl Stage {
    /// Starts what the scenario asks for; the agents have begun to connect when this returns.
    pub(super) async fn start(
        scenario: &Scenario,
        program: &Path,
        redis_server: &Path,
        logs: &Path,
    ) -> anyhow::Result<Self> {
        match &scenario.topology.attach {
            Some(attach) => attached::start(scenario, attach, logs),
            None => Self::own(scenario, program, redis_server, logs).await,
        }
    }

    async fn own(
        scenario: &Scenario,
        program: &Path,
        redis_server: &Path,
        logs: &Path,
    ) -> anyhow::Result<Self> {
        let topology = &scenario.topology;
        let product = topology.target;
        let control = ControlPlane::write(logs, scenario.fleet.agents)?;
        let gitlab = match product {
            Product::Kas => None,
            Product::GoKas => Some(GitLab::start(&control).await?),
        };
        let redis = if topology.replicas > 1 || product.needs_redis() {
            Some(Store::start(redis_server, logs).await?)
        } else {
            None
        };
        let mut setup = Setup {
            product,
            tls: topology.tls,
            gitlab: gitlab.as_ref().map(GitLab::port),
            ..Setup::new(program.to_owned())
        };
        let census = Arc::new(Census::default());
        let (mut replicas, mut links, mut empty_kib) = (Vec::new(), Links::default(), Vec::new());
        for number in 1..=topology.replicas {
            if let Some(redis) = &redis {
                let link = Chaos::start(&[redis.port()]).await?;
                setup.redis = Some(link.port());
                links.redis.push(link);
            }
            let name = format!("replica {number}");
            let mut replica =
                Replica::prepare(&format!("replica-{number}"), &setup, &control, logs)?;
            let from_peers = Chaos::start(&[replica.ports.peers]).await?;
            replica.publish(from_peers.port());
            links.peers.push(from_peers);
            output::progress(&format!("starting {name}"));
            replica.launch().await?;
            census.came(&name, replica.pid()?);
            empty_kib.push((name.clone(), replica.sample()?.resident));
            replicas.push(replica);
        }
        if let Some(redis) = &redis {
            census.came("redis", redis.pid());
        }
        census.came("loadtest", rustix::process::getpid());
        let place = links
            .connect(scenario, &replicas, &control, redis.as_ref())
            .await?;
        let way = Way {
            addresses: links.addresses(scenario, &replicas),
            tokens: control.tokens.clone(),
            certificate: topology.tls.then(|| control.certificate.clone()),
        };
        let agents = Agents::start(scenario, &way, logs)?;
        census.came("fleet", agents.pid());
        Ok(Self {
            place,
            census,
            replicas: replicas.into_iter().map(Mutex::new).collect(),
            redis: redis.map(|redis| Mutex::new(Some(redis))),
            links,
            agents,
            redis_server: redis_server.to_owned(),
            logs: logs.to_owned(),
            empty_kib,
            _gitlab: gitlab,
        })
    }

    /// What runs when a kas of somebody else is attached to.
    pub(super) fn of_others(place: Place, census: Census, agents: Agents, logs: &Path) -> Self {
        Self {
            place,
            census: Arc::new(census),
            replicas: Vec::new(),
            redis: None,
            links: Links::default(),
            agents,
            redis_server: PathBuf::new(),
            logs: logs.to_owned(),
            empty_kib: Vec::new(),
            _gitlab: None,
        }
    }

    /// Ends everything that was started; gives the failures that the agents counted.
    pub(super) async fn end(self) -> BTreeMap<String, u64> {
        let failures = self.agents.end().await;
        let replicas = self.replicas.into_iter().map(|it| it.into_inner().end());
        futures_util::future::join_all(replicas).await;
        if let Some(redis) = self.redis.and_then(Mutex::into_inner) {
            redis.end().await;
        }
        failures
    }
}

impl Links {
    /// Puts load balancers in front of users' and agents' ports, where they are needed.
    async fn connect(
        &mut self,
        scenario: &Scenario,
        replicas: &[Replica],
        control: &ControlPlane,
        redis: Option<&Store>,
    ) -> anyhow::Result<Place> {
        if scenario.topology.balancer {
            let ports: Vec<_> = replicas.iter().map(|it| it.ports.agents).collect();
            self.agents = Some(Chaos::start(&ports).await?);
        }
        let ports: Vec<_> = replicas.iter().map(|it| it.ports.users).collect();
        ensure!(!ports.is_empty(), "there is no replica");
        let users = if ports.len() == 1 && !scenario.disturbs_users() {
            ports[0]
        } else {
            let users = Chaos::start(&ports).await?;
            self.users.insert(users).port()
        };
        let metrics = |it: &Replica| {
            let url = format!("http://{}/metrics", loopback(it.ports.observability));
            (it.name.replace('-', " "), url)
        };
        Ok(Place {
            url: format!("http://{}/k8s-proxy", loopback(users)),
            bearer: control.bearer("{agent}"),
            certificate: None,
            redis: redis.map(|redis| loopback(redis.port())),
            metrics: replicas.iter().map(metrics).collect(),
        })
    }

    fn addresses(&self, scenario: &Scenario, replicas: &[Replica]) -> Vec<String> {
        let Some(balancer) = &self.agents else {
            return replicas.iter().map(Replica::kas_address).collect();
        };
        let scheme = if scenario.topology.tls { "wss" } else { "ws" };
        vec![format!("{scheme}://{}/", loopback(balancer.port()))]
    }
}

impl Stage {
    /// The replica of this number, from 1.
    pub(super) fn replica(&self, number: usize) -> anyhow::Result<&Mutex<Replica>> {
        let index = number.checked_sub(1);
        let replica = index.and_then(|index| self.replicas.get(index));
        replica.with_context(|| format!("there is no replica {number}"))
    }
}

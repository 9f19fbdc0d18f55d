//! Everything that a run starts: GitLab's part, Redis, replicas, links, load balancers, agents.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::ensure;
use tokio::sync::Mutex;

use super::agents::{Agents, FleetOptions};
use crate::{
    chaos::Chaos,
    faults::{FaultSubjects, Links, ProcessTable},
    output,
    ports::loopback,
    scenario::Scenario,
    topology::{ControlPlane, GitLab, Product, Replica, Setup, Store},
};

/// A topology that runs.
#[derive(Debug)]
pub(super) struct Environment {
    pub(super) endpoints: Endpoints,
    pub(super) subjects: FaultSubjects,
    pub(super) agents: Agents,
    /// The names of replicas, and their memory before an agent came.
    pub(super) empty_kib: Vec<(String, u64)>,
    pub(super) _gitlab: Option<GitLab>,
}

/// Where traffic goes and figures come from.
#[derive(Debug, Clone)]
pub(super) struct Endpoints {
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

impl Environment {
    /// Starts all that the scenario asks for; the agents have begun to connect when this returns.
    pub(super) async fn start(
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
            tls: topology.scheme.is_tls(),
            websocket: topology.scheme.is_websocket(),
            gitlab: gitlab.as_ref().map(GitLab::port),
            ..Setup::new(program.to_owned())
        };
        let processes = Arc::new(ProcessTable::default());
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
            if product == Product::Kas {
                output::progress(&format!("operators of {name}: {}", replica.admin_url()));
            }
            processes.insert(&name, replica.pid()?);
            empty_kib.push((name.clone(), replica.sample()?.resident));
            replicas.push(replica);
        }
        if let Some(redis) = &redis {
            processes.insert("redis", redis.pid());
        }
        processes.insert("loadtest", rustix::process::getpid());
        let endpoints = connect(&mut links, scenario, &replicas, &control, redis.as_ref()).await?;
        let options = FleetOptions {
            addresses: addresses(&links, &setup, &replicas),
            tokens: control.tokens.clone(),
            certificate: topology
                .scheme
                .is_tls()
                .then(|| control.certificate.clone()),
        };
        let agents = Agents::start(scenario, &options, logs)?;
        processes.insert("fleet", agents.pid());
        Ok(Self {
            endpoints,
            subjects: FaultSubjects {
                links,
                processes,
                replicas: replicas.into_iter().map(Mutex::new).collect(),
                redis: redis.map(|redis| Mutex::new(Some(redis))),
                redis_server: redis_server.to_owned(),
                logs: logs.to_owned(),
            },
            agents,
            empty_kib,
            _gitlab: gitlab,
        })
    }

    /// Ends everything that was started; gives the failures that the agents counted.
    pub(super) async fn end(self) -> BTreeMap<String, u64> {
        let failures = self.agents.end().await;
        self.subjects.end().await;
        failures
    }
}

/// Puts load balancers in front of users' and agents' ports, where they are needed.
async fn connect(
    links: &mut Links,
    scenario: &Scenario,
    replicas: &[Replica],
    control: &ControlPlane,
    redis: Option<&Store>,
) -> anyhow::Result<Endpoints> {
    if scenario.topology.balancer {
        let ports: Vec<_> = replicas.iter().map(|it| it.ports.agents).collect();
        links.agents = Some(Chaos::start(&ports).await?);
    }
    let ports: Vec<_> = replicas.iter().map(|it| it.ports.users).collect();
    ensure!(!ports.is_empty(), "there is no replica");
    let users = if ports.len() == 1 && !scenario.disturbs_users() {
        ports[0]
    } else {
        let users = Chaos::start(&ports).await?;
        links.users.insert(users).port()
    };
    let metrics = |it: &Replica| {
        let url = format!("http://{}/metrics", loopback(it.ports.observability));
        (it.name.replace('-', " "), url)
    };
    Ok(Endpoints {
        url: format!("http://{}/k8s-proxy", loopback(users)),
        bearer: control.bearer("{agent}"),
        certificate: None,
        redis: redis.map(|redis| loopback(redis.port())),
        metrics: replicas.iter().map(metrics).collect(),
    })
}

fn addresses(links: &Links, setup: &Setup, replicas: &[Replica]) -> Vec<String> {
    match &links.agents {
        Some(balancer) => vec![setup.address_of_agents(balancer.port())],
        None => replicas.iter().map(Replica::kas_address).collect(),
    }
}

//! Agents that kas dials, with real agents in this process: who is dialled, by
//! whom, and what happens to wrong ones.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agentk::{ClusterSource, Config, Link, Receptive, Token};
use base64::{Engine, engine::general_purpose::STANDARD};
use kas::{
    agent_api::{AgentApi, AgentMetrics, Leaving, Settings},
    control_plane::{
        ControlPlane,
        standalone::{
            EditError, Standalone, edit,
            receptive::{JwtEntry, MtlsEntry, ReceptiveEntry},
            tokens::{TokenEntry, TokenKind},
        },
    },
    receptive::{Keeper, ReceptiveStates},
    tracker::Tracker,
};
use prometheus_client::registry::Registry as Metrics;
use router::{
    AgentId, Owner, Registry, ReplicaId, RoutingTable,
    store::memory::{MemoryStore, MemoryTable},
};
use runtime::{drain::Drain, tls::Identity};
use tests::{certs::Certs, ports};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

const AGENT: AgentId = AgentId(1);
const OTHER: AgentId = AgentId(2);

/// A file of agents, and a table that replicas share.
struct Site {
    folder: tempfile::TempDir,
    control_plane: Arc<Standalone>,
    store: MemoryStore,
    certs: Certs,
}

/// What serves the connections of one replica.
struct Replica {
    registry: Arc<Registry>,
    metrics: Metrics,
    drain: Drain,
    _keeper: AbortOnDropHandle<()>,
}

/// An agent that waits to be dialled.
struct Waiting {
    port: u16,
    _running: AbortOnDropHandle<()>,
}

/// How kas and an agent prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    Jwt,
    Certificate,
}

impl Site {
    fn new() -> Self {
        Self::with(Certs::create)
    }

    fn with(certs: impl FnOnce(&Path) -> anyhow::Result<Certs>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agents.yaml");
        edit(&file, |_| Ok::<_, EditError>(())).unwrap();
        let control_plane = Arc::new(Standalone::open(&file).unwrap());
        tokio::spawn(control_plane.clone().follow(CancellationToken::new()));
        Self {
            certs: certs(&folder.path().join("certs")).unwrap(),
            folder,
            control_plane,
            store: MemoryStore::default(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes an agent and gives its token.
    fn agent(&self, id: AgentId) -> String {
        let token = TokenKind::Agent.generate().unwrap();
        let entry = TokenEntry::new(&token, jiff::Timestamp::now());
        edit(&self.path("agents.yaml"), |document| {
            document.create_agent(&format!("agent-{id}"), Some(id.0), entry)
        })
        .unwrap();
        token.expose().to_owned()
    }

    /// Writes a key pair; gives the files of the private and the public key.
    fn keys(&self, name: &str) -> (PathBuf, PathBuf) {
        let keys = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let (private, public) = (
            self.path(&format!("{name}.key")),
            self.path(&format!("{name}.pub")),
        );
        std::fs::write(&private, keys.serialize_pem()).unwrap();
        std::fs::write(&public, STANDARD.encode(keys.public_key_raw())).unwrap();
        (private, public)
    }

    /// Has an agent dialled.
    fn dial(&self, id: AgentId, url: String, private_key: &Path, proof: Proof) {
        let tls = url.starts_with("grpcs") || url.starts_with("wss");
        let mtls = MtlsEntry {
            certificate_file: self.certs.certificate.clone(),
            key_file: self.certs.key.clone(),
        };
        let jwt = JwtEntry {
            private_key_file: private_key.to_owned(),
        };
        let entry = ReceptiveEntry {
            url,
            jwt: (proof == Proof::Jwt).then_some(jwt),
            mtls: (proof == Proof::Certificate).then_some(mtls),
            ca_certificate_file: tls.then(|| self.certs.ca.clone()),
            tls_server_name: None,
        };
        edit(&self.path("agents.yaml"), |document| {
            document.receive_agent(&format!("agent-{id}"), entry)
        })
        .unwrap();
    }

    /// Starts an agent that lets in who has the other key, or a certificate.
    fn waiting(&self, token: &str, public_key: &Path, tls: bool, proof: Proof) -> Waiting {
        let port = ports::free();
        let identity = Identity {
            certificate: self.certs.certificate.clone(),
            key: self.certs.key.clone(),
        };
        let receptive = Receptive {
            address: format!("127.0.0.1:{port}"),
            tls: tls.then_some(identity),
            client_ca: (proof == Proof::Certificate).then(|| self.certs.ca.clone()),
            key: (proof == Proof::Jwt).then(|| public_key.to_owned()),
        };
        let config = Config::linked(
            Link::Receive(receptive),
            Token::Fixed(token.to_owned().into()),
            ClusterSource::Server("http://127.0.0.1:1".to_owned()),
        );
        let running = agentk::run(config, CancellationToken::new(), CancellationToken::new());
        let running = tokio::spawn(async move { running.await.unwrap() });
        Waiting {
            port,
            _running: AbortOnDropHandle::new(running),
        }
    }

    fn table(&self, name: &str) -> Arc<MemoryTable> {
        Arc::new(self.store.table(Owner {
            replica: ReplicaId::new(name),
            url: format!("grpc://{name}"),
        }))
    }

    fn replica(&self, name: &str) -> Replica {
        let table = self.table(name);
        let registry = Registry::new(table.clone());
        let settings = Settings {
            max_connection_age: Duration::from_secs(7200),
            connections_per_token_per_minute: 1000,
            leaving: Leaving::default(),
            external_url: String::new(),
            events: None,
        };
        let api = AgentApi::new(
            settings,
            self.control_plane.clone(),
            registry.clone(),
            table.clone(),
            Tracker::new(table.clone()),
            AgentMetrics::default(),
        );
        let states = ReceptiveStates::default();
        let mut metrics = Metrics::default();
        states.register(&mut metrics);
        let drain = Drain::new();
        let keeper = Keeper::new(ReplicaId::new(name), api, table, states);
        let keeper = keeper.run(self.control_plane.receptive_agents(), drain.clone());
        Replica {
            registry,
            metrics,
            drain,
            _keeper: AbortOnDropHandle::new(tokio::spawn(keeper)),
        }
    }
}

impl Replica {
    fn holds(&self, agent: AgentId) -> bool {
        self.registry.presence(agent).idle > 0
    }

    fn shows(&self, agent: AgentId, state: &str) -> bool {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics).unwrap();
        text.contains(&format!(
            r#"receptive_agent{{agent_id="{agent}",state="{state}"}} 1"#
        ))
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let looking = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(30), looking).await;
    assert!(found.is_ok(), "{what}");
}

#[tokio::test]
async fn agents_are_dialled_over_every_transport() {
    let site = Site::new();
    let token = site.agent(AGENT);
    let (private, public) = site.keys("keys");
    let replica = site.replica("a");
    for (scheme, proof) in [
        ("grpc", Proof::Jwt),
        ("ws", Proof::Jwt),
        ("grpcs", Proof::Jwt),
        ("wss", Proof::Jwt),
        ("grpcs", Proof::Certificate),
        ("wss", Proof::Certificate),
    ] {
        let tls = scheme.ends_with('s') && scheme != "ws";
        let agent = site.waiting(&token, &public, tls, proof);
        let url = format!("{scheme}://localhost:{}/a/path", agent.port);

        site.dial(AGENT, url, &private, proof);

        until(scheme, || {
            replica.holds(AGENT) && replica.shows(AGENT, "connected")
        })
        .await;
        drop(agent);
        until("its end", || !replica.holds(AGENT)).await;
    }
}

#[tokio::test]
async fn an_agent_that_comes_back_is_dialled_again_and_one_that_is_not_listed_any_more_is_let_go() {
    let site = Site::new();
    let token = site.agent(AGENT);
    let (private, public) = site.keys("keys");
    let replica = site.replica("a");
    let nobody = ports::free();
    site.dial(
        AGENT,
        format!("ws://127.0.0.1:{nobody}"),
        &private,
        Proof::Jwt,
    );
    until("the reason", || replica.shows(AGENT, "unreachable")).await;

    let agent = site.waiting(&token, &public, false, Proof::Jwt);
    site.dial(
        AGENT,
        format!("ws://127.0.0.1:{}", agent.port),
        &private,
        Proof::Jwt,
    );
    until("the agent", || replica.holds(AGENT)).await;

    edit(&site.path("agents.yaml"), |document| {
        document.agents[0].value.receptive = None;
        Ok::<_, EditError>(())
    })
    .unwrap();
    until("its end", || {
        !replica.holds(AGENT) && !replica.shows(AGENT, "connected")
    })
    .await;
}

#[tokio::test]
async fn an_agent_moves_to_the_replica_that_joins_without_a_gap() {
    let site = Site::new();
    let token = site.agent(AGENT);
    let (private, public) = site.keys("keys");
    let first = site.replica("a");
    let agent = site.waiting(&token, &public, false, Proof::Jwt);
    site.dial(
        AGENT,
        format!("grpc://127.0.0.1:{}", agent.port),
        &private,
        Proof::Jwt,
    );
    until("the agent", || first.holds(AGENT)).await;
    let mut changes = site.store.changes(AGENT);
    let store = site.store.clone();
    let watching = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            assert!(!store.owners(AGENT).is_empty(), "nobody holds the agent");
            changes.changed().await.unwrap();
        }
    }));

    // The ring decides who has the duty: replicas join until it moves.
    let table = site.table("a");
    let mut joined = Vec::new();
    while table.ring().duty(AGENT) == Some(&ReplicaId::new("a")) {
        joined.push(site.replica(&format!("b{}", joined.len())));
    }
    let second = joined.last().unwrap();

    until("the move", || second.holds(AGENT) && !first.holds(AGENT)).await;
    assert!(!watching.is_finished());
    assert_eq!(site.store.owners(AGENT).len(), 1);
    assert!(second.shows(AGENT, "connected") && !first.shows(AGENT, "connected"));
}

#[tokio::test]
async fn a_replica_that_drains_lets_its_agents_go_to_another() {
    let site = Site::new();
    let token = site.agent(AGENT);
    let (private, public) = site.keys("keys");
    let first = site.replica("a");
    let agent = site.waiting(&token, &public, false, Proof::Jwt);
    site.dial(
        AGENT,
        format!("ws://127.0.0.1:{}", agent.port),
        &private,
        Proof::Jwt,
    );
    until("the agent", || first.holds(AGENT)).await;

    site.table("a").leave().await;
    let second = site.replica("b");
    first.drain.start();

    until("the move", || second.holds(AGENT) && !first.holds(AGENT)).await;
    assert!(first.drain.finished(Duration::from_secs(20)).await);
}

#[tokio::test]
async fn what_is_wrong_is_said_of_each_agent_and_disturbs_no_other() {
    let site = Site::new();
    let (token, stranger) = (site.agent(AGENT), site.agent(OTHER));
    let (private, public) = site.keys("keys");
    let (wrong, _) = site.keys("wrong");
    let replica = site.replica("a");
    let other = site.waiting(&stranger, &public, false, Proof::Jwt);
    let there = |waiting: &Waiting| format!("grpc://127.0.0.1:{}", waiting.port);
    site.dial(OTHER, there(&other), &private, Proof::Jwt);
    until("the other agent", || replica.holds(OTHER)).await;

    let agent = site.waiting(&token, &public, false, Proof::Jwt);
    site.dial(AGENT, there(&agent), &wrong, Proof::Jwt);
    until("the refusal", || replica.shows(AGENT, "refused")).await;
    site.dial(AGENT, there(&agent), &site.path("missing"), Proof::Jwt);
    until("the missing key", || replica.shows(AGENT, "credentials")).await;
    site.dial(AGENT, there(&other), &private, Proof::Jwt);
    until("the stranger", || replica.shows(AGENT, "another_agent")).await;
    let unknown = site.waiting("unknown", &public, false, Proof::Jwt);
    site.dial(AGENT, there(&unknown), &private, Proof::Jwt);
    until("the bad token", || replica.shows(AGENT, "token")).await;
    let guarded = site.waiting(&token, &public, true, Proof::Certificate);
    let tls = format!("grpcs://localhost:{}", guarded.port);
    site.dial(AGENT, tls, &private, Proof::Jwt);
    until("the missing certificate", || {
        replica.shows(AGENT, "tls")
            || replica.shows(AGENT, "protocol")
            || replica.shows(AGENT, "refused")
    })
    .await;

    assert!(!replica.holds(AGENT));
    assert!(replica.shows(OTHER, "connected"));
    assert_eq!(
        replica.registry.presence(OTHER).idle,
        replica.registry.presence(OTHER).alive
    );
    site.dial(AGENT, there(&agent), &private, Proof::Jwt);
    until("the agent", || {
        replica.holds(AGENT) && replica.shows(AGENT, "connected")
    })
    .await;
}

#[tokio::test]
async fn an_expired_certificate_of_the_agent_is_named() {
    let site = Site::with(Certs::expired);
    let token = site.agent(AGENT);
    let (private, public) = site.keys("keys");
    let replica = site.replica("a");
    let agent = site.waiting(&token, &public, true, Proof::Jwt);

    let url = format!("wss://localhost:{}", agent.port);
    site.dial(AGENT, url, &private, Proof::Jwt);

    until("the reason", || replica.shows(AGENT, "tls")).await;
    assert!(!replica.holds(AGENT));
}

//! Replicas and receptive agents in this process, with a file of agents and a
//! table that replicas share.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agent_gateway::{
    AgentGateway, AgentMetrics, ReceptiveStates, ReceptiveSupervisor, Services, Settings, Tracker,
    config::ReceptiveForm,
};
use agentk::{ClusterSource, Config, Link, PrivateApi, Receptive, Token};
use base64::{Engine, engine::general_purpose::STANDARD};
use cluster_state::{
    AgentId, Owner, ReplicaId,
    memory::{MemoryStore, MemoryTable},
};
use control_plane::{
    ControlPlane,
    standalone::{
        EditError, Standalone, edit,
        receptive::{JwtEntry, MtlsEntry, ReceptiveEntry},
        tokens::{TokenEntry, TokenKind},
    },
};
use prometheus_client::registry::Registry as Metrics;
use router::Registry;
use runtime::{drain::Drain, tls::Identity};
use tests::{certs::Certs, ports, wait};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// For what has no deadline of its own.
const SOON: Duration = Duration::from_secs(60);

/// A file of agents, and a table that replicas share.
pub(crate) struct Site {
    folder: tempfile::TempDir,
    control_plane: Arc<Standalone>,
    pub(crate) store: MemoryStore,
    pub(crate) certs: Certs,
}

/// What serves the connections of one replica.
pub(crate) struct Replica {
    pub(crate) registry: Arc<Registry>,
    metrics: Metrics,
    pub(crate) drain: Drain,
    _supervisor: AbortOnDropHandle<()>,
}

/// An agent that waits to be dialled.
pub(crate) struct Waiting {
    pub(crate) port: u16,
    _running: AbortOnDropHandle<()>,
}

/// How kas and an agent prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    Jwt,
    Certificate,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::with(Certs::create)
    }

    pub(crate) fn with(certs: impl FnOnce(&Path) -> anyhow::Result<Certs>) -> Self {
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

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes an agent and gives its token.
    pub(crate) fn agent(&self, id: AgentId) -> String {
        let token = TokenKind::Agent.generate().unwrap();
        let entry = TokenEntry::new(&token, jiff::Timestamp::now());
        edit(&self.path("agents.yaml"), |document| {
            document.create_agent(&format!("agent-{id}"), Some(id.0), entry)
        })
        .unwrap();
        token.expose().to_owned()
    }

    /// Writes a key pair; gives the files of the private and the public key.
    pub(crate) fn keys(&self, name: &str) -> (PathBuf, PathBuf) {
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
    pub(crate) fn dial(&self, id: AgentId, url: String, private_key: &Path, proof: Proof) {
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
    pub(crate) fn waiting(
        &self,
        token: &str,
        public_key: &Path,
        tls: bool,
        proof: Proof,
    ) -> Waiting {
        self.pod(token, public_key, tls, proof, None)
    }

    /// The same, with a way for the agent's pods to each other.
    pub(crate) fn pod(
        &self,
        token: &str,
        public_key: &Path,
        tls: bool,
        proof: Proof,
        private_api: Option<PrivateApi>,
    ) -> Waiting {
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
            private_api,
        };
        let config = Config::linked(
            Link::Receive(Box::new(receptive)),
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

    pub(crate) fn table(&self, name: &str) -> Arc<MemoryTable> {
        Arc::new(self.store.table(Owner {
            replica: ReplicaId::new(name),
            url: format!("grpc://{name}"),
        }))
    }

    pub(crate) fn replica(&self, name: &str) -> Replica {
        self.replica_of(name, ReceptiveForm::default())
    }

    /// The same, with this form of dialled connections.
    pub(crate) fn replica_of(&self, name: &str, form: ReceptiveForm) -> Replica {
        let table = self.table(name);
        let registry = Registry::new(table.clone());
        let tracker = Tracker::new(table.clone());
        let services = Services::standard(self.control_plane.clone(), tracker, String::new(), None);
        let settings = Settings::new(services);
        let gateway = AgentGateway::new(
            settings,
            self.control_plane.clone(),
            registry.clone(),
            table.clone(),
            AgentMetrics::default(),
        );
        let states = ReceptiveStates::default();
        let mut metrics = Metrics::default();
        states.register(&mut metrics);
        let drain = Drain::new();
        let supervisor =
            ReceptiveSupervisor::new(ReplicaId::new(name), gateway, table, states, "kas");
        let supervisor = supervisor.with_form(form);
        let running = supervisor.run(self.control_plane.receptive_agents(), drain.clone());
        Replica {
            registry,
            metrics,
            drain,
            _supervisor: AbortOnDropHandle::new(tokio::spawn(running)),
        }
    }
}

impl Replica {
    pub(crate) fn holds(&self, agent: AgentId) -> bool {
        self.registry.tunnels(agent).idle > 0
    }

    pub(crate) fn shows(&self, agent: AgentId, state: &str) -> bool {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics).unwrap();
        text.contains(&format!(
            r#"receptive_agent{{agent_id="{agent}",state="{state}"}} 1"#
        ))
    }
}

/// Waits for a condition, and fails if it does not come.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let found = wait::until(what, SOON, async || condition().then_some(())).await;
    found.unwrap();
}

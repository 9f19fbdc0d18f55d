//! Replicas in the test's own process, and the standalone control plane that they share. A module of several tests.

use std::{net::SocketAddr, path::Path, sync::Arc};

use agent_gateway::{Services, Tracker, config::ReceptiveForm};
use cluster_state::{Owner, ReplicaId, memory::MemoryStore};
use control_plane::{
    Token,
    notifications::Notifications,
    standalone::{
        Standalone,
        access_as::AccessAs,
        change::{CallerKind, ChangeError},
        edit,
        file::{Agents, Rule},
        names::Name,
        tokens::{TokenEntry, TokenKind},
    },
};
use kas::{
    private_api::Tokens,
    replica::{PeerSettings, Port, Replica, Setup},
};
use prometheus_client::registry::Registry as Metrics;
use runtime::{
    connect::ConnectOptions,
    jwt::Secret,
    listen::{AgentAcceptor, AgentAcceptorOptions, PlainAcceptor, bind},
};
use user_gateway::Graph;

/// Tokens of agents 1, 2 and so on, and of a user who may use them all.
pub(crate) struct Site {
    pub(crate) control_plane: Arc<Standalone>,
    pub(crate) agents: Vec<Token>,
    pub(crate) user: Token,
}

impl Site {
    pub(crate) fn with_agents(agents: usize, folder: &Path) -> Self {
        let file = folder.join("agents.yaml");
        let tokens = (0..agents).map(|_| TokenKind::Agent.generate().unwrap());
        let tokens: Vec<_> = tokens.collect();
        let user = TokenKind::User.generate().unwrap();
        let now = jiff::Timestamp::now();
        edit(&file, |document| {
            for (token, id) in tokens.iter().zip(1..) {
                let entry = TokenEntry::new(token, now);
                document.create_agent(&format!("agent-{id}"), Some(id), entry)?;
            }
            let entry = TokenEntry::new(&user, now);
            document.create_caller(CallerKind::User, "ana", &[], entry)?;
            document.grant(Rule {
                agents: Agents::All,
                users: vec![Name::try_from("ana".to_owned())?],
                services: Vec::new(),
                groups: Vec::new(),
                access_as: AccessAs::Agent,
                expires_at: None,
                record: control_plane::RecordSessions::No,
            })?;
            Ok::<_, ChangeError>(())
        })
        .unwrap();
        Self {
            control_plane: Arc::new(Standalone::open(&file).unwrap()),
            agents: tokens,
            user,
        }
    }
}

/// A replica that serves, and where.
pub(crate) struct Serving {
    pub(crate) replica: Replica,
    pub(crate) agents: SocketAddr,
    pub(crate) users: SocketAddr,
}

/// Starts a replica of this number on ports of its own.
pub(crate) async fn start(number: usize, site: &Site, store: &MemoryStore) -> Serving {
    let local = "127.0.0.1:0";
    let (agents, users, peers) = (
        bind(local).await.unwrap(),
        bind(local).await.unwrap(),
        bind(local).await.unwrap(),
    );
    let (agents_at, users_at) = (agents.local_addr(), users.local_addr());
    let me = Owner {
        replica: ReplicaId::new(&format!("replica-{number}")),
        url: format!("grpc://{}", peers.local_addr()),
    };
    let table = Arc::new(store.table(me.clone()));
    let tracker = Tracker::new(table.clone());
    let services = Services::standard(site.control_plane.clone(), tracker, String::new(), None);
    let replica = Replica::start(Setup {
        graph: Graph::default(),
        table,
        notifications: Notifications::new(None),
        metrics: Metrics::default(),
        me,
        control_plane: site.control_plane.clone(),
        agents: Port {
            listener: agents.into(),
            acceptor: AgentAcceptor::new(AgentAcceptorOptions::default()),
            settings: agent_gateway::Settings::new(services),
        },
        receptive_form: ReceptiveForm::default(),
        users: Some(Port {
            listener: users.into(),
            acceptor: PlainAcceptor::new(None),
            settings: user_gateway::Settings::default(),
        }),
        peers: Some(Port {
            listener: peers.into(),
            acceptor: PlainAcceptor::new(None),
            settings: PeerSettings {
                tokens: Tokens::new(Secret::new(vec![7; 32])),
                dial: ConnectOptions::default(),
                own: "".into(),
            },
        }),
        gitlab: None,
        events: None,
        admin: None,
        max_agent_series: 1000,
        observability: None,
    });
    Serving {
        replica,
        agents: agents_at,
        users: users_at,
    }
}

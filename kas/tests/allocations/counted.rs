//! Replicas alone on the test's thread, so that all it allocates is theirs; agents and users are other processes.

use std::{
    fmt,
    io::{BufRead, BufReader},
    net::SocketAddr,
    ops::Range,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use allocation_counter::{AllocationInfo, measure};
use kas::{
    agent_api::{self, Leaving},
    control_plane::standalone::{
        Standalone,
        access_as::AccessAs,
        change::{CallerKind, ChangeError},
        edit,
        file::{Agents, Rule},
        names::Name,
        tokens::{TokenEntry, TokenKind},
    },
    kubernetes_api,
    notifications::Notifications,
    private_api::Tokens,
    replica::{PeerSettings, Port, Replica, Setup},
    tracker::Tracker,
};
use prometheus_client::registry::Registry as Metrics;
use router::{AgentId, Owner, ReplicaId, store::memory::MemoryStore};
use runtime::{
    connect::ConnectOptions,
    jwt::Secret,
    listen::{AgentAcceptor, AgentAcceptorOptions, PlainAcceptor, bind},
};
use tests::programs;
use tokio::runtime::{Builder, Runtime};

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(60);

/// Allocations, and their bytes, that were made; and bytes that are held on balance.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Count {
    pub(crate) made: f64,
    pub(crate) bytes: f64,
    pub(crate) held: f64,
}

impl Count {
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            made: self.made - earlier.made,
            bytes: self.bytes - earlier.bytes,
            held: self.held - earlier.held,
        }
    }

    pub(crate) fn and(self, later: Self) -> Self {
        Self {
            made: self.made + later.made,
            bytes: self.bytes + later.bytes,
            held: self.held + later.held,
        }
    }

    pub(crate) fn for_each(self, number: u64) -> Self {
        let number = number as f64;
        Self {
            made: self.made / number,
            bytes: self.bytes / number,
            held: self.held / number,
        }
    }
}

impl From<AllocationInfo> for Count {
    fn from(info: AllocationInfo) -> Self {
        Self {
            made: info.count_total as f64,
            bytes: info.bytes_total as f64,
            held: info.bytes_current as f64,
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} allocations of {:.0} bytes, {:.0} bytes held",
            self.made, self.bytes, self.held
        )
    }
}

/// Where the replicas are, and what opens them.
#[derive(Debug)]
pub(crate) struct Site {
    agents: Vec<SocketAddr>,
    users: Vec<SocketAddr>,
    tokens: Vec<String>,
    user_token: String,
    folder: PathBuf,
}

/// Replicas that share a routing table.
pub(crate) struct Server {
    runtime: Runtime,
    replicas: Vec<Replica>,
    site: Site,
    _folder: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start(replicas: usize, agents: usize) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agents.yaml");
        let all: Vec<_> = (0..agents)
            .map(|_| TokenKind::Agent.generate().unwrap())
            .collect();
        let user = TokenKind::User.generate().unwrap();
        let now = jiff::Timestamp::now();
        edit(&file, |document| {
            for (token, id) in all.iter().zip(1..) {
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
            })?;
            Ok::<_, ChangeError>(())
        })
        .unwrap();
        let mut server = Self {
            runtime,
            replicas: Vec::new(),
            site: Site {
                agents: Vec::new(),
                users: Vec::new(),
                tokens: all.iter().map(|it| it.expose().to_owned()).collect(),
                user_token: user.expose().to_owned(),
                folder: folder.path().to_owned(),
            },
            _folder: folder,
        };
        let control_plane = Arc::new(Standalone::open(&file).unwrap());
        let store = MemoryStore::default();
        for number in 0..replicas {
            server.add(number, &control_plane, &store);
        }
        server
    }

    fn add(&mut self, number: usize, control_plane: &Arc<Standalone>, store: &MemoryStore) {
        let _inside = self.runtime.enter();
        let listener = || self.runtime.block_on(bind("127.0.0.1:0")).unwrap();
        let (agents, users, peers) = (listener(), listener(), listener());
        self.site.agents.push(agents.local_addr());
        self.site.users.push(users.local_addr());
        let me = Owner {
            replica: ReplicaId::new(&format!("replica-{number}")),
            url: format!("grpc://{}", peers.local_addr()),
        };
        let table = Arc::new(store.table(me.clone()));
        self.replicas.push(Replica::start(Setup {
            tracker: Tracker::new(table.clone()),
            table,
            notifications: Notifications::new(None),
            metrics: Metrics::default(),
            me,
            control_plane: control_plane.clone(),
            agents: Port {
                listener: agents,
                acceptor: AgentAcceptor::new(AgentAcceptorOptions::default()),
                settings: agent_api::Settings {
                    max_connection_age: Duration::from_secs(7200),
                    connections_per_token_per_minute: 40_000,
                    leaving: Leaving::default(),
                    external_url: String::new(),
                    events: None,
                },
            },
            users: Some(Port {
                listener: users,
                acceptor: PlainAcceptor::new(None),
                settings: kubernetes_api::Settings::default(),
            }),
            peers: Some(Port {
                listener: peers,
                acceptor: PlainAcceptor::new(None),
                settings: PeerSettings {
                    tokens: Tokens::new(Secret::new(vec![7; 32])),
                    dial: ConnectOptions::default(),
                },
            }),
            gitlab: None,
            events: None,
            observability: None,
        }));
    }

    /// Serves while `work` goes on in another thread; tells what serving allocated.
    pub(crate) fn count<T: Send>(&self, work: impl FnOnce(&Site) -> T + Send) -> (T, Count) {
        let (over, ended) = tokio::sync::oneshot::channel();
        std::thread::scope(|scope| {
            let site = &self.site;
            let working = scope.spawn(move || {
                let result = work(site);
                let _ = over.send(());
                result
            });
            let info = measure(|| {
                // A worker that panicked is found out by joining it.
                let _ = self.runtime.block_on(ended);
            });
            (working.join().unwrap(), info.into())
        })
    }

    /// Serves until the first agents have both their tunnels idle and nothing else is new.
    pub(crate) fn idle(&self, agents: usize) -> Count {
        let registry = self.replicas[0].registry();
        let all_idle = || (1..=agents).all(|id| registry.presence(AgentId(id as i64)).idle >= 2);
        let settled = async {
            while !all_idle() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        measure(|| {
            let waiting = async { tokio::time::timeout(LONG, settled).await };
            self.runtime.block_on(waiting).expect("agents are not idle");
        })
        .into()
    }
}

/// Simulated agents in a process of their own; ended when dropped.
#[derive(Debug)]
pub(crate) struct Fleet(Child);

impl Fleet {
    /// Connects these agents to the first replica.
    pub(crate) fn connect(site: &Site, agents: Range<usize>) -> Self {
        let tokens = site.folder.join(format!("tokens-{}", agents.start));
        std::fs::write(&tokens, site.tokens[agents.clone()].join("\n")).unwrap();
        let mut child = Command::new(programs::loadtest().unwrap())
            .arg("fleet")
            .arg(format!("--kas-address=ws://{}/", site.agents[0]))
            .arg(format!("--token-file={}", tokens.display()))
            .arg(format!("--agents={}", agents.len()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines
            .map_while(Result::ok)
            .any(|line| line.starts_with("ready:"));
        assert!(ready, "the agents did not connect");
        Self(child)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes so many requests of 4 KiB to the first agents in turn, one at a time, all of which must succeed.
pub(crate) fn get(site: &Site, entry: usize, agents: usize, requests: u64) {
    let output = Command::new(programs::loadtest().unwrap())
        .arg("traffic")
        .arg(format!("--url=http://{}/json/4096", site.users[entry]))
        .arg(format!("--bearer=pat:{{agent}}:{}", site.user_token))
        .arg(format!("--agents=1-{agents}"))
        .arg(format!("--requests={requests}"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

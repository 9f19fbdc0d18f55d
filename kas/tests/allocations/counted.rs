//! Replicas alone on the test's thread, so that all it allocates is theirs; agents and users are other processes.

use std::{
    fmt,
    io::{BufRead, BufReader},
    net::SocketAddr,
    ops::Range,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use allocation_counter::{AllocationInfo, measure};
use cluster_state::{AgentId, memory::MemoryStore};
use tests::programs;
use tokio::runtime::{Builder, Runtime};

use crate::replica::{self, Serving};

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
    replicas: Vec<Serving>,
    site: Site,
    _folder: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start(replicas: usize, agents: usize) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let site = replica::Site::with_agents(agents, folder.path());
        let store = MemoryStore::default();
        let started = (0..replicas).map(|number| replica::start(number, &site, &store));
        let replicas: Vec<_> = started.map(|it| runtime.block_on(it)).collect();
        Self {
            site: Site {
                agents: replicas.iter().map(|it| it.agents).collect(),
                users: replicas.iter().map(|it| it.users).collect(),
                tokens: site
                    .agents
                    .iter()
                    .map(|it| it.expose().to_owned())
                    .collect(),
                user_token: site.user.expose().to_owned(),
                folder: folder.path().to_owned(),
            },
            runtime,
            replicas,
            _folder: folder,
        }
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
        let registry = self.replicas[0].replica.registry();
        let all_idle = || (1..=agents).all(|id| registry.tunnels(AgentId(id as i64)).idle >= 2);
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

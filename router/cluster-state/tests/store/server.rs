//! Redis servers of the tests' own: one, with sentinels, or a cluster.
//! `REDIS_SERVER` names another program than `redis-server`, as `make test-engines` does.

use std::{
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use cluster_state::redis::{Address, RedisOptions, Servers};
use runtime::tls::{ClientTls, ClientTlsOptions, Identity};
use tempfile::TempDir;

/// How often it is looked whether a server has started, or a cluster formed: for 60 s.
const START_LOOKS: u32 = 3000;
const LOOK: Duration = Duration::from_millis(20);

/// A child process, killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    pub(crate) folder: TempDir,
}

impl Server {
    /// An empty redis-server with these options besides.
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::on(free_port(), options)
    }

    /// The same on a known port.
    pub(crate) fn on(port: u16, options: &[&str]) -> Self {
        let memory_only = ["--save", "", "--appendonly", "no"];
        Self::run(&[], port, &[&memory_only, options].concat())
    }

    fn run(first: &[&str], port: u16, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port_text = port.to_string();
        let program = std::env::var_os("REDIS_SERVER").unwrap_or("redis-server".into());
        let mut command = Command::new(program);
        command.args(first).current_dir(folder.path());
        command.args(["--port", &port_text, "--bind", "127.0.0.1"]);
        command
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("redis-server is needed (Debian package redis-server): {error}")
        });
        let mut server = Self {
            child,
            port,
            folder,
        };
        // The last of several ports, or of twice the same option, is the one that counts.
        let listens = options.iter().rposition(|it| *it == "--tls-port");
        let port = listens.map_or(port, |index| options[index + 1].parse().unwrap());
        until("a Redis that listens", || {
            let ended = server.child.try_wait().unwrap();
            assert_eq!(ended, None, "redis-server at port {port}");
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        server
    }

    pub(crate) fn options(&self) -> RedisOptions {
        RedisOptions::new(Servers::Single(at(self.port)))
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([name, &id]).status().unwrap();
        assert!(sent.success());
    }

    /// Kills it at once.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// What redis-cli says.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        cli(self.port, arguments)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A master, a replica of it and three sentinels.
pub(crate) struct Sentinels {
    pub(crate) servers: Vec<Server>,
    sentinels: Vec<Server>,
}

impl Sentinels {
    pub(crate) fn start() -> Self {
        let master = Server::start(&["--repl-diskless-sync-delay", "0"]);
        let port = master.port.to_string();
        let replica = Server::start(&["--replicaof", "127.0.0.1", &port]);
        until("a replica that follows", || {
            replica
                .cli(&["info", "replication"])
                .contains("master_link_status:up")
        });
        let sentinels = (0..3).map(|_| Self::sentinel(&port)).collect();
        let sentinels = Self {
            servers: vec![master, replica],
            sentinels,
        };
        let known = |server: &Server| {
            let known = server.cli(&["sentinel", "master", "mm"]);
            let count = |name: &str| {
                let mut lines = known.lines().skip_while(|line| *line != name);
                lines.nth(1).map(str::to_owned)
            };
            count("num-slaves").as_deref() == Some("1")
                && count("num-other-sentinels").as_deref() == Some("2")
        };
        until("sentinels that know each other", || {
            sentinels.sentinels.iter().all(known)
        });
        sentinels
    }

    fn sentinel(master: &str) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sentinel.conf");
        let content = format!(
            "sentinel monitor mm 127.0.0.1 {master} 2\nsentinel down-after-milliseconds mm 1000\n\
             sentinel failover-timeout mm 3000\n"
        );
        std::fs::write(&file, content).unwrap();
        let first = [text(&file), "--sentinel"];
        let mut server = Server::run(&first, free_port(), &[]);
        server.folder = folder;
        server
    }

    pub(crate) fn options(&self) -> RedisOptions {
        RedisOptions::new(Servers::Sentinel {
            master: "mm".into(),
            sentinels: self.sentinels.iter().map(|it| at(it.port)).collect(),
            username: None,
            password: None,
        })
    }
}

/// A master and a sentinel, of which one speaks TLS only and asks for a certificate. The sentinel wants a user with
/// a password.
pub(crate) struct SecureSentinel {
    pub(crate) servers: Vec<Server>,
    _sentinel: Server,
    port: u16,
}

impl SecureSentinel {
    /// A sentinel with these lines in its file besides; the master is the server at `port`.
    pub(crate) fn start(servers: Vec<Server>, port: u16, sentinel_port: u16, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sentinel.conf");
        let content = format!(
            "user kas on >between allcommands allkeys allchannels\n\
             sentinel monitor mm 127.0.0.1 {port} 1\nsentinel down-after-milliseconds mm 1000\n\
             sentinel failover-timeout mm 3000\n{more}\n"
        );
        std::fs::write(&file, content).unwrap();
        let first = [text(&file), "--sentinel"];
        let tls = ["--tls-port", &sentinel_port.to_string()];
        let mut sentinel = if more.contains("tls-port") {
            Server::run(&first, 0, &tls)
        } else {
            Server::run(&first, sentinel_port, &[])
        };
        sentinel.folder = folder;
        Self {
            servers,
            _sentinel: sentinel,
            port: sentinel_port,
        }
    }

    /// Whether it could choose another master.
    pub(crate) fn knows_a_replica(&self, certificates: &Certificates) -> bool {
        let (certificate, key) = (certificates.certificate(), certificates.key());
        let (certificate, key) = (text(&certificate), text(&key));
        let tls = [
            "--tls",
            "--cacert",
            certificate,
            "--cert",
            certificate,
            "--key",
            key,
        ];
        let login = ["--user", "kas", "--pass", "between"];
        let known = cli(
            self.port,
            &[&tls[..], &login, &["sentinel", "replicas", "mm"]].concat(),
        );
        known.contains("master-link-status\nok")
    }

    pub(crate) fn options(&self) -> RedisOptions {
        RedisOptions::new(Servers::Sentinel {
            master: "mm".into(),
            sentinels: vec![at(self.port)],
            username: Some("kas".into()),
            password: Some("between".into()),
        })
    }
}

/// Three masters with a replica each.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Server>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let node = |_| {
            let bus = free_port().to_string();
            let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
            let at_once = ["--repl-diskless-sync-delay", "0"];
            // Redis 6, of the other engines, knows no other port for the bus than its own and 10,000.
            let bus: &[&str] = match std::env::var_os("REDIS_SERVER") {
                Some(_) => &[],
                None => &["--cluster-port", &bus],
            };
            Server::start(&[&options[..], &at_once, bus].concat())
        };
        let nodes: Vec<Server> = (0..6).map(node).collect();
        let addresses: Vec<_> = nodes.iter().map(|it| at(it.port).to_string()).collect();
        let mut create = vec!["--cluster", "create"];
        create.extend(addresses.iter().map(String::as_str));
        create.extend(["--cluster-replicas", "1", "--cluster-yes"]);
        let made = Command::new("redis-cli").args(&create).output().unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stdout)
        );
        let formed = |node: &Server| {
            let replication = node.cli(&["info", "replication"]);
            node.cli(&["cluster", "info"]).contains("cluster_state:ok")
                && (replication.contains("role:master")
                    || replication.contains("master_link_status:up"))
        };
        until("a cluster that has formed", || nodes.iter().all(formed));
        Self { nodes }
    }

    pub(crate) fn options(&self) -> RedisOptions {
        let nodes = self.nodes[..3].iter().map(|it| at(it.port));
        RedisOptions::new(Servers::Cluster(nodes.collect()))
    }
}

/// Certificates: an authority, and one key for servers and clients.
pub(crate) struct Certificates {
    folder: TempDir,
}

impl Certificates {
    pub(crate) fn create() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
        let key = made.signing_key.serialize_pem();
        std::fs::write(folder.path().join("key.pem"), key).unwrap();
        Self { folder }
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// As lines of a server's configuration, without a port.
    pub(crate) fn lines(&self) -> String {
        let (certificate, key) = (self.certificate(), self.key());
        let (certificate, key) = (text(&certificate), text(&key));
        format!("tls-cert-file {certificate}\ntls-key-file {key}\ntls-ca-cert-file {certificate}\n")
    }

    /// For a client that shows its certificate.
    pub(crate) fn client(&self) -> std::sync::Arc<rustls::ClientConfig> {
        let tls = ClientTls::load(&ClientTlsOptions {
            ca_files: vec![self.certificate()],
            only_ca_files: true,
            identity: Some(Identity {
                certificate: self.certificate(),
                key: self.key(),
            }),
            ..ClientTlsOptions::default()
        });
        tls.unwrap().config(&[])
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn cli(port: u16, arguments: &[&str]) -> String {
    let port = port.to_string();
    let mut command = Command::new("redis-cli");
    let said = command
        .args(["-p", &port])
        .args(arguments)
        .output()
        .unwrap();
    String::from_utf8_lossy(&said.stdout).into_owned()
}

/// One that stays free until it is used: not of those that connections and other tests' listeners get.
pub(crate) fn free_port() -> u16 {
    let [port] = loadtest::ports::free().unwrap();
    port
}

/// Takes so many connections on the port and ends them, as a Redis that cannot be used yet.
pub(crate) async fn turn_away(port: u16, connections: usize) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port))
        .await
        .unwrap();
    for _ in 0..connections {
        listener.accept().await.unwrap();
    }
}

fn at(port: u16) -> Address {
    Address {
        host: "127.0.0.1".into(),
        port,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "servers start before there is anything to await"
)]
fn until(what: &str, mut probe: impl FnMut() -> bool) {
    for _ in 0..START_LOOKS {
        if probe() {
            return;
        }
        std::thread::sleep(LOOK);
    }
    panic!("gave up waiting for {what}");
}

//! A master whose sentinels are reached in another way than itself: with other certificates, or one of them in clear.
//!
//! The client library has one setting for both. It dials this relay instead, by a socket of this process's own, and
//! each of its connections is carried to the server that the sentinels name at that moment.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStringExt as _,
            net::{SocketAddr, UnixListener as StdListener},
        },
    },
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use runtime::telemetry::{Causes, Repeats};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::{TcpStream, UnixListener, UnixStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::{
    address::Address,
    resp::{Reply, ReplyError, Resp},
};

/// How long one sentinel may take to answer, before the next is asked.
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause when the process is out of file descriptors.
const EXHAUSTED_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// A server, and how to log in there.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
}

/// Where connections are carried.
pub(super) struct Route {
    pub(super) master: String,
    pub(super) sentinels: Vec<Address>,
    pub(super) to_sentinels: Access,
    pub(super) to_master: Access,
    /// For a connection in all.
    pub(super) dial_timeout: Duration,
}

/// A running relay; dropping it ends its connections.
#[derive(Debug)]
pub(super) struct SentinelRelay {
    path: PathBuf,
    _serving: AbortOnDropHandle<()>,
}

/// Why a connection is not carried.
#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error("cannot connect to {0}")]
    Connect(String, #[source] io::Error),
    #[error("`{0}` is not a name that a certificate can be for")]
    Name(String),
    #[error("{0} did not answer within {1:?}")]
    Timeout(String, Duration),
    #[error("{0}")]
    Reply(String, #[source] ReplyError),
    #[error("the sentinel {0} knows no master `{1}`")]
    Unknown(String, String),
    #[error("{0}, which the sentinels name, is not a master (yet)")]
    NoMaster(String),
    #[error("there are no sentinels")]
    NoSentinels,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl SentinelRelay {
    /// Listens in the abstract namespace, which needs no folder; only this process is served.
    pub(super) fn open(route: Route) -> io::Result<Self> {
        let name = format!("kas-redis-{:032x}", rand::random::<u128>());
        let address = SocketAddr::from_abstract_name(&name)?;
        let listener = StdListener::bind_addr(&address)?;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let path = [b"\0", name.as_bytes()].concat();
        Ok(Self {
            path: std::ffi::OsString::from_vec(path).into(),
            _serving: AbortOnDropHandle::new(tokio::spawn(serve(listener, Arc::new(route)))),
        })
    }

    /// Where it is dialled.
    pub(super) fn path(&self) -> PathBuf {
        self.path.clone()
    }
}

async fn serve(listener: UnixListener, route: Arc<Route>) {
    let mut carried = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => match peer_pid(&socket) {
                    Some(pid) if pid == std::process::id() => {
                        carried.spawn(carry(route.clone(), socket));
                    }
                    pid => tracing::warn!(pid, "another process tried to use this replica's way to Redis; closing its connection"),
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    sleep(EXHAUSTED_RETRY_INTERVAL).await;
                }
            },
            Some(_) = carried.join_next() => {}
        }
    }
}

fn peer_pid(socket: &UnixStream) -> Option<u32> {
    socket.peer_cred().ok()?.pid()?.try_into().ok()
}

async fn carry(route: Arc<Route>, mut socket: UnixStream) {
    static FAILED: Repeats = Repeats::new("cannot reach the Redis that the sentinels name");
    match route.connect().await {
        // Its end is the client's affair, which connects again.
        Ok(mut redis) => drop(copy_bidirectional(&mut socket, &mut redis).await),
        Err(error) if FAILED.admit() => {
            tracing::warn!(error = %Causes(&error), "cannot reach the Redis that the sentinels name; retrying");
        }
        Err(_) => {}
    }
}

impl Route {
    async fn connect(&self) -> Result<Box<dyn Io>, RelayError> {
        let limit = self.dial_timeout;
        let connecting = timeout(limit, self.first_master());
        let connected = connecting.await;
        connected.unwrap_or_else(|_| Err(RelayError::Timeout(self.master.clone(), limit)))
    }

    /// The master that the first sentinel names who names one that is.
    async fn first_master(&self) -> Result<Box<dyn Io>, RelayError> {
        let mut failed = RelayError::NoSentinels;
        for sentinel in &self.sentinels {
            let asked = timeout(SENTINEL_TIMEOUT, self.ask(sentinel)).await;
            let named = asked.unwrap_or_else(|_| {
                Err(RelayError::Timeout(sentinel.to_string(), SENTINEL_TIMEOUT))
            });
            let connected = match named {
                Ok(master) => self.open_master(&master).await,
                Err(error) => Err(error),
            };
            match connected {
                Ok(connected) => return Ok(connected),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn ask(&self, sentinel: &Address) -> Result<Address, RelayError> {
        let failed = |error| RelayError::Reply(format!("the sentinel {sentinel} refused"), error);
        let mut resp = dial(sentinel, &self.to_sentinels).await?;
        let question = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", &self.master];
        let answer = resp.ask(&question).await.map_err(failed)?;
        let unknown = || RelayError::Unknown(sentinel.to_string(), self.master.clone());
        let [host, port] = answer.texts().ok_or_else(unknown)?;
        Ok(Address {
            port: port.parse().map_err(|_| unknown())?,
            host,
        })
    }

    async fn open_master(&self, master: &Address) -> Result<Box<dyn Io>, RelayError> {
        let failed = |error| RelayError::Reply(format!("the Redis {master} refused"), error);
        let mut resp = dial(master, &self.to_master).await?;
        let role = resp.ask(&["ROLE"]).await.map_err(failed)?;
        match role {
            Reply::Array(parts) if parts.first().is_some_and(|it| it.is_text("master")) => {
                Ok(resp.into_inner())
            }
            _ => Err(RelayError::NoMaster(master.to_string())),
        }
    }
}

/// Connects to a server and logs in.
async fn dial(address: &Address, access: &Access) -> Result<Resp<Box<dyn Io>>, RelayError> {
    let failed = |error| RelayError::Connect(address.to_string(), error);
    let socket = TcpStream::connect((address.host.as_str(), address.port));
    let socket = socket.await.map_err(failed)?;
    socket.set_nodelay(true).map_err(failed)?;
    let io: Box<dyn Io> = match &access.tls {
        None => Box::new(socket),
        Some(tls) => {
            let name = ServerName::try_from(address.host.clone());
            let name = name.map_err(|_| RelayError::Name(address.host.clone()))?;
            let connecting = TlsConnector::from(tls.clone()).connect(name, socket);
            Box::new(connecting.await.map_err(failed)?)
        }
    };
    let mut resp = Resp::new(io);
    if let Some(password) = &access.password {
        let login = match &access.username {
            Some(username) => vec!["AUTH", username, password],
            None => vec!["AUTH", password],
        };
        let logged_in = resp.ask(&login).await;
        logged_in
            .map_err(|error| RelayError::Reply(format!("{address} refused the login"), error))?;
    }
    Ok(resp)
}

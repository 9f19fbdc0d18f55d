//! Requests that `kas up` makes itself, as kubectl would: through the users' port, the tunnel and the agent to the
//! cluster's API.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use runtime::connect::{ConnectError, ConnectOptions, Target, TargetError, connect_http};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// What is asked for: each cluster has it, and whoever is let in at all may read it.
const PATH: &str = "/version";
/// How long a request may take, which is more than an agent needs to connect again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Clients that ask at the same time, each on a connection of its own.
const CLIENTS: usize = 4;
/// How often each of them asks.
const INTERVAL: Duration = Duration::from_millis(100);
/// The longest answer that is read.
const ANSWER_BYTES: usize = 64 << 10;
/// How much of an answer that refuses is told.
const REASON_CHARS: usize = 200;

/// Who asks, and where.
#[derive(Debug)]
pub struct Endpoint {
    target: Target,
    options: ConnectOptions,
    authorization: HeaderValue,
    path: String,
}

/// A request that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The users' port cannot be reached.
    #[error(transparent)]
    Connect(#[from] Box<ConnectError>),
    /// The connection broke, or what came is not HTTP.
    #[error("the connection to the users' port broke")]
    Http(#[from] hyper::Error),
    /// The answer broke off, or is longer than anything that was asked for.
    #[error("the answer cannot be read: {0}")]
    Answer(Box<dyn std::error::Error + Send + Sync>),
    /// It cannot be made.
    #[error(transparent)]
    Request(#[from] http::Error),
    /// Somebody on the way, or the cluster, refused.
    #[error("{status}: {reason}")]
    Refused {
        /// The answer's status.
        status: StatusCode,
        /// What it says, cut.
        reason: String,
    },
    /// Nothing came.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// What cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The URL is none.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The token is no header.
    #[error("the token cannot be sent in a header")]
    Token(#[from] header::InvalidHeaderValue),
}

/// What came of the requests so far.
#[derive(Debug, Default)]
pub struct Counts {
    requests: AtomicU64,
    failed: AtomicU64,
    last_failure: Mutex<Option<String>>,
}

impl Counts {
    /// Requests that are over.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Those of them that failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Why the last one failed; each is told once.
    pub fn take_failure(&self) -> Option<String> {
        let last = self.last_failure.lock();
        last.unwrap_or_else(PoisonError::into_inner).take()
    }

    fn count(&self, outcome: Result<(), RequestError>) {
        if let Err(error) = outcome {
            self.failed.fetch_add(1, Ordering::Relaxed);
            let why = format!("{:#}", anyhow::Error::from(error));
            let last = self.last_failure.lock();
            *last.unwrap_or_else(PoisonError::into_inner) = Some(why);
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
    }
}

impl Endpoint {
    /// Asks at `server`, the URL of the Kubernetes API proxy, with `bearer` and by `options`.
    ///
    /// # Errors
    /// When the URL or the token cannot be used.
    pub fn new(server: &str, bearer: &str, options: ConnectOptions) -> Result<Self, EndpointError> {
        let target = Target::parse_http(server)?;
        let mut authorization = HeaderValue::try_from(format!("Bearer {bearer}"))?;
        authorization.set_sensitive(true);
        Ok(Self {
            path: format!("{}{PATH}", target.path_and_query().trim_end_matches('/')),
            target,
            options,
            authorization,
        })
    }

    /// One request on a connection of its own.
    ///
    /// # Errors
    /// When it did not come back with success; the error says from whom not.
    pub async fn ask(&self) -> Result<(), RequestError> {
        let asked = async { self.exchange(&mut self.connect().await?).await };
        let asked = timeout(REQUEST_TIMEOUT, asked).await;
        asked.unwrap_or(Err(RequestError::Timeout(REQUEST_TIMEOUT)))
    }

    /// Asks again and again, by several clients, until `stop`; what is in progress then is not counted.
    pub async fn run(self, counts: Arc<Counts>, stop: CancellationToken) {
        let endpoint = Arc::new(self);
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (endpoint, counts) = (endpoint.clone(), counts.clone());
            let client = async move { endpoint.client(&counts).await };
            clients.spawn(stop.clone().run_until_cancelled_owned(client));
        }
        while clients.join_next().await.is_some() {}
    }

    /// One client, with a connection that is kept alive.
    async fn client(&self, counts: &Counts) {
        let mut kept: Option<Connection> = None;
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let asked = async {
                let mut connection = match kept.take() {
                    Some(connection) if connection.is_open() => connection,
                    Some(_) | None => self.connect().await?,
                };
                self.exchange(&mut connection).await?;
                Ok(connection)
            };
            let outcome = timeout(REQUEST_TIMEOUT, asked).await;
            let outcome = outcome.unwrap_or(Err(RequestError::Timeout(REQUEST_TIMEOUT)));
            counts.count(outcome.map(|connection| kept = Some(connection)));
        }
    }

    async fn connect(&self) -> Result<Connection, RequestError> {
        let io = connect_http(&self.target, &self.options)
            .await
            .map_err(Box::new)?;
        let (send, connection) = http1::handshake(TokioIo::new(io)).await?;
        // How it ends is told by the request on it.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Connection {
            send,
            _driver: AbortOnDropHandle::new(driver),
        })
    }

    async fn exchange(&self, connection: &mut Connection) -> Result<(), RequestError> {
        let request = Request::get(&self.path)
            .header(header::HOST, self.target.authority())
            .header(header::AUTHORIZATION, self.authorization.clone())
            .body(Empty::new())?;
        connection.send.ready().await?;
        let (head, body) = connection.send.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES).collect().await;
        let body = body.map_err(RequestError::Answer)?.to_bytes();
        if head.status.is_success() {
            return Ok(());
        }
        Err(RequestError::Refused {
            status: head.status,
            reason: reason(&body),
        })
    }
}

/// A connection to the users' port.
struct Connection {
    send: SendRequest<Empty<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

impl Connection {
    fn is_open(&self) -> bool {
        !self.send.is_closed()
    }
}

/// The message of a Kubernetes `Status`, else what is there, cut to one short line.
fn reason(body: &[u8]) -> String {
    let status: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = status
        .as_ref()
        .and_then(|status| status["message"].as_str());
    let text = match message {
        Some(message) => message.to_owned(),
        None => String::from_utf8_lossy(body).into_owned(),
    };
    let printable = text
        .chars()
        .map(|it| if it.is_control() { ' ' } else { it });
    printable.take(REASON_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    const REFUSED: &str =
        "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 21\r\n\r\n{\"message\":\"no\\none\"}";

    /// A server that gives the connections, in turn, these answers to each request; then it cuts.
    async fn endpoint(answers: &'static [&'static [&'static str]]) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}/k8s-proxy/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for answers in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                for answer in *answers {
                    let mut head = [0; 1024];
                    let length = socket.read(&mut head).await.unwrap();
                    let head = String::from_utf8_lossy(&head[..length]).to_lowercase();
                    assert!(head.starts_with("get /k8s-proxy/version "), "{head}");
                    assert!(head.contains("authorization: bearer pat:1:x"), "{head}");
                    socket.write_all(answer.as_bytes()).await.unwrap();
                }
            }
            std::future::pending::<()>().await;
        });
        Endpoint::new(&server, "pat:1:x", ConnectOptions::default()).unwrap()
    }

    #[tokio::test]
    async fn what_refuses_is_told_in_one_line() {
        let endpoint = endpoint(&[&[REFUSED], &[OK]]).await;

        let refused = endpoint.ask().await.unwrap_err().to_string();

        assert_eq!(refused, "502 Bad Gateway: no one");
        endpoint.ask().await.unwrap();
    }

    #[tokio::test]
    async fn requests_are_counted_and_a_connection_that_broke_is_made_again() {
        let endpoint = endpoint(&[&[OK, REFUSED], &[OK, "HTTP/1.1 200"], &[OK]]).await;
        let counts = Counts::default();

        let all = async {
            while counts.requests() < 5 {
                tokio::task::yield_now().await;
            }
        };
        let all = timeout(Duration::from_secs(20), all);
        tokio::select! {
            () = endpoint.client(&counts) => unreachable!("it has no end"),
            all = all => all.unwrap(),
        }

        assert_eq!((counts.requests(), counts.failed()), (5, 2));
        let failure = counts.take_failure().unwrap();
        assert!(failure.contains("broke"), "{failure}");
        assert_eq!(counts.take_failure(), None);
    }
}

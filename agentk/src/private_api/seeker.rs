//! Looks for a pod of the agent that kas has dialled, while it has not dialled this one.

use std::{net::SocketAddr, pin::Pin, time::Duration};

use http::{HeaderMap, HeaderValue, header};
use proto::receptive::rpc::receptive_client::ReceptiveClient;
use runtime::{
    backoff::Backoff,
    connect::{ConnectError, ConnectOptions, Target, connect},
    grpc::{self, Channel},
    io::ByteStream,
    jwt::{self, JwtError, Secret},
};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{PODS, client_tls, secret};
use crate::{
    config::PrivateApi, entrance::EntranceError, error_chain::chain, last_failure::LastFailure,
    session::Uplink, version,
};

/// Waits between searches. A pod that stands by is of no use, so they are short.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));
/// How long another pod may take to answer.
const ATTACH: Duration = Duration::from_secs(15);
/// How long kas may take to accept this pod through another.
const WORD: Duration = Duration::from_secs(5);

/// Moves the bytes to and from another pod.
type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Looks for the other pods.
#[derive(Debug)]
pub(crate) struct Seeker {
    pods: Target,
    options: ConnectOptions,
    secret: Secret,
    uplink: Uplink,
    arrivals: mpsc::Sender<ByteStream>,
    failure: LastFailure,
}

/// Why no pod helps.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("what answers there does not speak HTTP/2: {0}")]
    Protocol(#[from] h2::Error),
    #[error(transparent)]
    Sign(#[from] JwtError),
    #[error("{:?}: {}", .0.code(), .0.message())]
    Refused(Status),
}

impl Seeker {
    /// What comes of it arrives at the lines.
    pub(crate) fn new(
        config: &PrivateApi,
        uplink: Uplink,
        arrivals: mpsc::Sender<ByteStream>,
    ) -> Result<Self, EntranceError> {
        Ok(Self {
            pods: config.peers.clone(),
            options: ConnectOptions {
                tls: client_tls(config)?,
                user_agent: version::user_agent(),
                ..ConnectOptions::default()
            },
            secret: secret(config)?,
            uplink,
            arrivals,
            failure: LastFailure::default(),
        })
    }

    /// Looks whenever there is no connection, until `stop`; what was found is
    /// kept until `last`.
    pub(crate) async fn run(mut self, stop: CancellationToken, last: CancellationToken) {
        let mut drivers = JoinSet::new();
        stop.run_until_cancelled(self.seek(&mut drivers)).await;
        last.cancelled().await;
    }

    async fn seek(&mut self, drivers: &mut JoinSet<()>) {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1, 1.8);
        loop {
            // kas may dial this pod meanwhile, which is better.
            let dialled = timeout(backoff.next(rand::random()), self.uplink.until_accepted());
            if dialled.await.is_ok() {
                backoff.reset();
                self.failure.clear();
                self.uplink.connection().await.left().await;
                continue;
            }
            while drivers.try_join_next().is_some() {}
            match self.ask_all().await {
                Ok((io, driver)) => {
                    drivers.spawn(driver);
                    if self.arrivals.send(io).await.is_err() {
                        return;
                    }
                    // Whether it is of use shows at the beginning of the loop.
                    let _ = timeout(WORD, self.uplink.until_accepted()).await;
                }
                Err(trouble) => self.complain(&trouble),
            }
        }
    }

    /// Asks each address of the pods' name until one lets this pod in.
    async fn ask_all(&self) -> Result<(ByteStream, Driver), Trouble> {
        let mut asked: Vec<SocketAddr> = Vec::new();
        let mut trouble = None;
        loop {
            let options = ConnectOptions {
                avoid: asked.clone(),
                ..self.options.clone()
            };
            let connected = match connect(&self.pods, &options).await {
                Ok(connected) => connected,
                Err(error) => return Err(trouble.unwrap_or_else(|| error.into())),
            };
            let known = connected.peer.is_none_or(|peer| asked.contains(&peer));
            match trouble {
                Some(trouble) if known => return Err(trouble),
                Some(_) | None => asked.extend(connected.peer),
            }
            match self.attach(connected.io).await {
                Ok(attached) => return Ok(attached),
                Err(error) => trouble = Some(error),
            }
        }
    }

    async fn attach(&self, io: ByteStream) -> Result<(ByteStream, Driver), Trouble> {
        let (send, http2) = grpc::client_settings().handshake(io).await?;
        let mut driver: Driver = Box::pin(async move {
            if let Err(error) = http2.await {
                tracing::debug!(%error, "the connection to another pod broke");
            }
        });
        let (outgoing, chunks) = grpc::outgoing();
        let mut client =
            ReceptiveClient::new(Channel::new(send, self.pods.origin(), self.metadata()?));
        let attached = tokio::select! {
            attached = timeout(ATTACH, client.attach(chunks)) => attached,
            () = &mut driver => Ok(Err(Status::unavailable("it ended the connection"))),
        };
        let attached = attached.unwrap_or_else(|_| Err(Status::unavailable("it does not answer")));
        let attached = attached.map_err(Trouble::Refused)?;
        Ok((grpc::carried(attached.into_inner(), outgoing), driver))
    }

    fn metadata(&self) -> Result<HeaderMap, JwtError> {
        let token = jwt::sign(&self.secret, PODS, PODS)?;
        let bearer = HeaderValue::from_str(&format!("Bearer {token}"));
        let mut bearer = bearer.expect("a token is plain text");
        bearer.set_sensitive(true);
        Ok(HeaderMap::from_iter([(header::AUTHORIZATION, bearer)]))
    }

    /// Says a thing once, however often it happens; that kas has dialled no pod
    /// is nothing that another pod could help.
    fn complain(&mut self, trouble: &Trouble) {
        let error = chain(trouble);
        if !self.failure.is_new(&error) {
            return;
        }
        let waits = matches!(trouble, Trouble::Refused(status)
            if matches!(status.code(), Code::Unavailable | Code::FailedPrecondition));
        if waits {
            tracing::debug!(pods = %self.pods, error, "no pod of this agent is connected to kas");
        } else {
            tracing::warn!(pods = %self.pods, error, "no pod of this agent relays this one to kas; retrying");
        }
    }
}

//! Dials the pods of the agent for one that kas has dialled, while kas has not dialled this one.

use std::{net::SocketAddr, pin::Pin, time::Duration};

use http::{HeaderMap, HeaderValue, header};
use runtime::{
    backoff::Backoff,
    connect::{ConnectError, ConnectOptions, Target, connect},
    grpc::{self, Channel},
    io::ByteStream,
    jwt::{self, JwtError, Secret},
    telemetry::Causes,
};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{PODS_AUDIENCE, PeerAddresses, client_tls, peers::PeersError, secret};
use crate::{
    attach_listener::AttachListenerError, config::PrivateApi, last_failure::LastFailure,
    session::Uplink, version,
};

const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Short, since a pod without a connection serves nobody.
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// How long another pod may take to answer.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(15);
/// How long kas may take to accept this pod through another.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(5);

/// Moves the bytes to and from another pod.
type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Dials the other pods.
#[derive(Debug)]
pub(crate) struct PodDialer {
    pods: PeerAddresses,
    options: ConnectOptions,
    secret: Secret,
    uplink: Uplink,
    incoming: mpsc::Sender<ByteStream>,
    failure: LastFailure,
}

/// Why no pod relays this one.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error(transparent)]
    Peers(#[from] PeersError),
    #[error("there is no other pod")]
    NoPods,
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("HTTP/2 handshake with another pod failed")]
    Protocol(#[from] h2::Error),
    #[error(transparent)]
    Sign(#[from] JwtError),
    #[error("{:?}: {}", .0.code(), .0.message())]
    Refused(Status),
}

impl PodDialer {
    /// Connections through other pods go to the session.
    pub(crate) fn new(
        config: &PrivateApi,
        pods: PeerAddresses,
        uplink: Uplink,
        incoming: mpsc::Sender<ByteStream>,
    ) -> Result<Self, AttachListenerError> {
        Ok(Self {
            pods,
            options: ConnectOptions {
                tls: client_tls(config)?,
                user_agent: version::user_agent(),
                ..ConnectOptions::default()
            },
            secret: secret(config)?,
            uplink,
            incoming,
            failure: LastFailure::default(),
        })
    }

    /// Dials whenever there is no connection, until `stop`; connections are kept until `last`.
    pub(crate) async fn run(mut self, stop: CancellationToken, last: CancellationToken) {
        let mut drivers = JoinSet::new();
        stop.run_until_cancelled(self.search(&mut drivers)).await;
        last.cancelled().await;
    }

    async fn search(&mut self, drivers: &mut JoinSet<()>) {
        let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX, 1.8);
        loop {
            // A connection that kas makes to this pod meanwhile is better.
            let dialled = timeout(backoff.next(rand::random()), self.uplink.until_accepted());
            if dialled.await.is_ok() {
                backoff.reset();
                self.failure.clear();
                self.uplink.connection().await.draining().await;
                continue;
            }
            while drivers.try_join_next().is_some() {}
            match self.dial_all().await {
                Ok((io, driver)) => {
                    drivers.spawn(driver);
                    if self.incoming.send(io).await.is_err() {
                        return;
                    }
                    // Whether kas accepts it shows at the beginning of the loop.
                    let _ = timeout(ACCEPT_TIMEOUT, self.uplink.until_accepted()).await;
                }
                Err(failure) => self.log(&failure),
            }
        }
    }

    /// Dials the pods until one relays this one.
    async fn dial_all(&self) -> Result<(ByteStream, Driver), DialError> {
        let mut failure = DialError::NoPods;
        for target in self.pods.targets().await? {
            match self.dial_each(&target).await {
                Ok(dialled) => return Ok(dialled),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Dials each address of a name until one relays this pod.
    async fn dial_each(&self, pods: &Target) -> Result<(ByteStream, Driver), DialError> {
        let mut dialled: Vec<SocketAddr> = Vec::new();
        let mut failure = None;
        loop {
            let options = ConnectOptions {
                avoid: dialled.clone(),
                ..self.options.clone()
            };
            let connected = match connect(pods, &options).await {
                Ok(connected) => connected,
                Err(error) => return Err(failure.unwrap_or_else(|| error.into())),
            };
            let known = connected
                .remote_addr
                .is_none_or(|peer| dialled.contains(&peer));
            match failure {
                Some(failure) if known => return Err(failure),
                Some(_) | None => dialled.extend(connected.remote_addr),
            }
            match self.attach(connected.io, pods).await {
                Ok(attached) => return Ok(attached),
                Err(error) => failure = Some(error),
            }
        }
    }

    async fn attach(
        &self,
        io: ByteStream,
        pods: &Target,
    ) -> Result<(ByteStream, Driver), DialError> {
        let (send, http2) = grpc::client_settings().handshake(io).await?;
        let mut driver: Driver = Box::pin(async move {
            if let Err(error) = http2.await {
                tracing::debug!(error = %Causes(&error), "connection to another pod broke");
            }
        });
        let attaching = grpc::attach(Channel::new(send, pods.origin(), self.metadata()?));
        let attached = tokio::select! {
            attached = timeout(ATTACH_TIMEOUT, attaching) => attached,
            () = &mut driver => Ok(Err(Status::unavailable("it closed the connection"))),
        };
        let attached =
            attached.unwrap_or_else(|_| Err(Status::unavailable("it did not answer in time")));
        let attached = attached.map_err(DialError::Refused)?;
        Ok((attached, driver))
    }

    fn metadata(&self) -> Result<HeaderMap, JwtError> {
        let token = jwt::sign(&self.secret, PODS_AUDIENCE, PODS_AUDIENCE)?;
        let bearer = HeaderValue::from_str(&format!("Bearer {token}"));
        let mut bearer = bearer.expect("a token is plain text");
        bearer.set_sensitive(true);
        Ok(HeaderMap::from_iter([(header::AUTHORIZATION, bearer)]))
    }

    /// Logs a failure that repeats once; that kas has dialled no pod is the fault of no pod.
    fn log(&mut self, failure: &DialError) {
        let error = Causes(failure).to_string();
        if !self.failure.is_new(&error) {
            return;
        }
        let waits = match failure {
            DialError::NoPods => true,
            DialError::Refused(status) => {
                matches!(status.code(), Code::Unavailable | Code::FailedPrecondition)
            }
            DialError::Peers(_)
            | DialError::Connect(_)
            | DialError::Protocol(_)
            | DialError::Sign(_) => false,
        };
        if waits {
            tracing::debug!(pods = %self.pods, error, "no pod of this agent is connected to kas");
        } else {
            tracing::warn!(pods = %self.pods, error, "could not reach kas through another pod; retrying");
        }
    }
}

//! The health probe of a replica at its URL: of this one before it publishes the
//! URL, and of others whose lease has expired.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use admin::dial::{NotReached, PeerDialer};
use cluster_state::{Liveness, Owner, PeerProbe, TableFuture, urls};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use router::peers::Challenge as _;
use runtime::{
    drain::Drain,
    io::ByteStream,
    listen::{AnyListener, PlainAcceptor, RemoteAddr},
    serve::Server,
};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Code, Status};

use super::{
    DialError, PORT, PeerSettings, authenticator::Authenticator, challenge::SELF_TEST, dial_url,
    leads_back,
};
use crate::port::Port;

/// How long one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time between attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// Why other replicas could not reach this one.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// Another replica answers.
    #[error(
        "another replica ({replica}) answers at {url}, which this replica publishes as its own: \
         each needs a URL to itself, set OWN_PRIVATE_API_URL or OWN_PRIVATE_API_CIDR"
    )]
    Shared {
        /// The URL.
        url: String,
        /// The other replica.
        replica: String,
    },
    /// The other side did not pass the challenge.
    #[error(
        "what answers at {url} is not this replica ({why}): either \
         another replica is there, with another private_api.listen.authentication_secret_file, or \
         the URL is wrong, set OWN_PRIVATE_API_URL"
    )]
    Refused {
        /// The URL.
        url: String,
        /// Why not.
        why: String,
    },
    /// This replica is unreachable at its URL.
    #[error("this replica cannot reach itself at {url}, the URL that it publishes: {why}; {hint}")]
    Unreachable {
        /// The URL.
        url: String,
        /// The last failure.
        why: String,
        /// What to set.
        hint: &'static str,
    },
}

/// Dials the URL that `me` publishes, and checks that it leads to the port, which
/// is not served otherwise yet. Failures that may pass, such as a Kubernetes
/// service without endpoints, are retried up to `limit`.
///
/// # Errors
/// [`SelfTestError`] says what was dialled, what happened, and what to set.
pub async fn self_test(
    me: &Owner,
    port: &Port<PlainAcceptor, PeerSettings>,
    limit: Duration,
) -> Result<(), SelfTestError> {
    let authenticator = Authenticator::new(me.clone(), port.settings.tokens.clone());
    tokio::select! {
        tested = attempts(me, port, limit) => tested,
        () = answer(&port.listener, &port.acceptor, Arc::new(authenticator)) => {
            unreachable!("it answers for ever")
        }
    }
}

async fn attempts(
    me: &Owner,
    port: &Port<PlainAcceptor, PeerSettings>,
    limit: Duration,
) -> Result<(), SelfTestError> {
    let deadline = Instant::now() + limit;
    let tls = port.acceptor.tls.is_some();
    loop {
        let probed = tokio::time::timeout(ATTEMPT_TIMEOUT, probe_any(&me.url, &port.settings));
        let probed = probed.await.unwrap_or_else(|_| Err(Failed::timeout()));
        let failed = match probed {
            Ok(name) if name == me.replica.to_string() => return Ok(()),
            Ok(replica) => {
                let url = me.url.clone();
                return Err(SelfTestError::Shared { url, replica });
            }
            Err(failed) => failed,
        };
        let last = failed.permanent || Instant::now() + RETRY_INTERVAL >= deadline;
        if last {
            return Err(failed.explain(&me.url, tls));
        }
        tracing::debug!(
            url = me.url,
            error = failed.why,
            "self-test of the private API failed; retrying"
        );
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// A failed probe.
struct Failed {
    why: String,
    /// Whether another attempt cannot succeed.
    permanent: bool,
    refused: bool,
    wrong_name: bool,
    /// Whether nothing listens at the address.
    not_listening: bool,
}

impl Failed {
    fn new(why: String) -> Self {
        Self {
            why,
            permanent: false,
            refused: false,
            wrong_name: false,
            not_listening: false,
        }
    }

    fn timeout() -> Self {
        Self::new(format!("no answer within {ATTEMPT_TIMEOUT:?}"))
    }

    fn explain(self, url: &str, tls: bool) -> SelfTestError {
        let (url, why) = (url.to_owned(), self.why);
        if self.refused {
            return SelfTestError::Refused { url, why };
        }
        let hint = match url.split(':').next() {
            Some("grpc") if tls => {
                "private_api.listen has a certificate, so set OWN_PRIVATE_API_SCHEME=grpcs"
            }
            Some("grpcs") if !tls => {
                "private_api.listen has no certificate, so set OWN_PRIVATE_API_SCHEME=grpc"
            }
            _ if self.wrong_name => {
                "set OWN_PRIVATE_API_HOST to the name in the certificates of the replicas"
            }
            _ => {
                "set OWN_PRIVATE_API_URL, or OWN_PRIVATE_API_CIDR and OWN_PRIVATE_API_PORT, to where \
                 other replicas reach private_api.listen.address"
            }
        };
        SelfTestError::Unreachable { url, why, hint }
    }
}

impl From<h2::Error> for Failed {
    fn from(error: h2::Error) -> Self {
        Self::new(format!("what answers does not speak HTTP/2: {error}"))
    }
}

impl From<DialError> for Failed {
    fn from(error: DialError) -> Self {
        let why = error.to_string();
        let wrong_name = why.contains("for another name");
        Self {
            wrong_name,
            permanent: matches!(error, DialError::Target(_)),
            not_listening: error.is_refusal(),
            ..Self::new(why)
        }
    }
}

impl PeerProbe for PeerSettings {
    fn probe<'a>(&'a self, replica: &'a Owner) -> TableFuture<'a, Liveness> {
        Box::pin(async move {
            let published = &replica.url;
            let others = urls(published).filter(|url| !leads_back(url, &self.own));
            let probes = others.map(|url| probe(published, url, self));
            let mut probes: FuturesUnordered<_> = probes.collect();
            let mut refused = !probes.is_empty();
            while let Some(probed) = probes.next().await {
                match probed {
                    Ok(name) if name == replica.replica.to_string() => return Liveness::Alive,
                    // Published with the same URLs: it has taken the other's place.
                    Ok(_) => return Liveness::Gone,
                    Err(failed) => refused &= failed.not_listening,
                }
            }
            if refused {
                Liveness::Gone
            } else {
                Liveness::Unknown
            }
        })
    }
}

#[tonic::async_trait]
impl PeerDialer for PeerSettings {
    async fn dial(&self, peer: &Owner) -> Result<(), NotReached> {
        match probe_any(&peer.url, self).await {
            Ok(id) if id == peer.replica.to_string() => Ok(()),
            Ok(id) => Err(NotReached(format!("replica {id} answers there"))),
            Err(failed) => Err(NotReached(failed.why)),
        }
    }
}

/// Who answers at a URL.
pub(crate) enum Identified {
    /// A replica that has this one's secret.
    Replica {
        /// Its id.
        id: String,
        /// The time by its clock, and how long the question about it took.
        clock: Option<(SystemTime, Duration)>,
    },
    /// Something without the secret.
    Stranger(String),
    /// Nobody.
    Nobody(String),
}

/// Asks who answers at the URLs that a replica has published, and what time it is there. The caller has a deadline.
pub(crate) async fn identify(published: &str, settings: &PeerSettings) -> Identified {
    match probe_any(published, settings).await {
        Ok(id) => Identified::Replica {
            id,
            clock: clock(published, settings).await,
        },
        Err(failed) if failed.refused => Identified::Stranger(failed.why),
        Err(failed) => Identified::Nobody(failed.why),
    }
}

/// What time it is at a replica, and how long the question took.
async fn clock(published: &str, settings: &PeerSettings) -> Option<(SystemTime, Duration)> {
    let stream = dial_url(urls(published).next()?, &settings.dial)
        .await
        .ok()?;
    let http2 = runtime::grpc::client_settings();
    let (mut send, connection) = http2.handshake::<_, bytes::Bytes>(stream).await.ok()?;
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
    let challenge = settings.tokens.peer_challenge(published);
    let (response, _) = send.send_request(challenge.request(), true).ok()?;
    let response = response.await.ok()?;
    let identity = challenge.identify(response.headers())?;
    let began = Instant::now();
    let mut request = challenge.request();
    request.headers_mut().remove(SELF_TEST);
    let outdated = settings.tokens.outdated(&identity.audience());
    request.headers_mut().extend(outdated);
    let (response, _) = send.send_request(request, true).ok()?;
    let response = response.await.ok()?;
    let seconds = settings.tokens.time_of(response.headers())?;
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    // It is told in whole seconds.
    Some((time, began.elapsed() + Duration::from_secs(1)))
}

/// The id of the replica that answers first at one of the URLs that it has `published`.
async fn probe_any(published: &str, settings: &PeerSettings) -> Result<String, Failed> {
    let probes = urls(published).map(|url| probe(published, url, settings));
    let mut probes: FuturesUnordered<_> = probes.collect();
    let mut failed = Failed::new("there is no URL".to_owned());
    while let Some(probed) = probes.next().await {
        match probed {
            Ok(name) => return Ok(name),
            Err(why) => failed = why,
        }
    }
    Err(failed)
}

/// The id of the replica that answers at `url`, one of those that it has `published`.
async fn probe(published: &str, url: &str, settings: &PeerSettings) -> Result<String, Failed> {
    let stream = dial_url(url, &settings.dial).await?;
    let http2 = runtime::grpc::client_settings();
    let (mut send, connection) = http2.handshake::<_, bytes::Bytes>(stream).await?;
    let challenge = settings.tokens.peer_challenge(published);
    let (response, _) = send.send_request(challenge.request(), true)?;
    let response = tokio::select! {
        response = response => response?,
        ended = connection => {
            ended?;
            return Err(Failed::new("it closed the connection".to_owned()));
        }
    };
    let status = Status::from_header_map(response.headers());
    if let Some(identity) = challenge.identify(response.headers()) {
        return Ok(identity.replica().to_owned());
    }
    match status {
        Some(status) if matches!(status.code(), Code::Ok | Code::Unauthenticated) => Err(Failed {
            permanent: true,
            refused: true,
            ..Failed::new("it did not prove that it has this replica's secret".to_owned())
        }),
        status => Err(Failed::new(format!(
            "what answers is not a replica of this server (HTTP {}, {})",
            response.status(),
            status.map_or("no gRPC status".to_owned(), |status| status.to_string()),
        ))),
    }
}

/// Answers challenges, and nothing else yet.
async fn answer(
    listener: &AnyListener,
    acceptor: &PlainAcceptor,
    authenticator: Arc<Authenticator>,
) {
    // Dropping this ends all connections.
    let stop = CancellationToken::new();
    let _dropped = stop.clone().drop_guard();
    let serve = move |(io, _): (ByteStream, RemoteAddr)| async move {
        let answered = receive(io, &authenticator);
        stop.run_until_cancelled(answered).await;
    };
    let server = Server::new(PORT, listener, acceptor.clone());
    server.run(Drain::new(), serve).await;
}

async fn receive(stream: ByteStream, authenticator: &Authenticator) {
    let Ok(mut http2) = runtime::grpc::server_settings().handshake(stream).await else {
        return;
    };
    let session = authenticator.session();
    while let Some(Ok((request, respond))) = http2.accept().await {
        if let Some(respond) = authenticator.admit(&session, &request, respond) {
            // Fails only when the peer is gone.
            let _ = runtime::grpc::refuse(respond, &Status::unavailable("kas is starting"));
        }
    }
}

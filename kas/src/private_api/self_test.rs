//! Who answers at the URL of a replica: itself, as it finds out before it asks
//! others to dial it; and it lives, as others find out that miss its lease.

use std::{sync::Arc, time::Duration};

use cluster_state::{Owner, TableFuture, Vouch, Word};
use router::peers::Greeting as _;
use runtime::{
    connect::{ConnectError, ConnectOptions, Target, connect},
    drain::Drain,
    listen::{Listener, PlainAccepted, PlainAcceptor},
    serve::Server,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{PORT, PeerSettings, doorman::Doorman, tokens::Question};
use crate::port::Port;

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(3);
/// Time between attempts.
const PAUSE: Duration = Duration::from_millis(250);

/// Why other replicas could not reach this one.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// It is not this replica that answers.
    #[error(
        "another replica ({replica}) answers at {url}, which this replica publishes as its own: \
         each needs a URL to itself, set OWN_PRIVATE_API_URL or OWN_PRIVATE_API_CIDR"
    )]
    Shared {
        /// The URL.
        url: String,
        /// Who answers.
        replica: String,
    },
    /// Whoever answers does not have the secret.
    #[error(
        "what answers at {url} is not this replica ({why}): either \
         another replica is there, with another private_api.listen.authentication_secret_file, or \
         the URL is wrong, set OWN_PRIVATE_API_URL"
    )]
    Refused {
        /// The URL.
        url: String,
        /// What it did not prove.
        why: String,
    },
    /// It cannot be reached.
    #[error(
        "this replica cannot reach itself at {url}, under which it is published: {why}; {hint}"
    )]
    Unreachable {
        /// The URL.
        url: String,
        /// What happened last.
        why: String,
        /// What to set.
        hint: &'static str,
    },
}

/// Dials the URL that `me` is published under, and checks that it leads to the
/// port, which nobody else serves yet. What may heal, such as a service that
/// is not programmed yet, is waited for up to `limit`.
///
/// # Errors
/// [`SelfTestError`] says what was dialled, what happened, and what to set.
pub async fn self_test(
    me: &Owner,
    port: &Port<PlainAcceptor, PeerSettings>,
    limit: Duration,
) -> Result<(), SelfTestError> {
    let doorman = Doorman::new(me.clone(), port.settings.tokens.clone());
    tokio::select! {
        tested = attempts(me, port, limit) => tested,
        () = answer(&port.listener, &port.acceptor, Arc::new(doorman)) => {
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
        let asked = tokio::time::timeout(ATTEMPT, ask(&me.url, &port.settings));
        let asked = asked.await.unwrap_or_else(|_| Err(Failed::silent()));
        let failed = match asked {
            Ok(name) if name == me.replica.to_string() => return Ok(()),
            Ok(replica) => {
                let url = me.url.clone();
                return Err(SelfTestError::Shared { url, replica });
            }
            Err(failed) => failed,
        };
        let last = failed.lasts || Instant::now() + PAUSE >= deadline;
        if last {
            return Err(failed.explain(&me.url, tls));
        }
        tracing::debug!(url = me.url, why = failed.why, "not reachable yet");
        tokio::time::sleep(PAUSE).await;
    }
}

/// An attempt that has failed.
struct Failed {
    why: String,
    /// Whether another attempt makes no sense.
    lasts: bool,
    refused: bool,
    wrong_name: bool,
    /// Whether nobody listens.
    nobody: bool,
}

impl Failed {
    fn new(why: String) -> Self {
        Self {
            why,
            lasts: false,
            refused: false,
            wrong_name: false,
            nobody: false,
        }
    }

    fn silent() -> Self {
        Self::new(format!("no answer within {ATTEMPT:?}"))
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

impl From<ConnectError> for Failed {
    fn from(error: ConnectError) -> Self {
        let why = error.to_string();
        let wrong_name = why.contains("for another name");
        Self {
            wrong_name,
            nobody: error.is_refusal(),
            ..Self::new(why)
        }
    }
}

impl Vouch for PeerSettings {
    fn ask<'a>(&'a self, replica: &'a Owner) -> TableFuture<'a, Word> {
        Box::pin(async move {
            match ask(&replica.url, self).await {
                Ok(name) if name == replica.replica.to_string() => Word::Lives,
                Ok(_) => Word::Ended,
                Err(failed) if failed.nobody => Word::Ended,
                Err(_) => Word::Silence,
            }
        })
    }
}

/// Asks who answers at `url`.
async fn ask(url: &str, settings: &PeerSettings) -> Result<String, Failed> {
    let stream = dial(url, &settings.dial).await?;
    let http2 = runtime::grpc::client_settings();
    let (mut send, connection) = http2.handshake::<_, bytes::Bytes>(stream).await?;
    let question = Question::new(&settings.tokens, url);
    let (response, _) = send.send_request(question.question(), true)?;
    let response = tokio::select! {
        response = response => response?,
        ended = connection => {
            ended?;
            return Err(Failed::new("it closed the connection".to_owned()));
        }
    };
    let status = Status::from_header_map(response.headers());
    if let Some(greeted) = question.answered_by(response.headers()) {
        return Ok(greeted.replica().to_owned());
    }
    match status {
        Some(status) if matches!(status.code(), Code::Ok | Code::Unauthenticated) => Err(Failed {
            lasts: true,
            refused: true,
            ..Failed::new("it did not prove that it has this replica's secret".to_owned())
        }),
        status => Err(Failed::new(format!(
            "what answers is no replica of this kind (HTTP {}, {})",
            response.status(),
            status.map_or("no gRPC status".to_owned(), |status| status.to_string()),
        ))),
    }
}

async fn dial(url: &str, options: &ConnectOptions) -> Result<runtime::io::ByteStream, Failed> {
    let target = Target::parse(url).map_err(|error| Failed {
        lasts: true,
        ..Failed::new(error.to_string())
    })?;
    Ok(connect(&target, options).await?.io)
}

/// Answers whoever dials who it is, and nothing else yet.
async fn answer(listener: &Listener, acceptor: &PlainAcceptor, doorman: Arc<Doorman>) {
    // Nobody is answered any more once this is dropped.
    let stop = CancellationToken::new();
    let _dropped = stop.clone().drop_guard();
    let serve = move |accepted: PlainAccepted| async move {
        let answered = receive(accepted.io, &doorman);
        stop.run_until_cancelled(answered).await;
    };
    let server = Server::new(PORT, listener, acceptor.clone());
    server.run(Drain::new(), serve).await;
}

async fn receive(stream: runtime::io::ByteStream, doorman: &Doorman) {
    let Ok(mut http2) = runtime::grpc::server_settings().handshake(stream).await else {
        return;
    };
    let visitor = doorman.visitor();
    while let Some(Ok((request, respond))) = http2.accept().await {
        if let Some(respond) = doorman.admit(&visitor, &request, respond) {
            // A peer that is gone needs no answer.
            let _ = runtime::grpc::refuse(respond, &Status::unavailable("kas is starting"));
        }
    }
}

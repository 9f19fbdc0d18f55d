//! Dials an agent once: socket, TLS, HTTP/2, and the call that carries the rest.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use control_plane::{Material, MaterialError, Proof, ReceptiveAgent};
use http::{HeaderMap, HeaderValue, header};
use runtime::{
    connect::{ConnectOptions, Target, connect},
    grpc::{self, Channel},
    jwt::SigningKey,
    listen::Accepted,
    tls::{ClientTls, ClientTlsOptions, PemPair},
};
use tonic::{Code, Status};

use super::dial_error::DialError;
use crate::gateway::WEBSOCKET_PING_INTERVAL;

/// How long the agent may take to accept the call.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
/// `iss` and `aud` of the tokens that kas shows.
const ISSUER: &str = "gitlab-kas";
const AUDIENCE: &str = "gitlab-agent";

/// A connection on which the agent, as the client, is about to speak HTTP/2.
pub(super) struct Attached {
    pub(super) accepted: Accepted,
    /// Moves the bytes; ends when the socket has.
    pub(super) driver: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Dials the agent. Cancelling closes what was open.
pub(super) async fn dial(agent: &ReceptiveAgent, user_agent: &str) -> Result<Attached, DialError> {
    let target = Target::parse(&agent.url)?;
    let options = ConnectOptions {
        tls: tls(agent, &target).await?,
        user_agent: user_agent.to_owned(),
        ping_interval: Some(WEBSOCKET_PING_INTERVAL),
        ..ConnectOptions::default()
    };
    let metadata = metadata(&agent.proof, user_agent).await?;
    let connected = connect(&target, &options).await?;
    let handshake = grpc::client_settings().handshake(connected.io);
    let (send, mut http2) = handshake.await.map_err(DialError::of_http2)?;
    let attaching = grpc::attach(Channel::new(send, target.origin(), metadata));
    let attached = tokio::select! {
        biased;
        ended = &mut http2 => return Err(ended.map_or_else(DialError::of_http2, |()| closed())),
        attached = tokio::time::timeout(ATTACH_TIMEOUT, attaching) => attached,
    };
    let attached = match attached {
        Ok(Ok(attached)) => attached,
        Ok(Err(status)) => return Err(DialError::Refused(Box::new(status))),
        Err(_) => {
            let status = Status::new(Code::DeadlineExceeded, "no response in time");
            return Err(DialError::Refused(Box::new(status)));
        }
    };
    Ok(Attached {
        accepted: Accepted {
            io: attached,
            remote_addr: connected.remote_addr.unwrap_or_else(unspecified),
            scheme: connected.scheme,
        },
        driver: Box::pin(async move {
            if let Err(error) = http2.await {
                tracing::debug!(%error, "connection to receptive agent broke");
            }
        }),
    })
}

async fn tls(agent: &ReceptiveAgent, target: &Target) -> Result<Option<ClientTls>, DialError> {
    if !target.scheme().is_tls() {
        return match agent.proof {
            Proof::Jwt(_) => Ok(None),
            Proof::Certificate { .. } => Err(DialError::Material(
                "a certificate can only be shown to a grpcs:// or wss:// URL".to_owned(),
            )),
        };
    }
    let read = |it| async move { Material::read(it).await.map_err(unreadable) };
    let mut options = ClientTlsOptions {
        server_name: agent.server_name.clone(),
        ..ClientTlsOptions::default()
    };
    if let Some(ca) = &agent.ca {
        options.ca_pem = Some(read(ca).await?);
    }
    if let Proof::Certificate { certificate, key } = &agent.proof {
        options.identity_pem = Some(PemPair {
            certificate: read(certificate).await?,
            key: read(key).await?,
        });
    }
    Ok(Some(ClientTls::load(&options)?))
}

fn unreadable(error: MaterialError) -> DialError {
    DialError::Material(error.to_string())
}

async fn metadata(proof: &Proof, user_agent: &str) -> Result<HeaderMap, DialError> {
    let mut metadata = HeaderMap::new();
    let user_agent = HeaderValue::from_str(user_agent).expect("the version is plain text");
    metadata.insert(header::USER_AGENT, user_agent);
    if let Proof::Jwt(key) = proof {
        let key: Arc<str> = key.read().await.map_err(unreadable)?;
        let token = SigningKey::parse(&key)?.sign(ISSUER, AUDIENCE)?;
        let mut bearer =
            HeaderValue::from_str(&format!("Bearer {token}")).expect("a token is plain text");
        bearer.set_sensitive(true);
        metadata.insert(header::AUTHORIZATION, bearer);
    }
    Ok(metadata)
}

fn closed() -> DialError {
    DialError::Refused(Box::new(Status::unavailable(
        "the agent closed the connection",
    )))
}

fn unspecified() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 0))
}

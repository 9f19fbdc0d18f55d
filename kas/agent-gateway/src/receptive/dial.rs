//! Dials an agent once: socket, TLS, HTTP/2, and the call that carries the rest.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use control_plane::{Material, Proof, ReceptiveAgent};
use http::{HeaderMap, HeaderValue, header};
use proto::receptive::rpc::receptive_client::ReceptiveClient;
use runtime::{
    connect::{ConnectOptions, Target, connect},
    grpc::{self, Channel},
    jwt::SigningKey,
    listen::Accepted,
    tls::{ClientTls, ClientTlsOptions, PemPair},
};
use tonic::{Code, Status};

use super::trouble::Trouble;
use crate::agent_api::WEBSOCKET_PING_INTERVAL;

/// How long the agent may take to let kas in.
const ATTACH: Duration = Duration::from_secs(10);
/// Who signs tokens, and for whom.
const ISSUER: &str = "gitlab-kas";
const AUDIENCE: &str = "gitlab-agent";

/// A connection that is about to speak HTTP/2, where the agent is the client.
pub(super) struct Reached {
    pub(super) accepted: Accepted,
    /// Moves the bytes; ends when the socket has.
    pub(super) driver: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Dials the agent. Cancelling closes what was open.
pub(super) async fn dial(agent: &ReceptiveAgent, user_agent: &str) -> Result<Reached, Trouble> {
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
    let (send, mut http2) = handshake.await.map_err(Trouble::of_http2)?;
    let (outgoing, chunks) = grpc::outgoing();
    let mut client = ReceptiveClient::new(Channel::new(send, target.origin(), metadata));
    let attached = tokio::select! {
        biased;
        ended = &mut http2 => return Err(ended.map_or_else(Trouble::of_http2, |()| hung_up())),
        attached = tokio::time::timeout(ATTACH, client.attach(chunks)) => attached,
    };
    let attached = match attached {
        Ok(Ok(attached)) => attached,
        Ok(Err(status)) => return Err(Trouble::Refused(Box::new(status))),
        Err(_) => {
            let status = Status::new(Code::DeadlineExceeded, "it did not answer in time");
            return Err(Trouble::Refused(Box::new(status)));
        }
    };
    Ok(Reached {
        accepted: Accepted {
            io: grpc::carried(attached.into_inner(), outgoing),
            remote_addr: connected.peer.unwrap_or_else(unknown),
            scheme: connected.scheme,
        },
        driver: Box::pin(async move {
            if let Err(error) = http2.await {
                tracing::debug!(%error, "the connection to a receptive agent broke");
            }
        }),
    })
}

async fn tls(agent: &ReceptiveAgent, target: &Target) -> Result<Option<ClientTls>, Trouble> {
    if !target.scheme().is_tls() {
        return match agent.proof {
            Proof::Jwt(_) => Ok(None),
            Proof::Certificate { .. } => Err(Trouble::Material(
                "a certificate can only be shown to a grpcs:// or wss:// URL".to_owned(),
            )),
        };
    }
    let read = |it| async move { Material::read(it).await.map_err(Trouble::Material) };
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

async fn metadata(proof: &Proof, user_agent: &str) -> Result<HeaderMap, Trouble> {
    let mut metadata = HeaderMap::new();
    let user_agent = HeaderValue::from_str(user_agent).expect("the version is plain text");
    metadata.insert(header::USER_AGENT, user_agent);
    if let Proof::Jwt(key) = proof {
        let key: Arc<str> = key.read().await.map_err(Trouble::Material)?;
        let token = SigningKey::parse(&key)?.sign(ISSUER, AUDIENCE)?;
        let mut bearer =
            HeaderValue::from_str(&format!("Bearer {token}")).expect("a token is plain text");
        bearer.set_sensitive(true);
        metadata.insert(header::AUTHORIZATION, bearer);
    }
    Ok(metadata)
}

fn hung_up() -> Trouble {
    Trouble::Refused(Box::new(Status::unavailable("it ended the connection")))
}

fn unknown() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 0))
}

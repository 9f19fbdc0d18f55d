//! Dials an agent once: socket, TLS, HTTP/2, and the call or the tunnels that carry the rest.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use control_plane::ReceptiveAgent;
use runtime::{
    connect::{ConnectOptions, Target, connect},
    grpc::{self, Channel},
    io::ByteStream,
    listen::{Accepted, Scheme},
};
use tonic::{Code, Status};

use super::{
    credentials::{Credentials, tls},
    dial_error::DialError,
    form::Form,
    http2::Http2,
    tunnels::{self, Agent, Tunnels},
};
use crate::gateway::WEBSOCKET_PING_INTERVAL;

/// How long the agent may take to accept the call.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection on which the agent, as the client, is about to speak HTTP/2.
pub(super) struct Attached {
    pub(super) accepted: Accepted,
    pub(super) form: Form,
    /// Whether load balancers on the way see the agent's calls as streams.
    pub(super) seen: bool,
    /// Moves the bytes; ends when the socket has.
    pub(super) driver: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// What carries the agent's calls.
enum Carrier {
    /// A call.
    Call(Box<ByteStream>),
    Tunnels(Box<Tunnels>),
}

/// Dials the agent. `choice` is a form, and the one for agents that do not know it; by tunnels an agent can call what
/// `descriptor` lists. Cancelling closes what was open.
pub(super) async fn dial(
    agent: &ReceptiveAgent,
    user_agent: &str,
    (form, other): (Form, Option<Form>),
    descriptor: Bytes,
) -> Result<Attached, DialError> {
    let target = Target::parse(&agent.url)?;
    let options = ConnectOptions {
        tls: tls(agent, &target).await?,
        user_agent: user_agent.to_owned(),
        ping_interval: Some(WEBSOCKET_PING_INTERVAL),
        ..ConnectOptions::default()
    };
    let credentials = Credentials::read(&agent.proof, user_agent).await?;
    let mut connected = connect(&target, &options).await?;
    let heard = connected.io.heard();
    let handshake = grpc::client_settings().handshake(connected.io);
    let (send, mut connection) = handshake.await.map_err(DialError::of_http2)?;
    let scheme = connected.scheme;
    let peer = Arc::new(Agent {
        requests: send,
        origin: target.origin(),
        credentials,
        descriptor,
        seen: matches!(scheme, Scheme::Grpc | Scheme::Grpcs),
    });
    let beginning = async {
        match (begin(form, &peer).await, other) {
            (Err(error), Some(other)) if error.is_unknown_form() => begin(other, &peer).await,
            (begun, _) => begun,
        }
    };
    let carrier = tokio::select! {
        biased;
        ended = &mut connection => return Err(ended.map_or_else(DialError::of_http2, |()| closed())),
        carrier = beginning => carrier?,
    };
    let http2 = Http2 { connection, heard };
    let remote_addr = connected.remote_addr.unwrap_or_else(unspecified);
    Ok(match carrier {
        Carrier::Call(io) => Attached {
            accepted: accepted(*io, remote_addr, scheme),
            form: Form::Attach,
            seen: false,
            driver: Box::pin(async move {
                if let Err(error) = http2.connection.await {
                    tracing::debug!(%error, "connection to receptive agent broke");
                }
            }),
        },
        Carrier::Tunnels(tunnels) => {
            let seen = tunnels.are_seen();
            let (io, driver) = tunnels.carry(http2).await?;
            Attached {
                accepted: accepted(io, remote_addr, scheme),
                form: Form::ReverseTunnel,
                seen,
                driver: Box::pin(driver),
            }
        }
    })
}

async fn begin(form: Form, agent: &Arc<Agent>) -> Result<Carrier, DialError> {
    match form {
        Form::Attach => {
            let io = attach(agent).await?;
            Ok(Carrier::Call(Box::new(io)))
        }
        Form::ReverseTunnel => {
            let tunnels = tunnels::open(agent.clone()).await?;
            Ok(Carrier::Tunnels(Box::new(tunnels)))
        }
    }
}

async fn attach(agent: &Agent) -> Result<ByteStream, DialError> {
    let (requests, origin) = (agent.requests.clone(), agent.origin.clone());
    let channel = Channel::new(requests, origin, agent.credentials.metadata()?);
    let attached = tokio::time::timeout(ATTACH_TIMEOUT, grpc::attach(channel)).await;
    let late = |_| Status::new(Code::DeadlineExceeded, "no response in time");
    let attached = attached.map_err(late).and_then(|attached| attached);
    attached.map_err(|status| DialError::Refused(Box::new(status)))
}

fn accepted(io: ByteStream, remote_addr: SocketAddr, scheme: Scheme) -> Accepted {
    Accepted {
        io,
        remote_addr,
        scheme,
    }
}

fn closed() -> DialError {
    DialError::Refused(Box::new(Status::unavailable(
        "the agent closed the connection",
    )))
}

fn unspecified() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 0))
}

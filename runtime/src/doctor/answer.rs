//! What an answer to a call without a token says about the way.

use tonic::Code;

use super::{
    remedies::Fault,
    session::{Answer, SessionError},
};

/// A call that every kas knows, and refuses to whoever shows no token.
pub(super) const KNOWN_CALL: &str = "/gitlab.agent.reverse_tunnel.rpc.ReverseTunnel/Connect";

/// What stands in the way of a call.
#[derive(Debug)]
pub(super) struct Obstacle {
    pub(super) fault: Fault,
    pub(super) seen: String,
}

impl Answer {
    /// Whether a kas has answered.
    pub(super) fn reached(&self) -> Result<&tonic::Status, Obstacle> {
        let obstacle = |fault, seen| Err(Obstacle { fault, seen });
        match (&self.grpc, self.status.as_u16()) {
            (Some(status), _) if status.code() == Code::Unavailable => obstacle(
                Fault::NoUpstream,
                format!("gRPC: UNAVAILABLE {}", status.message()),
            ),
            (Some(status), 200) => Ok(status),
            (_, 413) => obstacle(Fault::BodyLimit, self.shown()),
            (_, 431) => obstacle(Fault::HeaderLimit, self.shown()),
            (_, 502..=504) => obstacle(Fault::NoUpstream, self.shown()),
            _ => obstacle(Fault::NotKas, self.shown()),
        }
    }

    fn shown(&self) -> String {
        let text = |name| {
            let value = self.headers.get(name)?;
            value.to_str().ok()
        };
        let kind = text("content-type").unwrap_or("no content type");
        let server = text("server").unwrap_or("a server without a name");
        format!("HTTP {} from {server} ({kind})", self.status)
    }
}

impl SessionError {
    /// What it says about the way.
    pub(super) fn obstacle(&self, otherwise: Fault) -> Obstacle {
        let fault = match self {
            Self::Connect(_) => Fault::Unreachable,
            Self::Http2(_) | Self::Timeout(_) => otherwise,
        };
        Obstacle {
            fault,
            seen: self.to_string(),
        }
    }
}

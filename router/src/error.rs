//! Errors between a request and its agent.

use std::time::Duration;

use proto::{frame::FrameError, sequence::OutOfOrder};
use runtime::grpc::ReceiveError;
use tonic::Status;

/// A call broke: its tunnel, or the path to it, cannot be used any more.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Broken {
    /// The connection or stream ended.
    #[error("the tunnel broke: {0}")]
    Connection(String),
    /// The agent refused the stream before it had seen the call: any call may be
    /// made again.
    #[error("the agent closed the tunnel before the call began")]
    Unused,
    /// The other side violated the protocol.
    #[error("the agent violated the protocol: {0}")]
    Order(#[from] OutOfOrder),
    /// The other side sent bytes that cannot be decoded.
    #[error("the agent sent a malformed message: {0}")]
    Malformed(String),
    /// The response was not read while other calls needed the window of the agent's connection.
    #[error(
        "the response was not read while other requests needed the flow-control window of the agent's connection"
    )]
    Unread,
    /// The replica that holds the tunnel ended the call.
    #[error("the replica that holds the tunnel ended the call: {}", .0.message())]
    Peer(Status),
}

impl From<h2::Error> for Broken {
    fn from(error: h2::Error) -> Self {
        if error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM) {
            return Self::Unused;
        }
        Self::Connection(error.to_string())
    }
}

/// Metadata of a status that means [`Broken::Unused`].
const UNUSED: &str = "kas-tunnel-unused";
/// Metadata of a status that means [`Broken::Unread`].
const UNREAD: &str = "kas-answer-unread";

impl Broken {
    /// The status for the peer.
    pub(crate) fn for_peer(&self) -> Status {
        let mut status = Status::unavailable(self.to_string());
        let mark = match self {
            Self::Unused => UNUSED,
            Self::Unread => UNREAD,
            Self::Connection(_) | Self::Order(_) | Self::Malformed(_) | Self::Peer(_) => {
                return status;
            }
        };
        let value = tonic::metadata::MetadataValue::from_static("true");
        status.metadata_mut().insert(mark, value);
        status
    }

    /// The meaning of an owner's status.
    pub(crate) fn from_owner(status: Status) -> Self {
        if status.metadata().contains_key(UNUSED) {
            return Self::Unused;
        }
        if status.metadata().contains_key(UNREAD) {
            return Self::Unread;
        }
        Self::Peer(status)
    }
}

impl From<ReceiveError> for Broken {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::Stream(error) => error.into(),
            ReceiveError::Frame(error) => error.into(),
        }
    }
}

impl From<FrameError> for Broken {
    fn from(error: FrameError) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<prost::DecodeError> for Broken {
    fn from(error: prost::DecodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// Requests of one agent that may be queued, of all callers.
pub(crate) const MAX_QUEUED_PER_AGENT: usize = 3000;
/// Requests of one agent that may be queued, of one caller: others keep room.
pub(crate) const MAX_QUEUED_PER_CALLER: usize = 1000;

/// There is no tunnel for a call.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// No replica has ever seen the agent.
    #[error("the agent has never connected: check that agentk runs in its cluster, and its log")]
    NeverConnected,
    /// The agent was connected and is not now.
    #[error(
        "the agent is not connected, it was last seen {} ago: check that agentk runs in its cluster, and its log",
        human(*ago)
    )]
    Disconnected {
        /// Time since its last tunnel ended.
        ago: Duration,
    },
    /// The agent is connected, but no tunnel became idle in time.
    #[error(
        "the agent is connected, but all its tunnels were in use for {}: end some requests or watches, or try again",
        human(*waited)
    )]
    AllBusy {
        /// How long the request waited.
        waited: Duration,
    },
    /// The agent does not support the method.
    #[error("the agent does not support the method of the request: upgrade agentk")]
    NotOffered,
    /// The agent does not support connection upgrades.
    #[error(
        "the agent does not support requests that upgrade their connection (exec, attach, port-forward): agentk 14.3 or later is needed"
    )]
    NoUpgrades,
    /// The agent does not support impersonation.
    #[error(
        "the agent does not support impersonation: agentk 14.3 or later is needed, and it must report its version"
    )]
    CannotImpersonate,
    /// A replica that holds tunnels of the agent failed.
    #[error("could not forward to the replica that holds the agent's tunnels: {0}")]
    OwnerUnreachable(String),
    /// The table is not authoritative, and no replica has a tunnel.
    #[error(
        "cannot tell whether the agent is connected: no reachable replica holds a tunnel of it, and the routing store is unavailable to some replica; try again"
    )]
    Uncertain,
    /// The caller uses tunnels of the agent, and those for such callers are all in use.
    #[error(
        "all {limit} tunnels of the agent are in use that callers with requests in progress may use, the rest is reserved for other callers: end some requests or watches, or try again"
    )]
    ShareUsed {
        /// Their number, on the replica that holds them.
        limit: usize,
    },
    /// The agent's queue is full.
    #[error(
        "too many requests are queued for this agent (limit: {MAX_QUEUED_PER_CALLER} per caller, {MAX_QUEUED_PER_AGENT} in total): try again"
    )]
    TooManyWaiting,
    /// The tunnel broke before the call could begin.
    #[error(transparent)]
    Broken(#[from] Broken),
}

fn human(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        s @ 1..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s => format!("{} h", s / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed_on(broken: &Broken) -> Broken {
        let trailers = runtime::grpc::trailers(&broken.for_peer());
        Broken::from_owner(Status::from_header_map(&trailers).unwrap())
    }

    #[test]
    fn errors_that_are_not_the_paths_fault_survive_the_way_through_a_peer() {
        assert!(matches!(passed_on(&Broken::Unused), Broken::Unused));
        assert!(matches!(passed_on(&Broken::Unread), Broken::Unread));
        let broken = Broken::Connection("reset".into());
        assert!(matches!(passed_on(&broken), Broken::Peer(_)));
    }
}

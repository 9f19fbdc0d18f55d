//! What can go wrong between a request and its agent.

use std::time::Duration;

use proto::{frame::FrameError, sequence::OutOfOrder};
use runtime::grpc::ReceiveError;
use tonic::Status;

/// A call broke: its tunnel, or the path to it, is of no use any more.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Broken {
    /// The connection or stream ended.
    #[error("the tunnel broke: {0}")]
    Connection(String),
    /// The agent gave the tunnel back before it had seen the call: any call may
    /// be made again.
    #[error("the agent gave the tunnel back unused")]
    Unused,
    /// The other side sent what the protocol forbids.
    #[error("the agent broke the protocol: {0}")]
    Order(#[from] OutOfOrder),
    /// The other side sent bytes that are no message.
    #[error("the agent sent a malformed message: {0}")]
    Malformed(String),
    /// The answer was not read while others needed the agent's connection.
    #[error("the answer was not read, while others needed the window of the agent's connection")]
    Unread,
    /// The replica that holds the tunnel ended the call.
    #[error("the replica that holds the tunnel ended the call: {0}")]
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

/// Marks the status by which an owner says [`Broken::Unused`].
const UNUSED: &str = "kas-tunnel-unused";
/// Marks the status by which an owner says [`Broken::Unread`].
const UNREAD: &str = "kas-answer-unread";

impl Broken {
    /// What the replica that asked is told.
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

    /// What the replica that holds the tunnel says.
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

/// No tunnel could be had for a call.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// No replica has ever seen the agent.
    #[error("the agent has never connected")]
    NeverConnected,
    /// The agent was there and is not now.
    #[error("the agent is not connected; it was last seen {} ago", human(*ago))]
    Disconnected {
        /// Time since its last tunnel ended.
        ago: Duration,
    },
    /// The agent is connected, but no tunnel became free in time.
    #[error("the agent is connected, but all its tunnels were busy for {}", human(*waited))]
    AllBusy {
        /// How long the request waited.
        waited: Duration,
    },
    /// The agent is connected and serves no such calls.
    #[error(
        "the agent does not offer the method that the request needs: its agentk is too old, or another"
    )]
    NotOffered,
    /// The request wants another protocol on its connection, which the agent cannot carry.
    #[error(
        "the agent is too old for requests that upgrade their connection, such as exec, attach and port-forward: agentk 14.3 or later is needed"
    )]
    NoUpgrades,
    /// The request must run as somebody, which the agent would ignore.
    #[error(
        "the agent is too old to act on behalf of a user: agentk 14.3 or later is needed, and it must say its version"
    )]
    CannotImpersonate,
    /// A replica that holds tunnels of the agent could not be asked.
    #[error("the replica that holds the agent's tunnels did not give one: {0}")]
    OwnerUnreachable(String),
    /// Nobody can say whether the agent is connected.
    #[error(
        "no replica that could be asked holds a tunnel of the agent, and the routing store is away, for this replica or for another: whether the agent is connected is not known"
    )]
    Uncertain,
    /// Of the agent's tunnels, those are in use that callers may use who use one already.
    #[error(
        "all {limit} tunnels of the agent are in use that callers may use who use one already, as this one does; the rest is for others: end some requests or watches, or try again"
    )]
    ShareUsed {
        /// How many these are, on the replica that holds them.
        limit: usize,
    },
    /// Too many requests wait for this agent already.
    #[error("too many requests of this caller, or of all, wait for the agent already")]
    TooManyWaiting,
    /// The tunnel that was found broke before the call could begin.
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
    fn what_is_not_the_paths_fault_survives_the_way_through_a_peer() {
        assert!(matches!(passed_on(&Broken::Unused), Broken::Unused));
        assert!(matches!(passed_on(&Broken::Unread), Broken::Unread));
        let broken = Broken::Connection("reset".into());
        assert!(matches!(passed_on(&broken), Broken::Peer(_)));
    }
}

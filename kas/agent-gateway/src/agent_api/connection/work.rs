//! What a connection's task does besides moving bytes and keeping tunnels.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use router::AgentId;

use super::{super::service::Served, Task};
use control_plane::TokenHash;

/// Something in progress.
pub(super) enum Work {
    /// A call that is no tunnel.
    Call(Served),
    /// The control plane is asked about all tokens again.
    Recheck(Task<Vec<TokenHash>>),
    /// An agent was asked to leave.
    Move(AgentId, Task<()>),
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Done {
    Call,
    /// These tokens are good no more.
    Rechecked(Vec<TokenHash>),
    /// This agent needs its idle tunnels here no more.
    Moved(AgentId),
}

impl Future for Work {
    type Output = Done;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        Poll::Ready(match self.get_mut() {
            Self::Call(call) => {
                ready!(call.as_mut().poll(cx));
                Done::Call
            }
            Self::Recheck(recheck) => Done::Rechecked(ready!(recheck.as_mut().poll(cx))),
            Self::Move(agent, moved) => {
                ready!(moved.as_mut().poll(cx));
                Done::Moved(*agent)
            }
        })
    }
}

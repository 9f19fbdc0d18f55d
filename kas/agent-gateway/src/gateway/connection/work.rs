//! What runs in a connection's task besides its HTTP/2 and its tunnels.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use control_plane::TokenHash;
use futures_util::future::BoxFuture;
use router::AgentId;
use tracing::instrument::Instrumented;

use super::super::{
    caller::OpenTunnel,
    service::{Served, ServedRunner},
};

/// Something in progress.
pub(super) enum Work {
    /// A call that is no tunnel, in the connection's span.
    Call(Instrumented<Served>),
    /// A call of a runner.
    RunnerCall(Instrumented<ServedRunner>),
    /// The control plane is asked about all tokens again.
    Reauthenticate(BoxFuture<'static, Vec<TokenHash>>),
    /// An agent has got GOAWAY.
    Move(AgentId, BoxFuture<'static, ()>),
    /// It is found out which cluster tunnels lead to.
    Identify(BoxFuture<'static, Vec<OpenTunnel>>),
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Done {
    Call,
    /// Whether its token was good.
    RunnerCall(bool),
    /// These tokens are not valid any more.
    Reauthenticated(Vec<TokenHash>),
    /// This agent has tunnels elsewhere, or was given enough time.
    Moved(AgentId),
    /// It is known which cluster these lead to.
    Identified(Vec<OpenTunnel>),
}

impl Future for Work {
    type Output = Done;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        Poll::Ready(match self.get_mut() {
            Self::Call(call) => {
                ready!(Pin::new(call).poll(cx));
                Done::Call
            }
            Self::RunnerCall(call) => Done::RunnerCall(ready!(Pin::new(call).poll(cx))),
            Self::Reauthenticate(asked) => Done::Reauthenticated(ready!(asked.as_mut().poll(cx))),
            Self::Move(agent, moved) => {
                ready!(moved.as_mut().poll(cx));
                Done::Moved(*agent)
            }
            Self::Identify(found) => Done::Identified(ready!(found.as_mut().poll(cx))),
        })
    }
}

//! The watch of an idle tunnel.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use cluster_state::AgentId;
use tonic::Status;

use super::{Cutter, Slot, State};

/// How the idle life of a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleEnd {
    /// A call took it, or it was retired.
    Taken,
    /// The agent ended or reset the stream, or broke the protocol on it.
    Lost,
}

/// Watches an idle tunnel from its connection's task, so that a stream that
/// dies leaves the registry at once. Completes when the idle life ends.
#[derive(Debug)]
pub struct IdleWatch(Arc<Slot>);

impl IdleWatch {
    pub(crate) fn new(slot: Arc<Slot>) -> Self {
        Self(slot)
    }

    /// Ends the tunnel with `status` if it is idle; a call in progress goes on.
    pub fn retire(&self, status: &Status) {
        if let Some(pool) = self.0.pool.upgrade() {
            pool.remove(&self.0);
        }
        if let Some(stream) = self.0.retire() {
            // A stream that is gone already needs no end.
            let _ = runtime::grpc::refuse(stream.respond, status);
        }
    }

    /// The agent.
    #[must_use]
    pub fn agent(&self) -> AgentId {
        self.0.offer.agent
    }

    /// A handle that ends the tunnel, even while a call uses it.
    #[must_use]
    pub fn cutter(&self) -> Cutter {
        Cutter(Arc::downgrade(&self.0))
    }
}

/// Without its watch nothing drives the stream: the connection is gone, and the
/// tunnel with it.
impl Drop for IdleWatch {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        let before = match &*state {
            State::Idle { .. } | State::Reserved { .. } => {
                std::mem::replace(&mut *state, State::Gone)
            }
            State::InUse { .. } | State::Cut | State::Gone => return,
        };
        drop(state);
        if let (State::Idle { .. }, Some(pool)) = (before, self.0.pool.upgrade()) {
            pool.remove(&self.0);
        }
    }
}

impl Future for IdleWatch {
    type Output = IdleEnd;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IdleEnd> {
        let mut state = self.0.lock();
        match &mut *state {
            State::InUse { .. } | State::Cut | State::Gone => {
                return Poll::Ready(IdleEnd::Taken);
            }
            State::Reserved { watcher } => {
                *watcher = Some(cx.waker().clone());
                return Poll::Pending;
            }
            State::Idle { stream, watcher } => {
                // An agent sends nothing on an idle tunnel: any data, end or reset ends it.
                if stream.recv.poll_data(cx).is_pending() {
                    *watcher = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
        *state = State::Gone;
        drop(state);
        if let Some(pool) = self.0.pool.upgrade() {
            pool.remove(&self.0);
        }
        Poll::Ready(IdleEnd::Lost)
    }
}

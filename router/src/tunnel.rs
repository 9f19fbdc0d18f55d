//! One tunnel: a stream that an agent opened and that carries one call.
//!
//! It is idle (parked in a [`Slot`] that the registry and the agent's
//! connection share), then reserved (a [`Tunnel`] in the hands of one request),
//! then in use (a [`Call`](crate::Call)), unless it is [cut](Cutter). A reserved tunnel
//! that is dropped unused becomes idle again.

mod idle;
mod pool;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Waker},
};

use cluster_state::AgentId;
use proto::{ProcessMethod, frame::Deframer};
use runtime::grpc::SendResponse;
use tonic::Status;

use crate::{opening::Need, refusal::Refusal};
pub use idle::{IdleEnd, IdleWatch};
pub(crate) use pool::{TunnelPool, UsageGuard};

/// The two halves of an agent's stream.
#[derive(Debug)]
pub struct Stream {
    /// From the agent.
    pub recv: h2::RecvStream,
    /// What was received of the next message.
    pub deframer: Deframer,
    /// To the agent; nothing was sent yet.
    pub respond: SendResponse,
}

/// What a tunnel can be used for.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The agent.
    pub agent: AgentId,
    /// Paths of the methods that can be called through it.
    pub methods: Arc<[Arc<str>]>,
    /// Whether the agent supports impersonation.
    pub impersonates: bool,
    /// Whether the agent supports connection upgrades.
    pub upgrades: bool,
}

impl Offer {
    /// The method by which this agent process and no other is asked for answers that it has kept, where it has one.
    pub(crate) fn answers(&self) -> Option<&Arc<str>> {
        let mut methods = self.methods.iter();
        methods.find(|method| ProcessMethod::Answers.is(method))
    }

    pub(crate) fn satisfies(&self, need: &Need) -> bool {
        self.unfit(need).is_none()
    }

    /// Why the tunnel cannot serve the call; `None` if it can.
    pub(crate) fn unfit(&self, need: &Need) -> Option<Refusal> {
        if !self.methods.iter().any(|offered| **offered == *need.method) {
            return Some(Refusal::NotOffered);
        }
        if need.impersonation && !self.impersonates {
            return Some(Refusal::CannotImpersonate);
        }
        (need.upgrade && !self.upgrades).then_some(Refusal::NoUpgrades)
    }

    /// Whether tunnels of both serve the same calls; two equal lists of methods may count as different.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.methods, &other.methods)
            && (self.impersonates, self.upgrades) == (other.impersonates, other.upgrades)
    }
}

/// The shared state of a tunnel, idle or in use. The tunnel counts as long as it lives.
#[derive(Debug)]
pub struct Slot {
    pub(crate) offer: Offer,
    pool: Weak<dyn TunnelPool>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Idle {
        stream: Stream,
        watcher: Option<Waker>,
    },
    Reserved {
        watcher: Option<Waker>,
    },
    InUse {
        call: Option<Waker>,
    },
    /// Ended from outside: its agent's token was revoked.
    Cut,
    Gone,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.tunnel_ended(&self.offer);
        }
    }
}

impl Slot {
    pub(crate) fn new(offer: Offer, stream: Stream, pool: Weak<dyn TunnelPool>) -> Arc<Self> {
        let state = Mutex::new(State::Idle {
            stream,
            watcher: None,
        });
        Arc::new(Self { offer, pool, state })
    }

    /// Reserves the tunnel if it is idle.
    pub(crate) fn reserve(self: &Arc<Self>) -> Option<Tunnel> {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Gone) {
            State::Idle { stream, watcher } => {
                *state = State::Reserved { watcher };
                Some(Tunnel {
                    slot: self.clone(),
                    stream: Some(stream),
                    usage: None,
                })
            }
            other => {
                *state = other;
                None
            }
        }
    }

    /// Takes the stream of an idle tunnel, to end it.
    fn retire(&self) -> Option<Stream> {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Gone) {
            State::Idle { stream, watcher } => {
                drop(state);
                wake(watcher);
                Some(stream)
            }
            other => {
                *state = other;
                None
            }
        }
    }

    /// Makes a reserved tunnel idle again; its watch polls the stream anew.
    fn unreserve(&self, stream: Stream) {
        let mut state = self.lock();
        let State::Reserved { watcher } = std::mem::replace(&mut *state, State::Gone) else {
            return;
        };
        *state = State::Idle {
            stream,
            watcher: None,
        };
        drop(state);
        wake(watcher);
    }

    /// Whether it will never be idle again.
    pub(crate) fn is_gone(&self) -> bool {
        match *self.lock() {
            State::Idle { .. } | State::Reserved { .. } => false,
            State::InUse { .. } | State::Cut | State::Gone => true,
        }
    }

    fn started(&self) {
        let mut state = self.lock();
        if matches!(*state, State::Cut) {
            return;
        }
        let before = std::mem::replace(&mut *state, State::InUse { call: None });
        drop(state);
        if let State::Reserved { watcher } = before {
            wake(watcher);
        }
    }

    /// Ends the tunnel now; a call that uses it breaks.
    fn cut(self: &Arc<Self>) {
        let before = std::mem::replace(&mut *self.lock(), State::Cut);
        match before {
            State::Idle { stream, watcher } => {
                if let Some(pool) = self.pool.upgrade() {
                    pool.remove(self);
                }
                // A stream that is gone already needs no end.
                let _ = runtime::grpc::refuse(stream.respond, &Status::ok(""));
                wake(watcher);
            }
            State::Reserved { watcher } => wake(watcher),
            State::InUse { call } => wake(call),
            State::Cut | State::Gone => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held by the call that uses a tunnel: keeps the tunnel alive and counted for its caller.
#[derive(Debug)]
pub(crate) struct TunnelInUse {
    slot: Arc<Slot>,
    _usage: Option<UsageGuard>,
}

/// A tunnel that is reserved for one request and not used yet.
#[derive(Debug)]
pub struct Tunnel {
    slot: Arc<Slot>,
    stream: Option<Stream>,
    /// Dropped after the tunnel was put back.
    usage: Option<UsageGuard>,
}

impl Tunnel {
    /// The agent, and what the tunnel can be used for.
    #[must_use]
    pub fn offer(&self) -> &Offer {
        &self.slot.offer
    }

    /// Counts for a caller.
    pub(crate) fn used(mut self, usage: UsageGuard) -> Self {
        self.usage = Some(usage);
        self
    }

    /// Commits to using the tunnel: it never becomes idle again.
    pub(crate) fn commit(mut self) -> (Stream, TunnelInUse) {
        let stream = self
            .stream
            .take()
            .expect("only commit and drop take the stream");
        self.slot.started();
        let in_use = TunnelInUse {
            slot: self.slot.clone(),
            _usage: self.usage.take(),
        };
        (stream, in_use)
    }

    /// Makes the tunnel idle without putting it back: the pool is placing it.
    pub(crate) fn unreserve(mut self) {
        if let Some(stream) = self.stream.take() {
            self.slot.unreserve(stream);
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let Some(stream) = self.stream.take() else {
            return;
        };
        self.slot.unreserve(stream);
        if let Some(pool) = self.slot.pool.upgrade() {
            pool.put_back(&self.slot);
        }
    }
}

impl TunnelInUse {
    /// What the tunnel can be used for.
    pub(crate) fn offer(&self) -> &Offer {
        &self.slot.offer
    }

    /// Whether the tunnel was cut; the call is woken when it is.
    pub(crate) fn poll_cut(&self, cx: &mut Context<'_>) -> bool {
        let mut state = self.slot.lock();
        match &mut *state {
            State::Cut => true,
            State::InUse { call } => {
                if !call.as_ref().is_some_and(|it| it.will_wake(cx.waker())) {
                    *call = Some(cx.waker().clone());
                }
                false
            }
            State::Idle { .. } | State::Reserved { .. } | State::Gone => false,
        }
    }
}

/// Ends a tunnel from outside, idle or in use. Holds it weakly.
#[derive(Debug, Clone)]
pub struct Cutter(Weak<Slot>);

impl Cutter {
    /// Ends the tunnel now: a call that uses it breaks.
    pub fn cut(&self) {
        if let Some(slot) = self.0.upgrade() {
            slot.cut();
        }
    }

    /// Whether there is a tunnel to end.
    #[must_use]
    pub fn is_of_use(&self) -> bool {
        self.0.strong_count() > 0
    }
}

fn wake(watcher: Option<Waker>) {
    if let Some(watcher) = watcher {
        watcher.wake();
    }
}

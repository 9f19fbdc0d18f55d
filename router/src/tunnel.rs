//! One tunnel: a stream that an agent opened and that carries one call.
//!
//! It is idle (parked in a [`Slot`] that the registry and the agent's
//! connection share), then reserved (a [`Tunnel`] in the hands of one request),
//! then in use (a [`Call`](crate::Call)), unless it is [cut](Cutter). A reserved tunnel
//! that is dropped unused becomes idle again.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
};

use cluster_state::AgentId;
use proto::frame::Deframer;
use runtime::grpc::SendResponse;
use tonic::Status;

use crate::{
    refusal::Refusal,
    registry::{Alive, InUse, Registry},
    search::Need,
};

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

/// What is known of a tunnel without looking at its stream.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Whose tunnel it is.
    pub agent: AgentId,
    /// Paths of the methods that can be called through it.
    pub methods: Arc<[String]>,
    /// Whether the agent acts on behalf of others when told to.
    pub impersonates: bool,
    /// Whether the agent carries what follows an HTTP upgrade.
    pub upgrades: bool,
}

impl Offer {
    pub(crate) fn satisfies(&self, need: &Need) -> bool {
        self.unfit(need).is_none()
    }

    /// Why the tunnel cannot serve the call, if so.
    pub(crate) fn unfit(&self, need: &Need) -> Option<Refusal> {
        if !self.methods.iter().any(|offered| **offered == *need.method) {
            return Some(Refusal::NotOffered);
        }
        if need.impersonation && !self.impersonates {
            return Some(Refusal::CannotImpersonate);
        }
        (need.upgrade && !self.upgrades).then_some(Refusal::NoUpgrades)
    }
}

/// Where a tunnel waits.
#[derive(Debug)]
pub struct Slot {
    pub(crate) offer: Offer,
    registry: Weak<Registry>,
    state: Mutex<State>,
    #[expect(dead_code, reason = "held for its Drop")]
    alive: Alive,
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
    /// It ends because its agent may not stay, whatever it is used for.
    Cut,
    Gone,
}

impl Slot {
    pub(crate) fn new(
        offer: Offer,
        stream: Stream,
        registry: Weak<Registry>,
        alive: Alive,
    ) -> Arc<Self> {
        let state = Mutex::new(State::Idle {
            stream,
            watcher: None,
        });
        Arc::new(Self {
            offer,
            registry,
            state,
            alive,
        })
    }

    /// Reserves the tunnel, unless somebody else was faster or it is gone.
    pub(crate) fn reserve(self: &Arc<Self>) -> Option<Tunnel> {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Gone) {
            State::Idle { stream, watcher } => {
                *state = State::Reserved { watcher };
                Some(Tunnel {
                    slot: self.clone(),
                    stream: Some(stream),
                    in_use: None,
                })
            }
            other => {
                *state = other;
                None
            }
        }
    }

    /// Takes an idle tunnel out for good, to end its stream.
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

    /// Makes a reserved tunnel idle again; its watch looks at the stream anew.
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
                if let Some(registry) = self.registry.upgrade() {
                    registry.forget(self);
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

/// Held by the call that uses a tunnel: the tunnel is alive, and counted as its caller's, as long as this is.
#[derive(Debug)]
pub(crate) struct Using {
    slot: Arc<Slot>,
    _in_use: Option<InUse>,
}

/// A tunnel that one request has to itself and has not used yet.
#[derive(Debug)]
pub struct Tunnel {
    slot: Arc<Slot>,
    stream: Option<Stream>,
    /// Given back after the tunnel.
    in_use: Option<InUse>,
}

impl Tunnel {
    /// Whose tunnel it is, and what it offers.
    #[must_use]
    pub fn offer(&self) -> &Offer {
        &self.slot.offer
    }

    /// Counts as in use by somebody.
    pub(crate) fn used(mut self, in_use: InUse) -> Self {
        self.in_use = Some(in_use);
        self
    }

    /// Commits to using the tunnel: it never becomes idle again.
    pub(crate) fn commit(mut self) -> (Stream, Using) {
        let stream = self
            .stream
            .take()
            .expect("only commit and drop take the stream");
        self.slot.started();
        let using = Using {
            slot: self.slot.clone(),
            _in_use: self.in_use.take(),
        };
        (stream, using)
    }

    /// Makes the tunnel idle without telling the registry, which is placing it.
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
        if let Some(registry) = self.slot.registry.upgrade() {
            registry.put_back(&self.slot);
        }
    }
}

impl Using {
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

/// Ends a tunnel from outside, idle or in use. It keeps nothing alive.
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
        if let Some(registry) = self.0.registry.upgrade() {
            registry.forget(&self.0);
        }
        if let Some(stream) = self.0.retire() {
            // A stream that is gone already needs no end.
            let _ = runtime::grpc::refuse(stream.respond, status);
        }
    }

    /// Whose tunnel it is.
    #[must_use]
    pub fn agent(&self) -> AgentId {
        self.0.offer.agent
    }

    /// What ends the tunnel even after this watch is gone, when a call uses it.
    #[must_use]
    pub fn cutter(&self) -> Cutter {
        Cutter(Arc::downgrade(&self.0))
    }
}

/// Nobody drives the stream of a tunnel that is not watched: the connection is
/// gone, and the tunnel with it.
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
        if let (State::Idle { .. }, Some(registry)) = (before, self.0.registry.upgrade()) {
            registry.forget(&self.0);
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
                // Nothing may come from an idle agent: any data, end or reset is the end.
                if stream.recv.poll_data(cx).is_pending() {
                    *watcher = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
        *state = State::Gone;
        drop(state);
        if let Some(registry) = self.0.registry.upgrade() {
            registry.forget(&self.0);
        }
        Poll::Ready(IdleEnd::Lost)
    }
}

fn wake(watcher: Option<Waker>) {
    if let Some(watcher) = watcher {
        watcher.wake();
    }
}

//! Calls whose responses are read as fast as a client takes them, and the end of those that are not read.
//!
//! Unread data of a response uses up the flow-control window of the agent's connection, which all its calls
//! share. Calls with unread data are [counted](Reader::count) by agent and caller; while a window is scarce,
//! [`Readers::watch`] cuts those that make no progress, first those of the caller with most unread data.

mod overdue;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use cluster_state::AgentId;
use runtime::grpc::STREAM_WINDOW_BYTES;
use tokio::time::Instant;

use crate::{
    call::{Call, Event},
    error::Broken,
};
use overdue::{Held, SCARCE_BYTES, overdue};

/// How often unread responses are checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// A call in progress whose response is being read. Dropping it cancels the call.
#[derive(Debug)]
pub struct Reader {
    /// The call, until it is counted.
    call: Option<Call>,
    counted: Option<Place>,
}

/// The counted calls of a replica.
#[derive(Debug, Default)]
pub struct Readers {
    /// By agent, then by the call's address.
    agents: Mutex<HashMap<AgentId, HashMap<usize, Arc<Counted>>>>,
    cut: AtomicU64,
}

/// A counted call among its agent's, as long as this is held.
#[derive(Debug)]
struct Place {
    readers: Arc<Readers>,
    counted: Arc<Counted>,
}

#[derive(Debug)]
struct Counted {
    agent: AgentId,
    caller: Arc<str>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Gone once it was cut.
    call: Option<Call>,
    /// Messages that were read.
    taken: u64,
    seen: Seen,
    waker: Option<Waker>,
}

/// The result of the last check.
#[derive(Debug)]
struct Seen {
    /// Its number: only two checks in a row prove that nothing was read.
    check: u64,
    taken: u64,
    /// Since when there has been data that is not read.
    since: Instant,
}

impl Reader {
    /// A call that is not counted yet, which costs nothing: most responses are short.
    #[must_use]
    pub fn new(call: Call) -> Self {
        Self {
            call: Some(call),
            counted: None,
        }
    }

    /// Counts the call among those of its agent and caller from now on, if it is not yet.
    pub fn count(&mut self, readers: &Arc<Readers>, agent: AgentId, caller: &Arc<str>) {
        if let Some(call) = self.call.take() {
            self.counted = Some(readers.place(call, agent, caller.clone()));
        }
    }

    /// Calls `act` with the call.
    ///
    /// # Errors
    /// [`Broken::Unread`] when it was cut.
    pub fn with<T>(&mut self, act: impl FnOnce(&mut Call) -> T) -> Result<T, Broken> {
        if let Some(place) = &self.counted {
            let mut state = place.counted.state();
            return state.call.as_mut().map(act).ok_or(Broken::Unread);
        }
        self.call.as_mut().map(act).ok_or(Broken::Unread)
    }

    /// The next event; see [`Call::poll_event`].
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Broken>> {
        self.poll_raw(cx).map_ok(|(event, _)| event)
    }

    /// The next event, with the bytes that it came in.
    pub(crate) fn poll_raw(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Event, Bytes), Broken>> {
        let Some(place) = &self.counted else {
            let call = self.call.as_mut();
            return call.map_or(Poll::Ready(Err(Broken::Unread)), |call| call.poll_raw(cx));
        };
        let mut state = place.counted.state();
        let Some(call) = &mut state.call else {
            return Poll::Ready(Err(Broken::Unread));
        };
        let event = call.poll_raw(cx);
        if event.is_ready() {
            state.taken += 1;
        }
        event
    }

    /// Whether the call was cut; the task is woken when it is.
    pub(crate) fn poll_cut(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(place) = &self.counted else {
            return false;
        };
        let mut state = place.counted.state();
        let waits = state.waker.as_ref();
        if !waits.is_some_and(|it| it.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        state.call.is_none()
    }

    /// The call, unless it was cut.
    #[must_use]
    pub fn into_call(mut self) -> Option<Call> {
        match &self.counted {
            Some(place) => place.counted.state().call.take(),
            None => self.call.take(),
        }
    }
}

impl Readers {
    /// Checks unread responses at the interval, for ever, and cuts those that keep other calls waiting.
    pub async fn watch(self: Arc<Self>) {
        let mut checks = tokio::time::interval(CHECK_INTERVAL);
        checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for number in 1.. {
            checks.tick().await;
            self.check(number, Instant::now());
        }
    }

    /// Number of responses that were cut.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    fn place(self: &Arc<Self>, call: Call, agent: AgentId, caller: Arc<str>) -> Place {
        let counted = Arc::new(Counted {
            agent,
            caller,
            state: Mutex::new(State {
                call: Some(call),
                taken: 0,
                seen: Seen {
                    check: 0,
                    taken: 0,
                    since: Instant::now(),
                },
                waker: None,
            }),
        });
        let mut agents = self.agents();
        let readers = agents.entry(agent).or_default();
        readers.insert(Arc::as_ptr(&counted) as usize, counted.clone());
        drop(agents);
        Place {
            readers: self.clone(),
            counted,
        }
    }

    fn check(&self, number: u64, now: Instant) {
        // Fewer calls than these cannot hold enough unread data.
        let few = SCARCE_BYTES / STREAM_WINDOW_BYTES as usize;
        let crowds: Vec<Vec<Arc<Counted>>> = {
            let agents = self.agents();
            let crowds = agents.values().filter(|readers| readers.len() > few);
            crowds.map(|it| it.values().cloned().collect()).collect()
        };
        for crowd in crowds {
            self.cut_overdue(&crowd, number, now);
        }
    }

    fn cut_overdue(&self, crowd: &[Arc<Counted>], number: u64, now: Instant) {
        let held: Vec<_> = crowd.iter().map(|it| it.check(number, now)).collect();
        let mut cut_by_caller: HashMap<&str, (AgentId, usize, usize)> = HashMap::new();
        for index in overdue(&held) {
            let counted = &crowd[index];
            if counted.cut() {
                self.cut.fetch_add(1, Ordering::Relaxed);
                let (_, responses, bytes) =
                    cut_by_caller
                        .entry(&counted.caller)
                        .or_insert((counted.agent, 0, 0));
                *responses += 1;
                *bytes += held[index].unread;
            }
        }
        for (caller, (agent, responses, bytes)) in cut_by_caller {
            tracing::warn!(
                agent.id = agent.0,
                caller,
                responses,
                bytes,
                "cut responses that their client does not read: they used up the flow-control window of the agent's connection"
            );
        }
    }

    fn agents(&self) -> MutexGuard<'_, HashMap<AgentId, HashMap<usize, Arc<Counted>>>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut agents = self.readers.agents();
        let agent = self.counted.agent;
        if let Some(readers) = agents.get_mut(&agent) {
            readers.remove(&(Arc::as_ptr(&self.counted) as usize));
            if readers.is_empty() {
                agents.remove(&agent);
            }
        }
    }
}

impl Counted {
    /// The unread data, and for how long nothing was read.
    fn check(&self, number: u64, now: Instant) -> Held<'_> {
        let mut state = self.state();
        let unread = state.call.as_mut().map_or(0, Call::unread);
        let State { taken, seen, .. } = &mut *state;
        if unread == 0 || seen.taken != *taken || seen.check + 1 != number {
            seen.since = now;
        }
        seen.taken = *taken;
        seen.check = number;
        Held {
            caller: &self.caller,
            unread,
            still: now.saturating_duration_since(seen.since),
        }
    }

    /// Cancels the call; `false` if it had ended already.
    fn cut(&self) -> bool {
        let (call, waker) = {
            let mut state = self.state();
            (state.call.take(), state.waker.take())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        call.is_some()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

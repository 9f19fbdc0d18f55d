//! Reads agents' records from the store, once for all requests that wait.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Inner, State,
    record_cache::{CachedRecord, ReadTicket},
};
use crate::id::AgentId;

/// A record that a request waits for is read again after so long, in case an
/// event was lost.
const RECHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How long requests do not wait for a store that did not answer in time.
const SLOW_STORE_PAUSE: Duration = Duration::from_secs(2);

/// The agent's record, read from the store if it is not fresh and as far as the
/// store answers within the lookup timeout.
pub(super) async fn fresh(inner: &Arc<Inner>, agent: AgentId) -> CachedRecord {
    let deadline = Instant::now() + inner.settings.lookup_timeout;
    loop {
        let now = Instant::now();
        let read = {
            let mut state = inner.lock();
            let known = state.records.get(agent, now);
            if known.fresh {
                return known;
            }
            let read = state.records.read_done(agent, now).notified_owned();
            begin(inner, &mut state, agent, now);
            if now >= deadline {
                // The next requests do not wait in vain, and what was not read
                // does not prove that an agent is absent.
                state.do_not_wait_until = now + SLOW_STORE_PAUSE;
                state.start_recovery_grace(now);
            }
            if state.unavailable || now < state.do_not_wait_until {
                return known;
            }
            read
        };
        // Late or not, the loop looks at what is there.
        let _ = timeout_at(deadline, read).await;
    }
}

/// Reads the record again in the background if it is not quite new.
pub(super) fn recheck(inner: &Arc<Inner>, agent: AgentId, known: &CachedRecord) {
    let now = Instant::now();
    if now.saturating_duration_since(known.read_at) >= RECHECK_INTERVAL {
        begin(inner, &mut inner.lock(), agent, now);
    }
}

fn begin(inner: &Arc<Inner>, state: &mut State, agent: AgentId, now: Instant) {
    if state.budget.left(now) == 0 {
        return;
    }
    let Some(ticket) = state.records.begin_read(agent, now) else {
        return;
    };
    state.budget.take(1, now);
    let inner = inner.clone();
    let stop = inner.stop.clone();
    let tasks = inner.tasks.clone();
    tasks.spawn(async move {
        stop.run_until_cancelled(read(inner, agent, ticket)).await;
    });
}

async fn read(inner: Arc<Inner>, agent: AgentId, mut ticket: ReadTicket) {
    loop {
        let answer = timeout(inner.settings.operation_timeout, inner.store.read(agent)).await;
        let now = Instant::now();
        let mut state = inner.lock();
        let record = match answer {
            Ok(Ok(record)) => Some(record),
            Ok(Err(error)) => {
                tracing::debug!(agent.id = agent.0, %error, "reading an agent's record failed");
                None
            }
            Err(_) => None,
        };
        let failed = record.is_none();
        if record
            .as_ref()
            .is_some_and(|it| it.incomplete && it.is_empty())
        {
            // The renewal finds out what the store has lost, and writes it again.
            inner.renew.notify_one();
        }
        if failed {
            state.start_recovery_grace(now);
        }
        let again = state.records.end_read(agent, ticket, record, now);
        // Without a budget, the next request begins again.
        if failed || !again || state.budget.left(now) == 0 {
            return;
        }
        let Some(next) = state.records.begin_read(agent, now) else {
            return;
        };
        state.budget.take(1, now);
        ticket = next;
    }
}

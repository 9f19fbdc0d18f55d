//! Reads agents' records, once for all who wait.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Inner,
    records::{Known, Reading},
};
use crate::id::AgentId;

/// A record that somebody waits for is read again after so long, in case a
/// report was lost.
const RECHECK: Duration = Duration::from_secs(5);
/// How long nobody waits for a store that did not answer in time.
const SLOW: Duration = Duration::from_secs(2);

/// What is known of the agent, read from the store if need be and as far as it
/// answers soon.
pub(super) async fn fresh(inner: &Arc<Inner>, agent: AgentId) -> Known {
    let deadline = Instant::now() + inner.settings.patience;
    loop {
        let now = Instant::now();
        let read = {
            let mut state = inner.lock();
            let known = state.records.known(agent, now);
            if known.fresh {
                return known;
            }
            let read = state.records.read(agent, now).notified_owned();
            begin(inner, &mut state, agent, now);
            if now >= deadline {
                // Nobody else waits in vain soon, and what was not read says
                // nothing about who is absent.
                state.slow_until = now + SLOW;
                state.doubt(now);
            }
            if state.away || now < state.slow_until {
                return known;
            }
            read
        };
        // Late or not, the loop looks at what is there.
        let _ = timeout_at(deadline, read).await;
    }
}

/// Reads the record again when it is not quite new. Nobody waits for that.
pub(super) fn look_again(inner: &Arc<Inner>, agent: AgentId, known: &Known) {
    let now = Instant::now();
    if now.saturating_duration_since(known.read_at) >= RECHECK {
        begin(inner, &mut inner.lock(), agent, now);
    }
}

fn begin(inner: &Arc<Inner>, state: &mut super::State, agent: AgentId, now: Instant) {
    if state.budget.left(now) == 0 {
        return;
    }
    let Some(reading) = state.records.begin(agent, now) else {
        return;
    };
    state.budget.take(1, now);
    let inner = inner.clone();
    let stop = inner.stop.clone();
    let tasks = inner.tasks.clone();
    tasks.spawn(async move {
        stop.run_until_cancelled(read(inner, agent, reading)).await;
    });
}

async fn read(inner: Arc<Inner>, agent: AgentId, mut reading: Reading) {
    loop {
        let answer = timeout(inner.settings.operation, inner.store.read(agent)).await;
        let now = Instant::now();
        let mut state = inner.lock();
        let record = match answer {
            Ok(Ok(record)) => Some(record),
            Ok(Err(error)) => {
                tracing::debug!(%error, %agent, "an agent's record could not be read");
                None
            }
            Err(_) => None,
        };
        let failed = record.is_none();
        if record
            .as_ref()
            .is_some_and(|it| it.doubtful && it.is_empty())
        {
            // All finds out what the store has lost, and tells it again.
            inner.renew.notify_one();
        }
        if failed {
            state.doubt(now);
        }
        let again = state.records.end(agent, reading, record, now);
        // Without a budget, whoever asks next begins again.
        if failed || !again || state.budget.left(now) == 0 {
            return;
        }
        let Some(next) = state.records.begin(agent, now) else {
            return;
        };
        state.budget.take(1, now);
        reading = next;
    }
}

//! Why agents are not connected, and since when: by the last thing that happened to their connections.
//!
//! That is a command to the store for each of them, so that only those are looked up who are on a page, a bounded
//! number of them, and what was found serves all who ask for some seconds. Connected agents cost nothing.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cluster_state::{
    AgentId, ConnectionEvent, ConnectionRecord, RecordSubject, RecordsPage, StoreHealth,
};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::{
    Sources,
    agent_state::DISCONNECTED,
    peers, records,
    v1::{Absence, Agent},
};

/// Agents that are looked up for one page.
const MAX_LOOKED_UP: usize = 100;
/// Agents of which it is remembered.
const MAX_REMEMBERED: usize = 10_000;
/// For how long.
const REMEMBERED: Duration = Duration::from_secs(10);
/// How long all of a page may take; what is not known then is left out.
const TIMEOUT: Duration = Duration::from_millis(150);

/// Bytes of a reason that are told; its record has the whole of it.
const MAX_REASON_BYTES: usize = 128;
/// What an absence adds to a page at most: its state, an instant and a reason.
pub(crate) const MAX_BYTES: usize = MAX_REASON_BYTES + 64;

/// Nothing happened to it that is on record.
const NEVER: &str = "never connected";
/// It was connected.
const DOWN: &str = "down";
/// It was refused since.
const REFUSED: &str = "refused";

/// What was found lately.
#[derive(Debug, Default)]
pub(crate) struct Absences {
    /// Held by who looks agents up, so that all who ask at once do so once.
    looking: tokio::sync::Mutex<()>,
    known: Mutex<HashMap<AgentId, (Instant, Absence)>>,
}

impl Absences {
    /// Adds to those of these agents who are not connected why they are not, as far as that is known in time.
    pub(crate) async fn explain(&self, sources: &Sources, agents: &mut [Agent]) {
        let absent = agents.iter_mut().filter(|it| it.state == DISCONNECTED);
        let mut absent: Vec<_> = absent.take(MAX_LOOKED_UP).collect();
        if absent.is_empty() {
            return;
        }
        if sources.table.store_health() != StoreHealth::Unavailable {
            let ids = absent.iter().map(|it| AgentId(it.id)).collect();
            let unknown = self.unknown(ids);
            if !unknown.is_empty() {
                let lookups = async {
                    let _turn = self.looking.lock().await;
                    // Whoever had the turn before may have found them.
                    let unknown = self.unknown(unknown).into_iter();
                    let lookups = unknown.map(|id| self.look_up(sources, id));
                    peers::all(lookups.collect()).await
                };
                // What is missing then is looked up by who asks next.
                let _ = tokio::time::timeout(TIMEOUT, lookups).await;
            }
        }
        let known = self.known();
        for agent in &mut absent {
            agent.absence = fresh(&known, AgentId(agent.id)).cloned();
        }
    }

    /// Those of these agents of which nothing is remembered.
    fn unknown(&self, mut agents: Vec<AgentId>) -> Vec<AgentId> {
        let known = self.known();
        agents.retain(|id| fresh(&known, *id).is_none());
        agents
    }

    async fn look_up(&self, sources: &Sources, agent: AgentId) {
        let newest = RecordsPage {
            before: None,
            limit: 1,
        };
        let read = sources
            .tracker
            .log()
            .read(RecordSubject::Agent(agent), newest);
        let Ok(records) = read.await else {
            return;
        };
        let absence = match records.into_iter().next() {
            Some(record) => of_record(record),
            // Records end before the time of the last tunnel does.
            None => match sources.router.last_seen(agent).await {
                // A store that did not answer in time knows nothing of it, and memory does not reach behind the start.
                None if sources.table.store_health() != StoreHealth::Available
                    || !sources.table.is_authoritative_for(agent) =>
                {
                    return;
                }
                seen => of_last_seen(seen),
            },
        };
        let mut known = self.known();
        if known.len() >= MAX_REMEMBERED {
            known.retain(|_, (at, _)| at.elapsed() <= REMEMBERED);
        }
        if known.len() < MAX_REMEMBERED {
            known.insert(agent, (Instant::now(), absence));
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<AgentId, (Instant, Absence)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is remembered of an agent, unless that is too old.
fn fresh(known: &HashMap<AgentId, (Instant, Absence)>, agent: AgentId) -> Option<&Absence> {
    let (at, absence) = known.get(&agent)?;
    (at.elapsed() <= REMEMBERED).then_some(absence)
}

/// What the newest record of an agent says that is not connected.
fn of_record(record: ConnectionRecord) -> Absence {
    let at = records::instant(record.at);
    let (state, at) = match record.event {
        ConnectionEvent::Refused => (REFUSED, at),
        ConnectionEvent::Disconnected => (DOWN, at),
        // Its replica ended before it could say so.
        ConnectionEvent::Connected => (DOWN, String::new()),
    };
    let mut reason = record.reason;
    reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
    Absence {
        state: state.to_owned(),
        at,
        reason,
    }
}

fn of_last_seen(ago: Option<Duration>) -> Absence {
    let ago = ago.and_then(|it| SignedDuration::try_from(it).ok());
    let Some(ago) = ago else {
        return Absence {
            state: NEVER.to_owned(),
            ..Absence::default()
        };
    };
    let at = Timestamp::now().checked_sub(ago);
    Absence {
        state: DOWN.to_owned(),
        at: at.map_or(String::new(), |it| it.to_string()),
        reason: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(event: ConnectionEvent, reason: &str) -> ConnectionRecord {
        ConnectionRecord {
            at: 1000,
            event,
            reason: reason.into(),
            instance: String::new(),
            version: String::new(),
            remote_addr: String::new(),
            replica: String::new(),
            scheme: String::new(),
            duration_ms: None,
            token: None,
            cluster: None,
            left_out: 0,
        }
    }

    #[test]
    fn the_newest_record_says_why_and_since_when() {
        let refused = of_record(record(ConnectionEvent::Refused, "its token has expired"));
        let left = of_record(record(ConnectionEvent::Disconnected, "it left"));
        let lost = of_record(record(ConnectionEvent::Connected, ""));
        let long = of_record(record(ConnectionEvent::Refused, &"é".repeat(200)));

        assert_eq!(
            (&*refused.state, &*refused.reason),
            (REFUSED, "its token has expired")
        );
        assert_eq!((&*left.state, &*left.at), (DOWN, "1970-01-01T00:00:01Z"));
        assert_eq!((&*lost.state, &*lost.at), (DOWN, ""));
        assert!(prost::Message::encoded_len(&long) <= MAX_BYTES, "{long:?}");
    }

    #[test]
    fn who_was_never_seen_has_never_connected() {
        assert_eq!(of_last_seen(None).state, NEVER);
        assert_eq!(of_last_seen(Some(Duration::from_secs(60))).state, DOWN);
    }
}

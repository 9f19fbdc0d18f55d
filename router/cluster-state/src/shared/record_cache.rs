//! A cache of agents' records, invalidated by the store's events. Pure state.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{id::AgentId, store::Record};

/// Cached records from which on unused ones are evicted early.
const MAX_RECORDS: usize = 50_000;
/// How long a record that is not used is kept.
const UNUSED_TTL: Duration = Duration::from_secs(600);

/// The cached records.
#[derive(Debug, Default)]
pub(super) struct RecordCache {
    agents: BTreeMap<AgentId, Entry>,
}

#[derive(Debug)]
struct Entry {
    record: Option<Arc<Record>>,
    /// Whether no change was reported since it was read.
    fresh: bool,
    read_at: Instant,
    used_at: Instant,
    /// When the agent was last known to have an owner and may have lost it.
    held_at: Option<Instant>,
    /// Counts reported changes: one during a read makes that read outdated.
    reported: u64,
    reading: bool,
    changes: watch::Sender<u64>,
    read_done: Arc<Notify>,
}

/// A cached record.
#[derive(Debug, Clone)]
pub(super) struct CachedRecord {
    pub(super) record: Option<Arc<Record>>,
    pub(super) fresh: bool,
    pub(super) read_at: Instant,
    /// When the agent was last known to have an owner and may have lost it, by
    /// this replica's clock.
    pub(super) held_at: Option<Instant>,
}

/// A read under way, with the number of reported changes at its start.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadTicket {
    reported: u64,
}

impl RecordCache {
    /// The agent's cached record.
    pub(super) fn get(&mut self, agent: AgentId, now: Instant) -> CachedRecord {
        let cached = self.entry(agent, now);
        CachedRecord {
            record: cached.record.clone(),
            fresh: cached.fresh,
            read_at: cached.read_at,
            held_at: cached.held_at,
        }
    }

    /// Changes whenever the record may have.
    pub(super) fn changes(&mut self, agent: AgentId, now: Instant) -> watch::Receiver<u64> {
        self.entry(agent, now).changes.subscribe()
    }

    /// Notified when a read of the record has ended.
    pub(super) fn read_done(&mut self, agent: AgentId, now: Instant) -> Arc<Notify> {
        self.entry(agent, now).read_done.clone()
    }

    /// Begins a read, unless one is under way.
    pub(super) fn begin_read(&mut self, agent: AgentId, now: Instant) -> Option<ReadTicket> {
        let cached = self.entry(agent, now);
        let begin = !std::mem::replace(&mut cached.reading, true);
        begin.then_some(ReadTicket {
            reported: cached.reported,
        })
    }

    /// Ends a read; returns whether another one is needed, since a change was
    /// reported meanwhile.
    pub(super) fn end_read(
        &mut self,
        agent: AgentId,
        ticket: ReadTicket,
        record: Option<Record>,
        now: Instant,
    ) -> bool {
        let cached = self.entry(agent, now);
        cached.reading = false;
        let overtaken = cached.reported != ticket.reported;
        if let Some(mut record) = record {
            // Replicas that retract an agent leave a last-seen time, so no replica empties a record.
            let known = cached.record.as_deref();
            record.incomplete |= record.is_empty() && known.is_some_and(|it| !it.is_empty());
            cached.fresh = !overtaken;
            cached.read_at = now;
            let changed = cached.record.as_deref() != Some(&record);
            cached.record = Some(Arc::new(record));
            if changed {
                cached.changes.send_modify(|version| *version += 1);
            }
        }
        cached.read_done.notify_waiters();
        overtaken
    }

    /// The store reported that the record has changed.
    pub(super) fn invalidate(&mut self, agent: AgentId, now: Instant) {
        if let Some(cached) = self.agents.get_mut(&agent) {
            cached.invalidate(now);
        }
    }

    /// Events may have been missed.
    pub(super) fn invalidate_all(&mut self, now: Instant) {
        self.agents.values_mut().for_each(|it| it.invalidate(now));
    }

    /// Owners rank differently now: all who wait look again.
    pub(super) fn wake_all(&self) {
        for cached in self.agents.values() {
            cached.changes.send_modify(|version| *version += 1);
        }
    }

    /// Evicts records that were not used for long.
    pub(super) fn evict_unused(&mut self, now: Instant) {
        let crowded = self.agents.len() > MAX_RECORDS;
        self.agents.retain(|_, cached| {
            let unused = now.saturating_duration_since(cached.used_at);
            let kept = if crowded { UNUSED_TTL / 10 } else { UNUSED_TTL };
            cached.reading || cached.changes.receiver_count() > 0 || unused < kept
        });
    }

    /// Whether the record may lack owners of the agent.
    pub(super) fn is_incomplete(&self, agent: AgentId) -> bool {
        let cached = self.agents.get(&agent);
        let record = cached.and_then(|cached| cached.record.as_ref());
        record.is_some_and(|record| record.incomplete)
    }

    /// Number of cached records.
    pub(super) fn len(&self) -> usize {
        self.agents.len()
    }

    fn entry(&mut self, agent: AgentId, now: Instant) -> &mut Entry {
        let cached = self.agents.entry(agent).or_insert_with(|| Entry {
            record: None,
            fresh: false,
            read_at: now,
            used_at: now,
            held_at: None,
            reported: 0,
            reading: false,
            changes: watch::Sender::new(0),
            read_done: Arc::default(),
        });
        cached.used_at = now;
        cached
    }
}

impl Entry {
    fn invalidate(&mut self, now: Instant) {
        self.reported += 1;
        let is_held =
            |record: &Arc<Record>| !record.owners.is_empty() || !record.foreign.is_empty();
        if std::mem::take(&mut self.fresh) && self.record.as_ref().is_some_and(is_held) {
            self.held_at = Some(now);
        }
        self.changes.send_modify(|version| *version += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Owner, ReplicaId};

    fn record(name: &str) -> Record {
        Record {
            owners: vec![Owner {
                replica: ReplicaId::new(name),
                url: String::new(),
            }],
            foreign: Vec::new(),
            last_seen: None,
            incomplete: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_during_a_read_asks_for_another() {
        let now = Instant::now();
        let agent = AgentId(1);
        let mut records = RecordCache::default();
        let ticket = records.begin_read(agent, now).unwrap();
        assert!(records.begin_read(agent, now).is_none(), "one at a time");

        records.invalidate(agent, now);
        let again = records.end_read(agent, ticket, Some(record("a")), now);

        assert!(again);
        assert!(!records.get(agent, now).fresh);
        let ticket = records.begin_read(agent, now).unwrap();
        assert!(!records.end_read(agent, ticket, Some(record("b")), now));
        let known = records.get(agent, now);
        assert_eq!(
            (known.record.as_deref(), known.fresh),
            (Some(&record("b")), true)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_are_woken_by_what_is_new_only() {
        let now = Instant::now();
        let agent = AgentId(1);
        let mut records = RecordCache::default();
        let mut changes = records.changes(agent, now);
        for _ in 0..2 {
            let ticket = records.begin_read(agent, now).unwrap();
            records.end_read(agent, ticket, Some(record("a")), now);
        }

        assert_eq!(*changes.borrow_and_update(), 1);
        records.invalidate(agent, now);
        assert!(changes.has_changed().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn since_when_an_agent_has_no_owner_is_known_without_a_clock_of_others() {
        let start = Instant::now();
        let agent = AgentId(1);
        let mut records = RecordCache::default();
        let read = |records: &mut RecordCache, record, now| {
            let ticket = records.begin_read(agent, now).unwrap();
            records.end_read(agent, ticket, Some(record), now);
        };
        let second = Duration::from_secs(1);
        read(&mut records, record("a"), start);
        assert_eq!(records.get(agent, start).held_at, None);

        records.invalidate(agent, start + second);
        records.invalidate(agent, start + 2 * second);
        read(&mut records, Record::default(), start + 3 * second);
        records.invalidate_all(start + 4 * second);

        let known = records.get(agent, start + 5 * second);
        assert_eq!(known.held_at, Some(start + second));
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_vanishes_whole_is_incomplete_and_one_that_never_was_is_not() {
        let now = Instant::now();
        let mut records = RecordCache::default();
        let mut read = |agent, record| {
            let ticket = records.begin_read(agent, now).unwrap();
            records.end_read(agent, ticket, Some(record), now);
            records.is_incomplete(agent)
        };
        let left = Record {
            last_seen: Some(1),
            ..Record::default()
        };

        assert!(!read(AgentId(1), record("a")));
        assert!(!read(AgentId(1), left));
        assert!(read(AgentId(1), Record::default()));
        assert!(!read(AgentId(1), record("a")));
        assert!(!read(AgentId(2), Record::default()));
    }

    #[tokio::test(start_paused = true)]
    async fn unused_records_are_evicted() {
        let now = Instant::now();
        let mut records = RecordCache::default();
        let _waits = records.changes(AgentId(1), now);
        records.get(AgentId(2), now);

        records.evict_unused(now + UNUSED_TTL);

        assert_eq!(records.len(), 1);
    }
}

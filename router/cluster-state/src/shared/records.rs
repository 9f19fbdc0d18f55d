//! Agents' records as they were read, until the store says that they changed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{id::AgentId, store::Record};

/// Records that are kept before unused ones are thrown out.
const MAX: usize = 50_000;
/// How long a record that nobody asks for is kept.
const UNUSED: Duration = Duration::from_secs(600);

/// The records that were read.
#[derive(Debug, Default)]
pub(super) struct Records {
    agents: BTreeMap<AgentId, Cached>,
}

#[derive(Debug)]
struct Cached {
    record: Option<Arc<Record>>,
    /// Whether nothing was heard of a change since it was read.
    fresh: bool,
    read_at: Instant,
    used_at: Instant,
    /// When the agent was last known to have an owner and may have lost it.
    held_at: Option<Instant>,
    /// Grows with each reported change: a reading that one overtook is void.
    heard: u64,
    reading: bool,
    changes: watch::Sender<u64>,
    read: Arc<Notify>,
}

/// A record, and how good it is.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) record: Option<Arc<Record>>,
    pub(super) fresh: bool,
    pub(super) read_at: Instant,
    /// When the agent was last known to have an owner and may have lost it,
    /// whatever the clocks of those who write records say.
    pub(super) held_at: Option<Instant>,
}

/// A reading that is to be made, of the state of reports at its start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    heard: u64,
}

impl Records {
    /// What is known of the agent.
    pub(super) fn known(&mut self, agent: AgentId, now: Instant) -> Known {
        let cached = self.cached(agent, now);
        Known {
            record: cached.record.clone(),
            fresh: cached.fresh,
            read_at: cached.read_at,
            held_at: cached.held_at,
        }
    }

    /// Changes whenever the record may have.
    pub(super) fn changes(&mut self, agent: AgentId, now: Instant) -> watch::Receiver<u64> {
        self.cached(agent, now).changes.subscribe()
    }

    /// Notifies whoever waits when a reading is over.
    pub(super) fn read(&mut self, agent: AgentId, now: Instant) -> Arc<Notify> {
        self.cached(agent, now).read.clone()
    }

    /// Begins a reading, unless one is under way.
    pub(super) fn begin(&mut self, agent: AgentId, now: Instant) -> Option<Reading> {
        let cached = self.cached(agent, now);
        let begin = !std::mem::replace(&mut cached.reading, true);
        begin.then_some(Reading {
            heard: cached.heard,
        })
    }

    /// Ends a reading; says whether another one is needed, since a change
    /// overtook this one.
    pub(super) fn end(
        &mut self,
        agent: AgentId,
        reading: Reading,
        record: Option<Record>,
        now: Instant,
    ) -> bool {
        let cached = self.cached(agent, now);
        cached.reading = false;
        let overtaken = cached.heard != reading.heard;
        if let Some(mut record) = record {
            // Replicas leave behind when an agent was seen last.
            let known = cached.record.as_deref();
            record.doubtful |= record.is_empty() && known.is_some_and(|it| !it.is_empty());
            cached.fresh = !overtaken;
            cached.read_at = now;
            let changed = cached.record.as_deref() != Some(&record);
            cached.record = Some(Arc::new(record));
            if changed {
                cached.changes.send_modify(|version| *version += 1);
            }
        }
        cached.read.notify_waiters();
        overtaken
    }

    /// The store says that the record has changed.
    pub(super) fn changed(&mut self, agent: AgentId, now: Instant) {
        if let Some(cached) = self.agents.get_mut(&agent) {
            cached.outdate(now);
        }
    }

    /// Changes may have been missed.
    pub(super) fn outdate_all(&mut self, now: Instant) {
        self.agents.values_mut().for_each(|it| it.outdate(now));
    }

    /// The owners of agents are seen in another light: those who wait look again.
    pub(super) fn wake_all(&self) {
        for cached in self.agents.values() {
            cached.changes.send_modify(|version| *version += 1);
        }
    }

    /// Throws out what nobody has used for long.
    pub(super) fn sweep(&mut self, now: Instant) {
        let crowded = self.agents.len() > MAX;
        self.agents.retain(|_, cached| {
            let unused = now.saturating_duration_since(cached.used_at);
            let kept = if crowded { UNUSED / 10 } else { UNUSED };
            cached.reading || cached.changes.receiver_count() > 0 || unused < kept
        });
    }

    /// Whether what was read of the agent does not say who holds it.
    pub(super) fn is_doubtful(&self, agent: AgentId) -> bool {
        let cached = self.agents.get(&agent);
        let record = cached.and_then(|cached| cached.record.as_ref());
        record.is_some_and(|record| record.doubtful)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.agents.len()
    }

    fn cached(&mut self, agent: AgentId, now: Instant) -> &mut Cached {
        let cached = self.agents.entry(agent).or_insert_with(|| Cached {
            record: None,
            fresh: false,
            read_at: now,
            used_at: now,
            held_at: None,
            heard: 0,
            reading: false,
            changes: watch::Sender::new(0),
            read: Arc::default(),
        });
        cached.used_at = now;
        cached
    }
}

impl Cached {
    fn outdate(&mut self, now: Instant) {
        self.heard += 1;
        let is_held = |record: &Arc<Record>| !record.owners.is_empty();
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
            last_seen: None,
            doubtful: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_overtakes_a_reading_asks_for_another() {
        let now = Instant::now();
        let agent = AgentId(1);
        let mut records = Records::default();
        let reading = records.begin(agent, now).unwrap();
        assert!(records.begin(agent, now).is_none(), "one at a time");

        records.changed(agent, now);
        let again = records.end(agent, reading, Some(record("a")), now);

        assert!(again);
        assert!(!records.known(agent, now).fresh);
        let reading = records.begin(agent, now).unwrap();
        assert!(!records.end(agent, reading, Some(record("b")), now));
        let known = records.known(agent, now);
        assert_eq!(
            (known.record.as_deref(), known.fresh),
            (Some(&record("b")), true)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_are_woken_by_what_is_new_only() {
        let now = Instant::now();
        let agent = AgentId(1);
        let mut records = Records::default();
        let mut changes = records.changes(agent, now);
        for _ in 0..2 {
            let reading = records.begin(agent, now).unwrap();
            records.end(agent, reading, Some(record("a")), now);
        }

        assert_eq!(*changes.borrow_and_update(), 1);
        records.changed(agent, now);
        assert!(changes.has_changed().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn since_when_an_agent_has_no_owner_is_known_without_a_clock_of_others() {
        let start = Instant::now();
        let agent = AgentId(1);
        let mut records = Records::default();
        let read = |records: &mut Records, record, now| {
            let reading = records.begin(agent, now).unwrap();
            records.end(agent, reading, Some(record), now);
        };
        let second = Duration::from_secs(1);
        read(&mut records, record("a"), start);
        assert_eq!(records.known(agent, start).held_at, None);

        records.changed(agent, start + second);
        records.changed(agent, start + 2 * second);
        read(&mut records, Record::default(), start + 3 * second);
        records.outdate_all(start + 4 * second);

        let known = records.known(agent, start + 5 * second);
        assert_eq!(known.held_at, Some(start + second));
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_vanishes_whole_is_doubted_and_one_that_never_was_is_not() {
        let now = Instant::now();
        let mut records = Records::default();
        let mut read = |agent, record| {
            let reading = records.begin(agent, now).unwrap();
            records.end(agent, reading, Some(record), now);
            records.is_doubtful(agent)
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
    async fn what_nobody_uses_is_thrown_out() {
        let now = Instant::now();
        let mut records = Records::default();
        let _waits = records.changes(AgentId(1), now);
        records.known(AgentId(2), now);

        records.sweep(now + UNUSED);

        assert_eq!(records.len(), 1);
    }
}

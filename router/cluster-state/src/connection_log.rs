//! What this replica sees of agents' connections, on its way to the store.
//!
//! Nobody waits for it: records wait in a bounded queue for each subject, and a
//! task writes those of a bounded number of subjects at a time. Where they come
//! faster than that, like ones are counted instead.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    connection_record::{ConnectionRecord, ConnectionRecords, RecordSubject, RecordsPage, page_of},
    store::StoreError,
};

/// Records of one subject that wait.
const MAX_WAITING_PER_SUBJECT: usize = 8;
/// Subjects with records that wait.
const MAX_WAITING_SUBJECTS: usize = 20_000;
/// How often records are written.
const FLUSH_INTERVAL: Duration = Duration::from_secs(2);
/// Subjects whose records are written at a time, each by one command: 100 a second.
const SUBJECTS_PER_FLUSH: usize = 200;
/// How long a write may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// The same of the last flush of a replica that leaves.
const LAST_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a reader waits for the store.
const READ_TIMEOUT: Duration = Duration::from_secs(4);

/// This replica's connection records: written in the background, read through the store.
#[derive(Debug)]
pub struct ConnectionLog {
    store: Arc<dyn ConnectionRecords>,
    waiting: Mutex<Waiting>,
    woken: Notify,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    subjects: HashMap<RecordSubject, VecDeque<ConnectionRecord>>,
    /// The subjects in the order of their turns.
    turns: VecDeque<RecordSubject>,
}

impl ConnectionLog {
    /// A log that writes to `store` while [`Self::run`] does.
    #[must_use]
    pub fn new(store: Arc<dyn ConnectionRecords>) -> Arc<Self> {
        Arc::new(Self {
            store,
            waiting: Mutex::default(),
            woken: Notify::new(),
            dropped: AtomicU64::new(0),
        })
    }

    /// Takes a record. Never waits.
    pub fn note(&self, subject: RecordSubject, record: ConnectionRecord) {
        let kept = self.lock().add(subject, record.bounded());
        if kept {
            self.woken.notify_one();
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records that were left out since too many others waited.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The records of a page, the newest first: those in the store, and those that this replica has not written yet.
    ///
    /// # Errors
    /// When the store cannot say.
    pub async fn read(
        &self,
        subject: RecordSubject,
        page: RecordsPage,
    ) -> Result<Vec<ConnectionRecord>, StoreError> {
        let waiting: Vec<_> = {
            let waiting = self.lock();
            let own = waiting.subjects.get(&subject).into_iter().flatten();
            own.cloned().collect()
        };
        let read = timeout(READ_TIMEOUT, self.store.read(subject, page)).await;
        let stored = read.unwrap_or(Err(StoreError::Timeout(READ_TIMEOUT)))?;
        Ok(page_of(waiting.into_iter().rev().chain(stored), page))
    }

    /// Writes what waits until `stop`, and then once more as much as there is time for.
    pub async fn run(&self, stop: CancellationToken) {
        let writing = async {
            loop {
                if self.lock().turns.is_empty() {
                    self.woken.notified().await;
                }
                // What happens at once is one write.
                tokio::time::sleep(FLUSH_INTERVAL).await;
                self.flush(SUBJECTS_PER_FLUSH).await;
            }
        };
        stop.run_until_cancelled(writing).await;
        // Nothing is lost but records if the store does not answer.
        let _ = timeout(LAST_FLUSH_TIMEOUT, self.flush(MAX_WAITING_SUBJECTS)).await;
    }

    async fn flush(&self, subjects: usize) {
        let taken = self.lock().take(subjects);
        let writes = taken.into_iter().map(|(subject, records)| async move {
            let write = timeout(WRITE_TIMEOUT, self.store.append(subject, &records)).await;
            let written = write.unwrap_or(Err(StoreError::Timeout(WRITE_TIMEOUT)));
            if let Err(error) = written {
                tracing::debug!(%error, "writing connection records failed; retrying");
                self.lock().give_back(subject, records);
            }
        });
        futures_util::future::join_all(writes).await;
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Whether there was room for it.
    fn add(&mut self, subject: RecordSubject, record: ConnectionRecord) -> bool {
        if let Some(queue) = self.subjects.get_mut(&subject) {
            push(subject, queue, record);
            return true;
        }
        if self.subjects.len() >= MAX_WAITING_SUBJECTS {
            return false;
        }
        self.subjects.insert(subject, VecDeque::from([record]));
        self.turns.push_back(subject);
        true
    }

    fn take(&mut self, subjects: usize) -> Vec<(RecordSubject, Vec<ConnectionRecord>)> {
        let count = subjects.min(self.turns.len());
        let turns = self.turns.drain(..count);
        let all = turns.filter_map(|subject| {
            let records = self.subjects.remove(&subject)?;
            Some((subject, records.into()))
        });
        let all = all.collect();
        if self.turns.is_empty() {
            // After all agents have connected at once nothing like that waits any more.
            self.subjects.shrink_to(0);
            self.turns.shrink_to(0);
        }
        all
    }

    /// The store has not taken these, which are older than those that came meanwhile.
    fn give_back(&mut self, subject: RecordSubject, records: Vec<ConnectionRecord>) {
        let Some(newer) = self.subjects.remove(&subject) else {
            for record in records {
                self.add(subject, record);
            }
            return;
        };
        // It keeps its turn.
        let mut all = VecDeque::new();
        for record in records.into_iter().chain(newer) {
            push(subject, &mut all, record);
        }
        self.subjects.insert(subject, all);
    }
}

/// Adds a record to a queue: one like the last, or one too many, is counted only.
fn push(subject: RecordSubject, queue: &mut VecDeque<ConnectionRecord>, record: ConnectionRecord) {
    let full = queue_is_full(subject, queue.len());
    match queue.back_mut() {
        Some(last) if last.is_like(&record) => {
            let left_out = last.left_out + 1 + record.left_out;
            *last = ConnectionRecord { left_out, ..record };
        }
        Some(last) if full => last.left_out += 1 + record.left_out,
        Some(_) | None => queue.push_back(record),
    }
}

fn queue_is_full(subject: RecordSubject, length: usize) -> bool {
    // Strangers are many under one name.
    let room = match subject {
        RecordSubject::Agent(_) => MAX_WAITING_PER_SUBJECT,
        RecordSubject::Strangers => 4 * MAX_WAITING_PER_SUBJECT,
    };
    length >= room
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connection_record::{ConnectionEvent, RECORDS_PER_AGENT},
        id::{AgentId, ReplicaId},
        memory::MemoryStore,
    };

    const A: RecordSubject = RecordSubject::Agent(AgentId(7));

    fn record(at: u64, reason: &str) -> ConnectionRecord {
        ConnectionRecord {
            reason: reason.to_owned(),
            ..ConnectionRecord::new(ConnectionEvent::Refused, at, &ReplicaId::new("a"))
        }
    }

    fn log() -> (MemoryStore, Arc<ConnectionLog>) {
        let store = MemoryStore::default();
        let log = ConnectionLog::new(store.connection_records());
        (store, log)
    }

    async fn all(log: &ConnectionLog) -> Vec<(u64, String, u64)> {
        let read = log.read(A, RecordsPage::default()).await.unwrap();
        let read = read.into_iter();
        read.map(|it| (it.at, it.reason, it.left_out)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn records_are_read_newest_first_before_and_after_they_are_written() {
        let (_store, log) = log();
        log.note(A, record(1, "one"));
        log.note(A, record(2, "two"));
        let expected = [(2, "two".to_owned(), 0), (1, "one".to_owned(), 0)];
        assert_eq!(all(&log).await, expected);

        log.flush(10).await;

        assert_eq!(all(&log).await, expected);
        let page = RecordsPage {
            before: Some(2),
            limit: 5,
        };
        let read = log.read(A, page).await.unwrap();
        assert_eq!(read.iter().map(|it| it.at).collect::<Vec<_>>(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn like_records_are_one_and_an_agent_that_flaps_has_a_bounded_number() {
        let (_store, log) = log();
        for at in 0..1000 {
            log.note(A, record(at, "the same"));
        }
        assert_eq!(all(&log).await, [(999, "the same".to_owned(), 999)]);

        for at in 0..1000 {
            log.note(A, record(2000 + at, &format!("{at}")));
        }

        let read = all(&log).await;
        assert_eq!(read.len(), MAX_WAITING_PER_SUBJECT);
        let told: u64 = read.iter().map(|(_, _, left_out)| left_out + 1).sum();
        assert_eq!(told, 2000, "what was left out is counted");
        for round in 0..100 {
            log.note(A, record(5000 + round, &format!("{round}")));
            log.flush(10).await;
        }
        let page = RecordsPage {
            before: None,
            limit: 1000,
        };
        assert_eq!(log.read(A, page).await.unwrap().len(), RECORDS_PER_AGENT);
    }

    #[tokio::test(start_paused = true)]
    async fn ten_thousand_flapping_agents_are_written_a_bounded_number_at_a_time_and_in_turns() {
        let (store, log) = log();
        for agent in 0..10_000 {
            for at in 0..20 {
                let one = record(at, &format!("{at}"));
                log.note(RecordSubject::Agent(AgentId(agent)), one);
            }
        }
        let running = log.clone();
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let stop = stop.clone();
            async move { running.run(stop).await }
        });

        tokio::time::sleep(5 * FLUSH_INTERVAL + Duration::from_millis(1)).await;
        let written = store.subjects_with_records();
        stop.cancel();
        task.await.unwrap();

        assert_eq!(written, 5 * SUBJECTS_PER_FLUSH);
        assert_eq!(store.subjects_with_records(), 10_000, "the rest at the end");
        assert_eq!(log.dropped(), 0);
    }
}

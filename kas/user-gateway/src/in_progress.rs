//! The requests in progress that were let in, for whoever operates this server.
//!
//! A request costs two locks, uncontended as a rule, and no allocation as a rule: the parts of its entry are shared with
//! its scope. Under the second it is counted as one that its agent and its caller have had.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{Method, Uri};
use router::AgentId;
use slab::Slab;
use tokio::time::Instant;

use crate::{
    caller_tallies::CallerTallies,
    load::{Ended, Tallies},
    request_id::RequestId,
};

/// Parts of the list, each with a lock of its own.
const SHARDS: usize = 32;
/// Bytes of a path that are told.
const MAX_PATH_BYTES: usize = 256;

/// A request that was let in and is not over.
#[derive(Debug, Clone)]
pub struct RequestInProgress {
    /// Its id, as in logs.
    pub id: String,
    /// Who asks, as in `user:alice`.
    pub caller: Arc<str>,
    /// The agent.
    pub agent: AgentId,
    /// Its method, or `WATCH`.
    pub verb: String,
    /// Its path, without the query, cut.
    pub path: String,
    /// When it began.
    pub started: Instant,
    /// Where it came from.
    pub remote_addr: SocketAddr,
}

/// What is kept of one.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) id: RequestId,
    pub(crate) caller: Arc<str>,
    pub(crate) agent: AgentId,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) started: Instant,
    pub(crate) remote_addr: SocketAddr,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct InProgressList {
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    entries: Slab<Entry>,
    /// Those that are over since the last minute.
    over: Tallies,
    /// The same by caller, since the metrics were read.
    callers: CallerTallies,
}

/// Where an entry is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    shard: usize,
    key: usize,
}

thread_local! {
    /// The part in which a thread lists requests: what it has just used is in the cache of its processor.
    static SHARD: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS
    };
}

impl InProgressList {
    pub(crate) fn insert(&self, entry: Entry) -> Place {
        let shard = SHARD.with(|shard| *shard);
        let key = self.shard(shard).entries.insert(entry);
        Place { shard, key }
    }

    /// Removes one that is over. With how it has `ended` it counts for its agent and its caller.
    pub(crate) fn remove(&self, place: Place, ended: Option<Ended>) {
        let entry = {
            let mut shard = self.shard(place.shard);
            let entry = shard.entries.try_remove(place.key);
            if let (Some(entry), Some(ended)) = (&entry, ended) {
                shard.over.add(entry.agent, ended);
                shard.callers.add(&entry.caller, ended.took);
            }
            entry
        };
        drop(entry);
    }

    /// What was counted since it was taken last.
    pub(crate) fn take_tallies(&self) -> Tallies {
        let mut all = Tallies::default();
        for shard in 0..SHARDS {
            let counted = self.shard(shard).over.take();
            all.merge(counted);
        }
        all
    }

    /// What callers had since it was taken last, by part, each of which counts in a `fresh` one from now on.
    pub(crate) fn take_callers(&self, fresh: impl Fn() -> CallerTallies) -> Vec<CallerTallies> {
        let take = |shard| {
            // It is made before the lock is taken.
            let fresh = fresh();
            self.shard(shard).callers.replace(fresh)
        };
        (0..SHARDS).map(take).collect()
    }

    /// Their number.
    pub(crate) fn len(&self) -> usize {
        (0..SHARDS)
            .map(|shard| self.shard(shard).entries.len())
            .sum()
    }

    /// The oldest ones, `limit` at most, of one agent or of all; and the number of those that match.
    pub(crate) fn oldest(
        &self,
        agent: Option<AgentId>,
        limit: usize,
    ) -> (Vec<RequestInProgress>, usize) {
        let (mut found, mut total) = (Vec::new(), 0);
        for shard in 0..SHARDS {
            let shard = self.shard(shard);
            let entries = shard.entries.iter().map(|(_, entry)| entry);
            let matching = entries.filter(|it| agent.is_none_or(|agent| it.agent == agent));
            let mut matching: Vec<_> = matching.collect();
            total += matching.len();
            if limit < matching.len() {
                matching.select_nth_unstable_by_key(limit, |entry| entry.started);
                matching.truncate(limit);
            }
            found.extend(matching.into_iter().cloned());
        }
        found.sort_unstable_by_key(|entry| entry.started);
        found.truncate(limit);
        (found.iter().map(Entry::told).collect(), total)
    }

    fn shard(&self, number: usize) -> MutexGuard<'_, Shard> {
        self.shards[number]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn told(&self) -> RequestInProgress {
        let path = self.uri.path();
        let path = &path[..path.floor_char_boundary(MAX_PATH_BYTES)];
        let query = self.uri.query().unwrap_or("").split('&');
        let watch = query
            .into_iter()
            .any(|it| matches!(it, "watch=true" | "watch=1"));
        let verb = if watch && self.method == Method::GET {
            "WATCH"
        } else {
            self.method.as_str()
        };
        RequestInProgress {
            id: self.id.to_string(),
            caller: self.caller.clone(),
            agent: self.agent,
            verb: verb.to_owned(),
            path: path.to_owned(),
            started: self.started,
            remote_addr: self.remote_addr,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use http::HeaderMap;

    use super::*;

    fn entry(agent: i64, started: Instant, path: &str) -> Entry {
        Entry {
            id: RequestId::of(&HeaderMap::new()),
            caller: "user:a".into(),
            agent: AgentId(agent),
            method: Method::GET,
            uri: path.parse().unwrap(),
            started,
            remote_addr: (Ipv4Addr::LOCALHOST, 1).into(),
        }
    }

    #[test]
    fn the_oldest_come_first_and_what_is_over_is_gone() {
        let (list, now) = (InProgressList::default(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        let first = list.insert(entry(1, at(0), "/a?token=secret"));
        list.insert(entry(2, at(2), "/c"));
        list.insert(entry(1, at(1), "/b"));

        let paths = |agent: Option<i64>, limit| {
            let (found, total) = list.oldest(agent.map(AgentId), limit);
            let paths: Vec<_> = found.into_iter().map(|it| it.path).collect();
            (paths, total)
        };
        assert_eq!(paths(None, 2), (vec!["/a".to_owned(), "/b".to_owned()], 3));
        assert_eq!(paths(Some(2), 9), (vec!["/c".to_owned()], 1));
        list.remove(first, None);
        assert_eq!(
            paths(Some(1), 9),
            (vec!["/b".to_owned()], 1),
            "a query is not told"
        );
        assert_eq!(list.len(), 2);
    }

    #[test]
    fn places_are_used_again() {
        let list = InProgressList::default();
        for _ in 0..10_000 {
            let place = list.insert(entry(1, Instant::now(), "/"));
            list.remove(place, None);
        }
        let room = |shard: &Mutex<Shard>| shard.lock().unwrap().entries.capacity();

        assert_eq!(list.len(), 0);
        assert!(list.shards.iter().map(room).sum::<usize>() < 10);
    }
}

//! The connections on which agents have shown a valid token: how many a replica takes, and which of them came first.
//!
//! Each takes a file descriptor and memory, and a replica without either serves nobody. So there is a limit, below
//! which the replica says in time that it is nearly full.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use cluster_state::Load;
use runtime::descriptors;

/// A replica is nearly full from this share of its limit on, in percent, ...
const NEARLY_FULL_PERCENT: u64 = 95;
/// ... and has room again below this one.
const ROOM_PERCENT: u64 = 90;

/// The authenticated connections of agents on one replica.
#[derive(Debug)]
pub(super) struct AgentConnections {
    max: usize,
    /// In the order in which they were authenticated.
    staying: Mutex<BTreeSet<u64>>,
    /// Those that were asked to leave are counted too until they are closed.
    open: Mutex<usize>,
    next: AtomicU64,
    nearly_full: AtomicBool,
}

/// One of them, as long as it is open.
#[derive(Debug)]
pub(super) struct OpenConnection {
    all: Arc<AgentConnections>,
    number: u64,
}

/// There are as many as the replica takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this replica of kas has {0} connections of agents, as many as it takes (agent.listen.max_connections): connect again, to another \
     replica"
)]
pub(super) struct Full(usize);

/// Whether a replica with this load should get no more agents.
pub(super) fn is_nearly_full(load: Load) -> bool {
    u64::from(load.agent_connections) * 100
        >= u64::from(load.max_agent_connections) * NEARLY_FULL_PERCENT
}

/// Whether it should get some.
pub(super) fn has_room(load: Load) -> bool {
    u64::from(load.agent_connections) * 100 < u64::from(load.max_agent_connections) * ROOM_PERCENT
}

/// How many connections of agents a replica takes where that is not configured: four fifths of the files that its
/// connections may take. The others are for users, other replicas and the store.
pub fn default_max_connections() -> u32 {
    let limit = u64::from(descriptors::for_connections());
    u32::try_from(limit * 4 / 5).unwrap_or(u32::MAX).max(1)
}

impl AgentConnections {
    pub(super) fn new(max: u32) -> Arc<Self> {
        Arc::new(Self {
            max: usize::try_from(max).unwrap_or(usize::MAX),
            staying: Mutex::default(),
            open: Mutex::default(),
            next: AtomicU64::new(1),
            nearly_full: AtomicBool::new(false),
        })
    }

    /// Takes in a connection that was authenticated.
    ///
    /// # Errors
    /// When there are as many as there may be.
    pub(super) fn enter(self: &Arc<Self>) -> Result<OpenConnection, Full> {
        {
            let mut open = lock(&self.open);
            if *open >= self.max {
                return Err(Full(self.max));
            }
            *open += 1;
            self.judge(*open);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.staying).insert(number);
        Ok(OpenConnection {
            all: self.clone(),
            number,
        })
    }

    /// How many there are, and may be.
    pub(super) fn load(&self) -> Load {
        self.load_of(*lock(&self.open))
    }

    /// Those that nobody has asked to leave.
    pub(super) fn staying(&self) -> usize {
        lock(&self.staying).len()
    }

    /// Whether there is hardly any room for others. Until there is some more: it does not come and go with each agent.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.nearly_full.load(Ordering::Relaxed)
    }

    /// The last of so many that came first and stay.
    pub(super) fn last_of_first(&self, count: usize) -> Option<u64> {
        let staying = lock(&self.staying);
        let last = staying.iter().nth(count.checked_sub(1)?);
        last.or(staying.last()).copied()
    }

    fn judge(&self, open: usize) {
        let load = self.load_of(open);
        if is_nearly_full(load) {
            self.nearly_full.store(true, Ordering::Relaxed);
        } else if has_room(load) {
            self.nearly_full.store(false, Ordering::Relaxed);
        }
    }

    fn load_of(&self, open: usize) -> Load {
        let number = |number| u32::try_from(number).unwrap_or(u32::MAX);
        Load {
            agent_connections: number(open),
            max_agent_connections: number(self.max),
        }
    }
}

impl OpenConnection {
    /// Its place in the order of arrival.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// It was asked to leave.
    pub(super) fn leaves(&self) {
        lock(&self.all.staying).remove(&self.number);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.leaves();
        let mut open = lock(&self.all.open);
        *open -= 1;
        self.all.judge(*open);
    }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_more_than_there_may_be_and_nearly_full_does_not_flap() {
        let all = AgentConnections::new(100);
        let mut open: Vec<_> = (0..94).map(|_| all.enter().unwrap()).collect();
        assert!(!all.is_nearly_full());

        open.push(all.enter().unwrap());
        assert!(all.is_nearly_full());
        open.extend((95..100).map(|_| all.enter().unwrap()));
        assert_eq!(all.enter().unwrap_err(), Full(100));
        assert_eq!(all.load().agent_connections, 100);

        open.truncate(90);
        assert!(all.is_nearly_full());
        open.truncate(89);
        assert!(!all.is_nearly_full());
        assert_eq!(all.load().agent_connections, 89);
    }

    #[test]
    fn those_that_came_first_are_asked_to_leave_and_count_until_they_are_closed() {
        let all = AgentConnections::new(10);
        let open: Vec<_> = (0..4).map(|_| all.enter().unwrap()).collect();

        assert_eq!(all.last_of_first(0), None);
        assert_eq!(all.last_of_first(2), Some(open[1].number()));
        open[..2].iter().for_each(OpenConnection::leaves);
        assert_eq!((all.staying(), all.load().agent_connections), (2, 4));
        assert_eq!(all.last_of_first(1), Some(open[2].number()));
        assert_eq!(all.last_of_first(100), Some(open[3].number()));
    }
}

//! How many requests each agent had in the last half hour, by the minute, and how long they took.
//!
//! A request that ends is counted under a lock that it takes anyway, by one look-up and a few additions. Agents without
//! requests cost nothing.

mod history;

use std::{mem, ops::AddAssign, time::Duration};

use foldhash::{HashMap, HashMapExt as _};
use router::AgentId;

pub(crate) use history::History;
pub use history::{MINUTES, RecentLoad};

/// Durations that are told apart: two for each doubling, from a quarter of a millisecond to eight seconds.
const BUCKETS: usize = 32;
/// What the first of them ends with, in microseconds.
const UNIT_MICROS: u128 = 250;
/// Agents that are counted in one part, and remembered.
const MAX_AGENTS: usize = 10_000;
/// Of a hundred requests, how many took at most the time that is told.
const PERCENTILE: u64 = 99;

/// Requests that have ended since the last minute, by agent.
#[derive(Debug, Default)]
pub(crate) struct Tallies(HashMap<AgentId, Tally>);

/// What is counted of a request that has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) took: Duration,
    /// Whether its status was 500 or more, or its answer not whole.
    pub(crate) failed: bool,
    /// Whether the agent or its way to the cluster is why there was no answer.
    pub(crate) unavailable: bool,
    /// Whether it waited long for a tunnel.
    pub(crate) waited: bool,
}

/// Those of one agent, by how long they took.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    buckets: [u32; BUCKETS],
    took: Duration,
    failed: u32,
    unavailable: u32,
    waited: u32,
}

/// Reads and writes of one agent that are over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AgentTraffic {
    /// All.
    pub requests: u64,
    /// Those that ended with a status of 500 or more, or without a whole answer.
    pub failed: u64,
    /// How long all of them took.
    pub took: Duration,
}

impl AddAssign for AgentTraffic {
    fn add_assign(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.failed = self.failed.saturating_add(other.failed);
        self.took = self.took.saturating_add(other.took);
    }
}

/// What one agent had in a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MinuteLoad {
    /// Requests that ended.
    pub requests: u32,
    /// A time within which 99 of 100 of them did, in milliseconds, at most by half too long; 0 without requests.
    pub p99_milliseconds: u32,
    /// Those whose cluster was not reached.
    pub(crate) unavailable: u32,
    /// Those that waited long for a tunnel.
    pub(crate) waited: u32,
}

impl Tallies {
    /// A request of an agent has ended.
    pub(crate) fn add(&mut self, agent: AgentId, ended: Ended) {
        if let Some(tally) = self.0.get_mut(&agent) {
            return tally.add(ended);
        }
        if self.0.len() < MAX_AGENTS {
            self.0.entry(agent).or_default().add(ended);
        }
    }

    /// What was counted, from which on it is counted anew.
    pub(crate) fn take(&mut self) -> Self {
        let room = HashMap::with_capacity(self.0.len());
        Self(mem::replace(&mut self.0, room))
    }

    /// Adds what was counted elsewhere, as far as there is room for its agents.
    pub(crate) fn merge(&mut self, other: Self) {
        for (agent, tally) in other.0 {
            if self.0.len() < MAX_AGENTS || self.0.contains_key(&agent) {
                self.0.entry(agent).or_default().merge(&tally);
            }
        }
    }

    /// What each agent had.
    pub(crate) fn traffic(&self) -> impl Iterator<Item = (AgentId, AgentTraffic)> + '_ {
        self.0
            .iter()
            .map(|(agent, tally)| (*agent, tally.traffic()))
    }
}

impl Tally {
    fn add(&mut self, ended: Ended) {
        let count = &mut self.buckets[bucket(ended.took)];
        *count = count.saturating_add(1);
        self.took = self.took.saturating_add(ended.took);
        for (count, counts) in [
            (&mut self.failed, ended.failed),
            (&mut self.unavailable, ended.unavailable),
            (&mut self.waited, ended.waited),
        ] {
            *count = count.saturating_add(u32::from(counts));
        }
    }

    fn merge(&mut self, other: &Self) {
        for (own, count) in self.buckets.iter_mut().zip(other.buckets) {
            *own = own.saturating_add(count);
        }
        self.took = self.took.saturating_add(other.took);
        for (own, count) in [
            (&mut self.failed, other.failed),
            (&mut self.unavailable, other.unavailable),
            (&mut self.waited, other.waited),
        ] {
            *own = own.saturating_add(count);
        }
    }

    fn requests(&self) -> u64 {
        self.buckets.iter().map(|count| u64::from(*count)).sum()
    }

    fn traffic(&self) -> AgentTraffic {
        AgentTraffic {
            requests: self.requests(),
            failed: u64::from(self.failed),
            took: self.took,
        }
    }

    fn load(&self) -> MinuteLoad {
        let requests = self.requests();
        let wanted = (requests * PERCENTILE).div_ceil(100);
        let mut seen = 0;
        let within = self.buckets.iter().position(|count| {
            seen += u64::from(*count);
            seen >= wanted
        });
        let end = within.map_or(0, |at| end_of(at).as_micros().div_ceil(1000));
        MinuteLoad {
            requests: u32::try_from(requests).unwrap_or(u32::MAX),
            p99_milliseconds: match requests {
                0 => 0,
                _ => u32::try_from(end).unwrap_or(u32::MAX),
            },
            unavailable: self.unavailable,
            waited: self.waited,
        }
    }
}

/// Where a duration is counted.
fn bucket(took: Duration) -> usize {
    let units = took.as_micros() / UNIT_MICROS;
    let Some(doublings) = units.checked_ilog2() else {
        return 0;
    };
    let upper_half = match doublings {
        0 => 0,
        _ => (units >> (doublings - 1)) & 1,
    };
    let at = 1 + 2 * doublings as usize + usize::from(upper_half == 1);
    at.min(BUCKETS - 1)
}

/// The longest duration that is counted there, but for the last, which has no end.
fn end_of(bucket: usize) -> Duration {
    let units = match bucket.checked_sub(1) {
        None => 1,
        Some(0 | 1) => 2,
        Some(at) if at % 2 == 0 => 3 << (at / 2 - 1),
        Some(at) => 2 << (at / 2),
    };
    Duration::from_micros(units * UNIT_MICROS as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_counted_where_its_end_is_just_above_it() {
        for micros in (0..9_000_000).step_by(117) {
            let took = Duration::from_micros(micros);
            let at = bucket(took);
            if at == BUCKETS - 1 {
                continue;
            }
            assert!(took < end_of(at), "{took:?} in {at}");
            assert!(at == 0 || took >= end_of(at - 1), "{took:?} in {at}");
            let longest = (took * 3 / 2).max(Duration::from_micros(500));
            assert!(end_of(at) <= longest, "{took:?} until {:?}", end_of(at));
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn how_many_agents_are_counted_is_bounded() {
        let mut tallies = Tallies::default();
        for agent in 0..2 * MAX_AGENTS {
            tallies.add(AgentId(agent as i64), Ended::default());
        }

        assert_eq!(tallies.take().0.len(), MAX_AGENTS);
        assert!(tallies.0.is_empty());
    }
}

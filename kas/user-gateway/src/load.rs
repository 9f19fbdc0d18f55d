//! How many requests each agent had in the last half hour, by the minute, and how long they took.
//!
//! A request that ends is counted under a lock that it takes anyway, by one look-up and two additions. Agents without
//! requests cost nothing.

use std::{mem, time::Duration};

use foldhash::{HashMap, HashMapExt as _};
use router::AgentId;

/// Minutes that are remembered.
pub const MINUTES: usize = 30;
/// Durations that are told apart: two for each doubling, from a quarter of a millisecond to eight seconds.
const BUCKETS: usize = 32;
/// What the first of them ends with, in microseconds.
const UNIT_MICROS: u128 = 250;
/// Agents that are counted in one part, and remembered.
const MAX_AGENTS: usize = 10_000;
/// Of a hundred requests, how many took at most the time that is told.
const PERCENTILE: u64 = 99;
/// A clock may be set back by so much without a loss of what was counted.
const CLOCK_SLACK_MINUTES: u64 = 2;

/// Requests that have ended since the last minute, by agent.
#[derive(Debug, Default)]
pub(crate) struct Tallies(HashMap<AgentId, Tally>);

/// Those of one agent, by how long they took.
#[derive(Debug, Clone, Copy, Default)]
struct Tally([u32; BUCKETS]);

/// What one agent had in a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MinuteLoad {
    /// Requests that ended.
    pub requests: u32,
    /// A time within which 99 of 100 of them did, in milliseconds, at most by half too long; 0 without requests.
    pub p99_milliseconds: u32,
}

/// The minutes of all agents that had requests.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// The last one, counted from 1970.
    minute: u64,
    agents: HashMap<AgentId, [MinuteLoad; MINUTES]>,
}

impl Tallies {
    /// A request of an agent has ended.
    pub(crate) fn add(&mut self, agent: AgentId, took: Duration) {
        if let Some(tally) = self.0.get_mut(&agent) {
            return tally.add(took);
        }
        if self.0.len() < MAX_AGENTS {
            self.0.entry(agent).or_default().add(took);
        }
    }

    /// What was counted, from which on it is counted anew.
    pub(crate) fn take(&mut self) -> Self {
        let room = HashMap::with_capacity(self.0.len());
        Self(mem::replace(&mut self.0, room))
    }

    /// Adds what was counted elsewhere.
    pub(crate) fn merge(&mut self, other: Self) {
        for (agent, tally) in other.0 {
            let own = self.0.entry(agent).or_default();
            for (own, count) in own.0.iter_mut().zip(tally.0) {
                *own = own.saturating_add(count);
            }
        }
    }
}

impl Tally {
    fn add(&mut self, took: Duration) {
        let count = &mut self.0[bucket(took)];
        *count = count.saturating_add(1);
    }

    fn load(&self) -> MinuteLoad {
        let requests: u64 = self.0.iter().map(|count| u64::from(*count)).sum();
        let wanted = (requests * PERCENTILE).div_ceil(100);
        let mut seen = 0;
        let within = self.0.iter().position(|count| {
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

impl History {
    /// What was counted until the end of a minute, counted from 1970. A minute that ends twice has both.
    pub(crate) fn end(&mut self, minute: u64, counted: &Tallies) {
        if self.minute > minute + CLOCK_SLACK_MINUTES {
            // The clock was ahead; what was counted then belongs to no minute.
            *self = Self::default();
            self.minute = minute;
        }
        let minute = minute.max(self.minute);
        let passed = usize::try_from(minute - self.minute).unwrap_or(MINUTES);
        for passed in (0..passed.min(MINUTES)).map(|it| it as u64) {
            let over = place(minute - passed);
            for minutes in self.agents.values_mut() {
                minutes[over] = MinuteLoad::default();
            }
        }
        self.minute = minute;
        let now = place(minute);
        for (agent, tally) in &counted.0 {
            let known = self.agents.len() < MAX_AGENTS || self.agents.contains_key(agent);
            if known {
                let (minutes, new) = (self.agents.entry(*agent).or_default(), tally.load());
                minutes[now] = MinuteLoad {
                    requests: minutes[now].requests.saturating_add(new.requests),
                    p99_milliseconds: minutes[now].p99_milliseconds.max(new.p99_milliseconds),
                };
            }
        }
        self.agents
            .retain(|_, minutes| minutes.iter().any(|it| it.requests > 0));
    }

    /// The last minute, counted from 1970, and the minutes of one agent, the oldest first; none without requests.
    pub(crate) fn of(&self, agent: AgentId) -> Option<Vec<MinuteLoad>> {
        let minutes = self.agents.get(&agent)?;
        let first = place(self.minute + 1);
        let ordered = minutes[first..].iter().chain(&minutes[..first]);
        Some(ordered.copied().collect())
    }

    pub(crate) fn minute(&self) -> u64 {
        self.minute
    }
}

fn place(minute: u64) -> usize {
    // A remainder is below the number of minutes.
    usize::try_from(minute % MINUTES as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: AgentId = AgentId(7);

    fn counted(milliseconds: &[u64]) -> Tallies {
        let mut tallies = Tallies::default();
        for it in milliseconds {
            tallies.add(AGENT, Duration::from_millis(*it));
        }
        tallies
    }

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
    fn a_minute_has_its_requests_and_what_99_of_100_took() {
        let mut history = History::default();
        let many: Vec<_> = std::iter::repeat_n(10, 990).chain([3000; 9]).collect();

        history.end(1000, &counted(&many));

        let minutes = history.of(AGENT).unwrap();
        let last = minutes[MINUTES - 1];
        assert_eq!((minutes.len(), last.requests), (MINUTES, 999));
        assert!((10..=15).contains(&last.p99_milliseconds), "{last:?}");
        assert!(history.of(AgentId(1)).is_none());
    }

    #[test]
    fn minutes_pass_and_agents_without_requests_are_forgotten() {
        let mut history = History::default();
        history.end(1000, &counted(&[1]));
        history.end(1003, &counted(&[1, 1]));
        history.end(1003, &counted(&[1]));

        let requests: Vec<_> = history
            .of(AGENT)
            .unwrap()
            .iter()
            .map(|it| it.requests)
            .collect();
        assert_eq!(requests[MINUTES - 4..], [1, 0, 0, 3]);
        history.end(1003 + MINUTES as u64 - 1, &Tallies::default());
        assert_eq!(history.of(AGENT).unwrap()[0].requests, 3);
        history.end(1003 + MINUTES as u64, &Tallies::default());
        assert!(history.of(AGENT).is_none() && history.agents.is_empty());
        history.end(5000, &counted(&[1]));
        assert_eq!(history.of(AGENT).unwrap()[MINUTES - 1].requests, 1);
    }

    #[test]
    fn a_clock_that_was_ahead_is_forgotten_with_what_it_counted() {
        let mut history = History::default();
        history.end(9000, &counted(&[1]));
        history.end(9000 - CLOCK_SLACK_MINUTES, &counted(&[1]));
        assert_eq!(history.of(AGENT).unwrap()[MINUTES - 1].requests, 2);

        history.end(1000, &counted(&[1]));
        history.end(1001, &counted(&[1]));

        let minutes = history.of(AGENT).unwrap().into_iter();
        let requests: Vec<_> = minutes.map(|it| it.requests).collect();
        assert_eq!(requests[MINUTES - 3..], [0, 1, 1]);
    }

    #[test]
    fn how_many_agents_are_counted_is_bounded() {
        let mut tallies = Tallies::default();
        for agent in 0..2 * MAX_AGENTS {
            tallies.add(AgentId(agent as i64), Duration::ZERO);
        }

        assert_eq!(tallies.take().0.len(), MAX_AGENTS);
        assert!(tallies.0.is_empty());
    }
}

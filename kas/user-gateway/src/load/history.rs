//! The last half hour by the minute, and what went wrong in the last minutes.

use foldhash::{HashMap, HashMapExt as _};
use router::AgentId;

use super::{MAX_AGENTS, MinuteLoad, Tallies};

/// Minutes that are remembered.
pub const MINUTES: usize = 30;
/// Minutes that are over of which [`History::recent`] tells, besides the one that is not.
const RECENT_MINUTES: u64 = 5;
/// A clock may be set back by so much without a loss of what was counted.
const CLOCK_SLACK_MINUTES: u64 = 2;

/// The minutes of all agents that had requests.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// The last one, counted from 1970.
    minute: u64,
    agents: HashMap<AgentId, [MinuteLoad; MINUTES]>,
}

/// Reads and writes of one agent that ended lately, and what was wrong with them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecentLoad {
    /// All.
    pub requests: u64,
    /// Those that were answered with 502, 503 or 504, but for what a pod, a service or a node was asked through the API.
    pub unavailable: u64,
    /// Those that waited for a tunnel for a second or longer.
    pub waited: u64,
}

impl RecentLoad {
    fn add(&mut self, load: &MinuteLoad) {
        self.requests += u64::from(load.requests);
        self.unavailable += u64::from(load.unavailable);
        self.waited += u64::from(load.waited);
    }
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
                let it = &mut minutes[now];
                *it = MinuteLoad {
                    requests: it.requests.saturating_add(new.requests),
                    p99_milliseconds: it.p99_milliseconds.max(new.p99_milliseconds),
                    unavailable: it.unavailable.saturating_add(new.unavailable),
                    waited: it.waited.saturating_add(new.waited),
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

    /// What agents had in the last minutes, and in the one that is not over: those of whose requests any waited or did
    /// not reach the cluster.
    pub(crate) fn recent(&self, since: &Tallies) -> Vec<(AgentId, RecentLoad)> {
        let mut all: HashMap<AgentId, RecentLoad> = HashMap::new();
        let places = (0..RECENT_MINUTES).map(|ago| place(self.minute.saturating_sub(ago)));
        let places: Vec<_> = places.collect();
        for (agent, minutes) in &self.agents {
            let load = all.entry(*agent).or_default();
            places.iter().for_each(|at| load.add(&minutes[*at]));
        }
        for (agent, tally) in &since.0 {
            all.entry(*agent).or_default().add(&tally.load());
        }
        all.retain(|_, load| load.unavailable > 0 || load.waited > 0);
        all.into_iter().collect()
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
    use std::time::Duration;

    use super::*;
    use crate::load::Ended;

    const AGENT: AgentId = AgentId(7);

    fn took(took: Duration) -> Ended {
        Ended {
            took,
            ..Ended::default()
        }
    }

    fn counted(milliseconds: &[u64]) -> Tallies {
        let mut tallies = Tallies::default();
        for it in milliseconds {
            tallies.add(AGENT, took(Duration::from_millis(*it)));
        }
        tallies
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
    fn what_went_wrong_lately_is_told_and_after_five_minutes_no_more() {
        let mut history = History::default();
        let unavailable = Ended {
            failed: true,
            unavailable: true,
            ..Ended::default()
        };
        let mut tallies = counted(&[1, 1]);
        tallies.add(AGENT, unavailable);
        tallies.add(AgentId(8), Ended::default());
        history.end(1000, &tallies.take());
        tallies.add(
            AGENT,
            Ended {
                waited: true,
                ..Ended::default()
            },
        );

        let recent = RecentLoad {
            requests: 4,
            unavailable: 1,
            waited: 1,
        };
        assert_eq!(history.recent(&tallies), [(AGENT, recent)]);
        history.end(1000 + RECENT_MINUTES - 1, &Tallies::default());
        assert_eq!(history.recent(&Tallies::default())[0].1.requests, 3);
        history.end(1000 + RECENT_MINUTES, &Tallies::default());
        assert_eq!(history.recent(&Tallies::default()), []);
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
}

//! How many requests each agent had since this replica started, for metrics of a bounded number of series.
//!
//! Whoever reads them says which agents have a series: what the others have is one sum, from which nothing is taken
//! again when one of them gets a series, since counters only grow.

use foldhash::{HashMap, HashMapExt as _};
use router::AgentId;

use crate::load::{AgentTraffic, Tallies};

/// Agents that are told apart until the metrics are read.
const MAX_UNREAD: usize = 10_000;

/// The series of agents.
#[derive(Debug, Default)]
pub(crate) struct AgentSeries {
    /// What was counted since the metrics were read.
    unread: HashMap<AgentId, AgentTraffic>,
    /// Those that have a series.
    named: HashMap<AgentId, AgentTraffic>,
    other: AgentTraffic,
}

impl AgentSeries {
    /// Adds what was counted.
    pub(crate) fn add(&mut self, counted: &Tallies) {
        for (agent, traffic) in counted.traffic() {
            if self.unread.len() < MAX_UNREAD || self.unread.contains_key(&agent) {
                *self.unread.entry(agent).or_default() += traffic;
            } else {
                self.other += traffic;
            }
        }
    }

    /// What each of these agents had since it has a series, in their order, and what all others had.
    pub(crate) fn read(&mut self, agents: &[AgentId]) -> (Vec<AgentTraffic>, AgentTraffic) {
        let mut named = HashMap::with_capacity(agents.len());
        for agent in agents {
            named.insert(*agent, self.named.remove(agent).unwrap_or_default());
        }
        self.named = named;
        for (agent, traffic) in self.unread.drain() {
            match self.named.get_mut(&agent) {
                Some(own) => *own += traffic,
                None => self.other += traffic,
            }
        }
        let own = agents.iter().filter_map(|agent| self.named.get(agent));
        (own.copied().collect(), self.other)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::Ended;

    const A: AgentId = AgentId(1);
    const B: AgentId = AgentId(2);

    fn counted(agents: &[AgentId]) -> Tallies {
        let mut tallies = Tallies::default();
        for agent in agents {
            let ended = Ended {
                took: Duration::from_secs(1),
                failed: *agent == B,
                ..Ended::default()
            };
            tallies.add(*agent, ended);
        }
        tallies
    }

    fn requests(series: &mut AgentSeries, agents: &[AgentId]) -> (Vec<u64>, u64) {
        let (own, other) = series.read(agents);
        (own.iter().map(|it| it.requests).collect(), other.requests)
    }

    #[test]
    fn no_counter_falls_whoever_has_a_series() {
        let mut series = AgentSeries::default();
        series.add(&counted(&[A, A, B]));
        assert_eq!(requests(&mut series, &[A]), (vec![2], 1));

        series.add(&counted(&[A, B]));

        assert_eq!(requests(&mut series, &[A, B]), (vec![3, 1], 1));
        assert_eq!(requests(&mut series, &[B]), (vec![1], 1));
        let (own, _) = series.read(&[B]);
        assert_eq!((own[0].failed, own[0].took), (1, Duration::from_secs(1)));
    }

    #[test]
    fn what_nobody_reads_is_bounded_and_not_lost() {
        let mut series = AgentSeries::default();
        for agent in 0..2 * MAX_UNREAD {
            series.add(&counted(&[AgentId(agent as i64)]));
        }

        assert_eq!(series.unread.len(), MAX_UNREAD);
        let (own, other) = series.read(&[]);
        assert_eq!((own.len(), other.requests), (0, 2 * MAX_UNREAD as u64));
        assert!(series.named.is_empty() && series.unread.is_empty());
    }
}

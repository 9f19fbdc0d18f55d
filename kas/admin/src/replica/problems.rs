//! The agents with which something was wrong at this replica in the last minutes.

use std::{cmp::Reverse, collections::BTreeMap};

use cluster_state::AgentId;
use user_gateway::RecentLoad;

use super::Own;
use crate::v1::{AgentProblems, ListOwnProblemsResponse};

/// Agents of an answer.
const MAX_AGENTS: usize = 2000;
/// Bytes of a reason.
const MAX_REASON_BYTES: usize = 128;
/// Connections to one replica that an agent may lose in ten minutes; it was restarted or moved then.
pub(crate) const MAX_LOST: u64 = 3;
/// Requests with the same problem below which it is none.
const MIN_REQUESTS: u64 = 5;
/// Of a hundred requests, so many must have it.
const MIN_PERCENT: u64 = 10;

impl Own {
    /// What was wrong with agents here.
    pub(crate) fn problems(&self) -> ListOwnProblemsResponse {
        let mut all: BTreeMap<AgentId, AgentProblems> = BTreeMap::new();
        for (agent, load) in self.requests.recent_loads() {
            if let Some(problems) = of_load(load) {
                all.insert(agent, problems);
            }
        }
        let tracker = self.tracker.as_ref();
        for (agent, trouble) in tracker.map_or_else(Vec::new, |it| it.recent_troubles()) {
            let problems = all.entry(agent).or_default();
            problems.refused = trouble.refused;
            problems.lost = trouble.lost;
            problems.refusal = trouble.refusal;
            let cut = problems.refusal.floor_char_boundary(MAX_REASON_BYTES);
            problems.refusal.truncate(cut);
        }
        let all = all.into_iter().map(|(agent, problems)| AgentProblems {
            agent_id: agent.0,
            ..problems
        });
        let mut agents: Vec<_> = all.collect();
        let partial = keep_worst(&mut agents, MAX_AGENTS);
        ListOwnProblemsResponse { agents, partial }
    }
}

/// What is wrong with the requests of an agent, if anything is with enough of them.
fn of_load(load: RecentLoad) -> Option<AgentProblems> {
    let many = |count: u64| {
        let is_many = count >= MIN_REQUESTS && 100 * count >= MIN_PERCENT * load.requests;
        if is_many { count } else { 0 }
    };
    let (unavailable, waited) = (many(load.unavailable), many(load.waited));
    (unavailable > 0 || waited > 0).then(|| AgentProblems {
        requests: load.requests,
        unavailable,
        waited,
        ..AgentProblems::default()
    })
}

/// Keeps those with which most is wrong, so many at most, and says whether something is wrong with others too.
fn keep_worst(agents: &mut Vec<AgentProblems>, most: usize) -> bool {
    if agents.len() <= most {
        return false;
    }
    agents.sort_by_key(|it| Reverse(weight(it)));
    let others = agents.split_off(most);
    let worst = others.first().map(weight);
    worst.is_some_and(|(sum, lost)| sum > 0 || lost > MAX_LOST)
}

/// How much is wrong: connections that were lost may be no problem, all else is one.
fn weight(it: &AgentProblems) -> (u64, u64) {
    let counts = [it.unavailable, it.waited, it.refused];
    let sum = counts.iter().fold(0_u64, |sum, it| sum.saturating_add(*it));
    (sum, it.lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_requests_of_many_are_no_problem() {
        let load = |requests, unavailable, waited| {
            let found = of_load(RecentLoad {
                requests,
                unavailable,
                waited,
            });
            found.map(|it| (it.requests, it.unavailable, it.waited))
        };

        assert_eq!(load(4, 4, 0), None);
        assert_eq!(load(5, 5, 4), Some((5, 5, 0)));
        assert_eq!(load(51, 5, 5), None);
        assert_eq!(load(100, 3, 10), Some((100, 0, 10)));
    }

    #[test]
    fn of_too_many_those_are_told_with_which_most_is_wrong() {
        let agents = (1..=10).map(|lost| AgentProblems {
            agent_id: lost,
            lost: u64::try_from(lost).unwrap_or_default(),
            refused: u64::from(lost == 1),
            ..AgentProblems::default()
        });
        let all: Vec<_> = agents.collect();
        let mut agents = all.clone();

        assert!(keep_worst(&mut agents, 3), "8 is told by nobody");

        let ids: Vec<_> = agents.iter().map(|it| it.agent_id).collect();
        assert_eq!(
            ids,
            [1, 10, 9],
            "one that was refused, and those that lost most"
        );
        let mut agents = all.clone();
        assert!(!keep_worst(&mut agents, 8), "2 and 3 may lose so many");
        let mut agents = all;
        assert!(!keep_worst(&mut agents, 10));
    }
}

//! What agents had in the last half hour, at all replicas.

use std::collections::BTreeMap;

use user_gateway::MINUTES;

use super::Admin;
use crate::{
    Failure,
    peers::Question,
    replica::{LIST_OWN_LOADS, loads::agents},
    v1::{AgentLoad, ListLoadsRequest, ListLoadsResponse},
};

impl Admin {
    /// What these agents had at all replicas: the sum of requests, and the slowest one's durations.
    ///
    /// # Errors
    /// When the question is not understood.
    pub async fn loads(&self, asked: &ListLoadsRequest) -> Result<ListLoadsResponse, Failure> {
        agents(asked)?;
        let own = || self.own.loads(asked);
        let question = Question::new(LIST_OWN_LOADS, asked);
        let told = self.sources.ask_all(question, own).await;
        let coverage = Some(told.coverage());
        Ok(ListLoadsResponse {
            coverage,
            ..merged(told.answers)
        })
    }
}

/// Answers of replicas as one: minutes that are the same are put together, whichever came last at each.
fn merged(answers: Vec<ListLoadsResponse>) -> ListLoadsResponse {
    let minute = answers.iter().map(|it| it.minute).max().unwrap_or_default();
    let mut all: BTreeMap<i64, AgentLoad> = BTreeMap::new();
    for answer in answers {
        let behind = usize::try_from(minute - answer.minute).unwrap_or(MINUTES);
        for load in answer.loads {
            let sum = all.entry(load.agent_id).or_insert_with(|| AgentLoad {
                agent_id: load.agent_id,
                requests: vec![0; MINUTES],
                p99_milliseconds: vec![0; MINUTES],
            });
            let requests = load.requests.iter().skip(behind);
            for (sum, its) in sum.requests.iter_mut().zip(requests) {
                *sum = sum.saturating_add(*its);
            }
            let durations = load.p99_milliseconds.iter().skip(behind);
            for (slowest, its) in sum.p99_milliseconds.iter_mut().zip(durations) {
                *slowest = (*slowest).max(*its);
            }
        }
    }
    ListLoadsResponse {
        loads: all.into_values().collect(),
        minute,
        coverage: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(minute: u64, last: [(u32, u32); 2]) -> ListLoadsResponse {
        let mut load = AgentLoad {
            agent_id: 7,
            requests: vec![0; MINUTES],
            p99_milliseconds: vec![0; MINUTES],
        };
        for (at, (requests, p99)) in (MINUTES - 2..).zip(last) {
            (load.requests[at], load.p99_milliseconds[at]) = (requests, p99);
        }
        ListLoadsResponse {
            loads: vec![load],
            minute,
            coverage: None,
        }
    }

    #[test]
    fn requests_are_summed_by_the_minute_and_the_slowest_replica_counts() {
        let all = merged(vec![
            answer(100, [(1, 10), (2, 20)]),
            answer(101, [(30, 5), (40, 50)]),
        ]);

        assert_eq!(all.minute, 101);
        let load = &all.loads[0];
        assert_eq!(load.requests[MINUTES - 3..], [1, 32, 40]);
        assert_eq!(load.p99_milliseconds[MINUTES - 3..], [10, 20, 50]);
    }
}

//! Whether a connected agent is healthy or degraded, and what is wrong with it in words: by what replicas tell of the
//! last minutes. Agents with which all is well cost nothing.

use std::{collections::HashMap, time::Duration};

use crate::{
    Sources,
    agent_state::{CONNECTED, DEGRADED, HEALTHY},
    peers::Question,
    replica::{LIST_OWN_PROBLEMS, Own, problems::MAX_LOST},
    v1::{Agent, ListOwnProblemsRequest, ListOwnProblemsResponse},
};

/// How long other replicas may take.
const TIMEOUT: Duration = Duration::from_millis(300);
/// Agents of which anything is known, at most.
const MAX_AGENTS: usize = 10_000;

/// What is wrong with agents at all replicas that told it.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    by_agent: HashMap<i64, OfAgent>,
    /// Whether a replica did not tell: nobody is called healthy then.
    some_unknown: bool,
}

/// What is wrong with one.
#[derive(Debug, Default, Clone)]
struct OfAgent {
    unavailable: Requests,
    waited: Requests,
    refused: u64,
    /// Why it was the last time.
    refusal: String,
    lost: u64,
}

/// Requests with a problem, at the replicas where many had it.
#[derive(Debug, Default, Clone)]
struct Requests {
    count: u64,
    /// Of how many.
    all: u64,
    replicas: u32,
}

impl Requests {
    fn add(&mut self, count: u64, all: u64) {
        if count > 0 {
            self.count = self.count.saturating_add(count);
            self.all = self.all.saturating_add(all);
            self.replicas += 1;
        }
    }
}

impl std::fmt::Display for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} requests at ", self.count, self.all)?;
        match self.replicas {
            0 | 1 => f.write_str("one replica"),
            replicas => write!(f, "{replicas} replicas"),
        }
    }
}

impl Problems {
    /// Asks all replicas.
    pub(crate) async fn read(sources: &Sources, own: &Own) -> Self {
        let question = ListOwnProblemsRequest {};
        let own = || Ok(own.problems());
        let question = Question::new(LIST_OWN_PROBLEMS, &question).within(TIMEOUT);
        let told = sources.ask_all(question, own).await;
        let mut problems = Self {
            some_unknown: told.unanswered > 0,
            ..Self::default()
        };
        told.answers.into_iter().for_each(|it| problems.add(it));
        problems
    }

    fn add(&mut self, told: ListOwnProblemsResponse) {
        self.some_unknown |= told.partial;
        for it in told.agents {
            if self.by_agent.len() >= MAX_AGENTS && !self.by_agent.contains_key(&it.agent_id) {
                self.some_unknown = true;
                continue;
            }
            let agent = self.by_agent.entry(it.agent_id).or_default();
            agent.unavailable.add(it.unavailable, it.requests);
            agent.waited.add(it.waited, it.requests);
            agent.refused = agent.refused.saturating_add(it.refused);
            agent.lost = agent.lost.saturating_add(it.lost);
            if !it.refusal.is_empty() {
                agent.refusal = it.refusal;
            }
        }
    }

    /// Says of connected agents how they are, as far as that is known.
    pub(crate) fn judge(&self, agents: &mut [Agent]) {
        for agent in agents.iter_mut().filter(|it| it.state == CONNECTED) {
            let replicas = u64::try_from(agent.replicas.len()).unwrap_or(u64::MAX);
            let may_lose = u64::from(agent.process_count).max(MAX_LOST * replicas.max(1));
            let problems = self.by_agent.get(&agent.id);
            agent.problems = problems.map_or_else(Vec::new, |it| it.words(may_lose));
            let health = match (agent.problems.is_empty(), self.some_unknown) {
                (false, _) => DEGRADED,
                (true, false) => HEALTHY,
                (true, true) => "",
            };
            health.clone_into(&mut agent.health);
        }
    }
}

impl OfAgent {
    /// What is wrong, each in one clause.
    fn words(&self, may_lose: u64) -> Vec<String> {
        let mut words = Vec::new();
        if self.unavailable.count > 0 {
            words.push(format!(
                "{} were not answered by its cluster in the last 5 minutes",
                self.unavailable
            ));
        }
        if self.waited.count > 0 {
            words.push(format!(
                "{} waited a second or longer for a tunnel in the last 5 minutes: they were all busy, or gone",
                self.waited
            ));
        }
        if self.lost > may_lose {
            let lost = times(self.lost);
            words.push(format!(
                "its connections broke {lost} in the last 10 minutes"
            ));
        }
        if self.refused > 0 {
            let (refused, why) = (times(self.refused), &self.refusal);
            words.push(format!(
                "a process of it was refused {refused} in the last 10 minutes: {why}"
            ));
        }
        words
    }
}

fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::AgentProblems;

    fn told(problems: AgentProblems) -> ListOwnProblemsResponse {
        let problems = AgentProblems {
            agent_id: 1,
            ..problems
        };
        ListOwnProblemsResponse {
            agents: vec![problems],
            partial: false,
        }
    }

    fn agent(state: &str, processes: u32) -> Agent {
        Agent {
            id: 1,
            state: state.to_owned(),
            process_count: processes,
            ..Agent::default()
        }
    }

    fn judged(problems: &Problems, agent: Agent) -> Agent {
        let mut agents = [agent];
        problems.judge(&mut agents);
        let [agent] = agents;
        agent
    }

    #[test]
    fn what_replicas_tell_is_put_together_in_words() {
        let mut problems = Problems::default();
        let failing = AgentProblems {
            requests: 20,
            unavailable: 6,
            lost: 2,
            ..AgentProblems::default()
        };
        problems.add(told(failing.clone()));
        problems.add(told(failing));
        problems.add(told(AgentProblems {
            requests: 10,
            waited: 5,
            refused: 1,
            refusal: "its token was revoked".to_owned(),
            ..AgentProblems::default()
        }));

        let found = judged(&problems, agent(CONNECTED, 1));

        assert_eq!(found.health, DEGRADED);
        assert_eq!(
            found.problems,
            [
                "12 of 40 requests at 2 replicas were not answered by its cluster in the last 5 minutes",
                "5 of 10 requests at one replica waited a second or longer for a tunnel in the last 5 minutes: they were all busy, or gone",
                "its connections broke 4 times in the last 10 minutes",
                "a process of it was refused once in the last 10 minutes: its token was revoked",
            ]
        );
        let many = judged(&problems, agent(CONNECTED, 4));
        assert_eq!(many.problems.len(), 3, "four processes may each lose one");
        let two_replicas = Agent {
            replicas: vec!["a".to_owned(), "b".to_owned()],
            ..agent(CONNECTED, 1)
        };
        let found = judged(&problems, two_replicas);
        assert_eq!(found.problems.len(), 3, "at each of them it may lose three");
    }

    #[test]
    fn an_agent_with_which_nothing_is_wrong_is_healthy_and_one_that_is_gone_neither() {
        let problems = Problems::default();

        assert_eq!(judged(&problems, agent(CONNECTED, 1)).health, HEALTHY);
        let problems = Problems {
            some_unknown: true,
            ..Problems::default()
        };
        assert_eq!(judged(&problems, agent(CONNECTED, 1)).health, "");
        assert_eq!(judged(&problems, agent("disconnected", 0)).health, "");
    }

    #[test]
    fn of_how_many_agents_is_bounded() {
        let mut problems = Problems::default();
        for agent_id in 0..2 * MAX_AGENTS as i64 {
            problems.add(ListOwnProblemsResponse {
                agents: vec![AgentProblems {
                    agent_id,
                    lost: 1,
                    ..AgentProblems::default()
                }],
                partial: false,
            });
        }

        assert_eq!(problems.by_agent.len(), MAX_AGENTS);
        let other = Agent {
            id: -1,
            ..agent(CONNECTED, 1)
        };
        assert_eq!(
            judged(&problems, other).health,
            "",
            "it may be one too many"
        );
    }
}

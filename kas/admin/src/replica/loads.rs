//! What agents had in the last half hour at this replica.

use cluster_state::AgentId;

use super::Own;
use crate::{
    Failure,
    v1::{AgentLoad, ListLoadsRequest, ListLoadsResponse},
};

/// Agents of a question, at most.
const MAX_AGENTS: usize = 500;

impl Own {
    /// What these agents had here.
    ///
    /// # Errors
    /// When the question is not understood.
    pub(crate) fn loads(&self, asked: &ListLoadsRequest) -> Result<ListLoadsResponse, Failure> {
        let (minute, found) = self.requests.loads(&agents(asked)?);
        let loads = found.into_iter().map(|(agent, minutes)| AgentLoad {
            agent_id: agent.0,
            requests: minutes.iter().map(|it| it.requests).collect(),
            p99_milliseconds: minutes.iter().map(|it| it.p99_milliseconds).collect(),
        });
        Ok(ListLoadsResponse {
            loads: loads.collect(),
            minute,
            coverage: None,
        })
    }
}

/// The agents that are asked about.
///
/// # Errors
/// When they are not numbers, or too many.
pub(crate) fn agents(asked: &ListLoadsRequest) -> Result<Vec<AgentId>, Failure> {
    let wrong = || {
        let words = format!("agents must be numbers with commas between, at most {MAX_AGENTS}");
        Failure::Invalid(words)
    };
    let numbers = asked.agents.split(',').filter(|it| !it.is_empty());
    let numbers = numbers.take(MAX_AGENTS + 1);
    let agents = numbers.map(|it| it.parse().map(AgentId));
    let mut agents: Vec<_> = agents.collect::<Result<_, _>>().map_err(|_| wrong())?;
    if agents.len() > MAX_AGENTS {
        return Err(wrong());
    }
    // Whoever is named twice has not twice the requests.
    agents.sort_unstable();
    agents.dedup();
    Ok(agents)
}

#[cfg(test)]
mod tests {
    use super::{agents as agents_of, *};

    #[test]
    fn agents_are_numbers_and_not_too_many() {
        let asked = |text: &str| {
            let agents = text.to_owned();
            let found = agents_of(&ListLoadsRequest { agents });
            found.map(|found| found.into_iter().map(|it| it.0).collect::<Vec<_>>())
        };

        assert_eq!(asked("22,1,22"), Ok(vec![1, 22]));
        assert_eq!(asked(""), Ok(Vec::new()));
        assert!(asked("prod").is_err());
        assert!(asked(&"1,".repeat(MAX_AGENTS + 1)).is_err());
    }
}

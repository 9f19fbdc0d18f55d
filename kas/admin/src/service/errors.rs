//! The last errors of requests for an agent, at all replicas.

use std::cmp::Reverse;

use cluster_state::AgentId;
use jiff::Timestamp;

use super::{Admin, find};
use crate::{
    Failure,
    peers::Question,
    replica::LIST_OWN_ERRORS,
    v1::{ListErrorsRequest, ListErrorsResponse, ListOwnErrorsRequest, RequestError},
};

/// Errors of an answer.
const LISTED: usize = 10;

impl Admin {
    /// What went wrong with requests for an agent, the newest first.
    ///
    /// # Errors
    /// When there is none of this number or name.
    pub async fn errors(&self, asked: &ListErrorsRequest) -> Result<ListErrorsResponse, Failure> {
        let fleet = self.fleet.snapshot().await;
        let agent_id = find(&fleet, &asked.agent)?.id;
        let own = || Ok(self.own.errors(AgentId(agent_id)));
        let asked = ListOwnErrorsRequest { agent_id };
        let question = Question::new(LIST_OWN_ERRORS, &asked);
        let told = self.sources.ask_all(question, own).await;
        let coverage = Some(told.coverage());
        Ok(ListErrorsResponse {
            errors: newest(told.answers),
            coverage,
        })
    }
}

/// The last ones of all replicas.
fn newest(answers: Vec<ListErrorsResponse>) -> Vec<RequestError> {
    let all = answers.into_iter().flat_map(|it| it.errors);
    let mut all: Vec<_> = all.collect();
    // As texts, those without a fraction of a second are out of order.
    all.sort_by_cached_key(|it| Reverse(it.at.parse::<Timestamp>().ok()));
    all.truncate(LISTED);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_all_replicas_come_first() {
        let answer = |times: &[&str]| {
            let errors = times.iter().map(|at| RequestError {
                at: (*at).to_owned(),
                ..RequestError::default()
            });
            ListErrorsResponse {
                errors: errors.collect(),
                coverage: None,
            }
        };
        let all = newest(vec![
            answer(&["2026-01-01T00:00:10.5Z", "2026-01-01T00:00:09Z"]),
            answer(&["2026-01-01T00:00:10Z"]),
            answer(&["2026-01-01T00:00:08Z"; 10]),
        ]);

        let times: Vec<_> = all.iter().map(|it| &it.at[17..]).collect();
        assert_eq!(times.len(), LISTED);
        assert_eq!(times[..4], ["10.5Z", "10Z", "09Z", "08Z"]);
    }
}

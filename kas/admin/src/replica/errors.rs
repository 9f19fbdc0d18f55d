//! The last errors of requests for an agent at this replica.

use cluster_state::AgentId;
use jiff::Timestamp;

use super::Own;
use crate::v1::{ListErrorsResponse, RequestError};

impl Own {
    /// What went wrong with requests for an agent that came here, the newest first.
    pub(crate) fn errors(&self, agent: AgentId) -> ListErrorsResponse {
        let replica = self.id.to_string();
        let told = self.requests.recent_errors(agent).into_iter();
        let errors = told.map(|it| RequestError {
            at: Timestamp::try_from(it.at).unwrap_or_default().to_string(),
            status: it.status.into(),
            cut: it.cut,
            verb: it.verb,
            path: it.path,
            reason: it.reason,
            caller: it.caller,
            request_id: it.id,
            left_out: it.left_out,
            replica: replica.clone(),
        });
        ListErrorsResponse {
            errors: errors.collect(),
            coverage: None,
        }
    }
}

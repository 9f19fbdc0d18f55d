//! What is kept of a request that failed.

use std::time::SystemTime;

use super::Scope;
use crate::recent_errors::RecentError;

impl Scope {
    /// Keeps what went wrong with it for operators. Strangers' requests are not for any agent yet; of an answer that was
    /// cut without a reason the client has gone, and nothing went wrong where somebody wanted its end.
    pub(super) fn note_error(&self) {
        let cut = (self.cut || self.status == 0) && !self.reason.is_empty() && !self.wanted;
        let (Some(agent), Some(_), true) = (self.agent, &self.who, self.status >= 500 || cut)
        else {
            return;
        };
        let error = RecentError {
            at: SystemTime::now(),
            status: self.status,
            cut: self.cut,
            verb: self.verb_text().to_owned(),
            path: self.uri.path().to_owned(),
            reason: self.reason.clone(),
            caller: self.caller.to_string(),
            id: self.id.to_string(),
            left_out: 0,
        };
        self.metrics.errors().note(agent, error);
    }
}

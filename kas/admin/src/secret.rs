//! Answers with tokens in them show nothing of these in logs.

use std::fmt;

use crate::v1::{AgentToken, JoinToken};

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = f.debug_struct("JoinToken");
        told.field("agent", &self.agent);
        told.field("expires_at", &self.expires_at);
        told.finish_non_exhaustive()
    }
}

impl fmt::Debug for AgentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = f.debug_struct("AgentToken");
        told.field("agent", &self.agent);
        told.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_is_in_the_debug_form_of_an_answer() {
        let (token, line) = (
            "glagent-x".to_owned(),
            "agentk --token glagent-x".to_owned(),
        );
        let join = JoinToken {
            token: token.clone(),
            helm: line.clone(),
            agentk: line,
            ..JoinToken::default()
        };
        let own = AgentToken {
            token,
            ..AgentToken::default()
        };

        assert!(!format!("{join:?} {own:?}").contains("glagent-x"));
    }
}

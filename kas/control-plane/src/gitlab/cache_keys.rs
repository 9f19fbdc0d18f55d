//! What a remembered answer depends on, as one hash. Secrets go in by their
//! hash, whose length is fixed, so that no two questions run together.

use cluster_state::AgentId;
use sha2::{Digest, Sha256};

use super::{
    super::{Token, TokenHash},
    proxy_user::UserProof,
};

/// A user's question is about one agent and all that they proved themselves with.
pub(super) fn of_user(agent: AgentId, proof: &UserProof) -> TokenHash {
    let mut hash = Sha256::new();
    hash.update(agent.0.to_le_bytes());
    match proof {
        UserProof::Token(token) => {
            hash.update(b"p");
            hash.update(token.hash().as_bytes());
        }
        UserProof::Session {
            access_key,
            csrf_token,
        } => {
            hash.update(b"s");
            hash.update(access_key.hash().as_bytes());
            hash.update(csrf_token.hash().as_bytes());
        }
    }
    TokenHash::new(hash.finalize().into())
}

/// An agent's question about a project.
pub(super) fn of_project(token: &Token, path: &str) -> TokenHash {
    let mut hash = Sha256::new();
    hash.update(token.hash().as_bytes());
    hash.update(path.as_bytes());
    TokenHash::new(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn questions_are_told_apart_by_agent_kind_key_and_csrf_token() {
        let token = |text: &str| Token::new(text);
        let session = |key, csrf| UserProof::Session {
            access_key: token(key),
            csrf_token: token(csrf),
        };
        let questions = [
            (1, UserProof::Token(token("t"))),
            (2, UserProof::Token(token("t"))),
            (1, UserProof::Token(token("u"))),
            (1, session("t", "c")),
            (1, session("t", "d")),
            (1, session("tc", "")),
            (1, session("t", "")),
        ];

        let keys = questions
            .iter()
            .map(|(agent, proof)| *of_user(AgentId(*agent), proof).as_bytes());

        assert_eq!(keys.collect::<HashSet<_>>().len(), questions.len());
    }
}

//! How an agent joins: an agentk that was given a join token makes a token of its own, of which only the hash is told.

use std::error::Error;

use jiff::Timestamp;

/// Why an agent does not join; in words for the one who shows the join token.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Whoever registers agents here gives them their tokens.
    #[error(
        "this server takes no join tokens, since its agents are registered in GitLab: start agentk with the token \
         that GitLab made for the agent"
    )]
    Unsupported,
    /// No agent has this join token.
    #[error(
        "the join token is not known: it was revoked or replaced, or is for another server; \
         `kas agent join-token NAME` makes another"
    )]
    Unknown,
    /// Its time is over.
    #[error(
        "the join token of agent {agent} expired at {at}: `kas agent join-token {agent}` makes another"
    )]
    Expired {
        /// The agent's name.
        agent: String,
        /// When.
        at: Timestamp,
    },
    /// Another agentk was faster.
    #[error(
        "the join token of agent {agent} was used already, by another agentk: if that was none of yours, \
         `kas agent revoke {agent}` shuts it out; `kas agent join-token {agent}` makes another"
    )]
    Used {
        /// The agent's name.
        agent: String,
    },
    /// There is no room for another token.
    #[error(
        "agent {agent} has two tokens already, as many as it may have: `kas agent revoke {agent}` takes them away, \
         then `kas agent join-token {agent}` makes another join token"
    )]
    TooManyTokens {
        /// The agent's name.
        agent: String,
    },
    /// Somebody else has the token that the agent has made.
    #[error("the token that agentk shows is in use already: let it make another one")]
    TokenInUse,
    /// What the agent has shown could not be written down.
    #[error("the server cannot write down the agent's token")]
    NotKept {
        /// Whether it never can, as it is set up.
        read_only: bool,
        /// Why.
        #[source]
        error: Box<dyn Error + Send + Sync>,
    },
}

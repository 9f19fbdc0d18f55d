//! The entries of join tokens in the file.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::tokens::hash_text;
use crate::{JoinError, Token, TokenHash};

/// A join token in the file.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinTokenEntry {
    /// Its hash; the token itself is kept nowhere.
    #[serde(with = "hash_text")]
    #[cfg_attr(test, schemars(with = "String", extend("pattern" = "^sha256:[0-9a-fA-F]{64}$")))]
    pub hash: TokenHash,
    /// When it was made.
    #[cfg_attr(test, schemars(with = "String", extend("format" = "date-time")))]
    pub created_at: Timestamp,
    /// From when on nobody joins with it.
    #[cfg_attr(test, schemars(with = "String", extend("format" = "date-time")))]
    pub expires_at: Timestamp,
    /// The hash of the token of the agentk that has joined with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub used_by: Option<UsedBy>,
}

/// The hash of an agentk's own token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UsedBy(#[serde(with = "hash_text")] TokenHash);

impl UsedBy {
    pub(super) fn new(own: TokenHash) -> Self {
        Self(own)
    }
}

impl JoinTokenEntry {
    /// The entry of a join token made now.
    #[must_use]
    pub fn new(token: &Token, now: Timestamp, expires_at: Timestamp) -> Self {
        Self {
            hash: token.hash(),
            created_at: now,
            expires_at,
            used_by: None,
        }
    }

    /// Whether somebody may still join with it for the first time.
    #[must_use]
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.used_by.is_none() && now < self.expires_at
    }

    /// Whether the agentk with this token has joined with it already; an error if it must not.
    pub(super) fn is_used_by(
        &self,
        own: &TokenHash,
        agent: &str,
        now: Timestamp,
    ) -> Result<bool, JoinError> {
        let agent = || agent.to_owned();
        match &self.used_by {
            Some(by) if by.0 == *own => Ok(true),
            Some(_) => Err(JoinError::Used { agent: agent() }),
            None if now >= self.expires_at => Err(JoinError::Expired {
                agent: agent(),
                at: self.expires_at,
            }),
            None => Ok(false),
        }
    }
}

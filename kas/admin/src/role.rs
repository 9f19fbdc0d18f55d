//! What operators may do: each role may all that those before it may.

use std::{fmt, str::FromStr};

use runtime::yaml::{Setting, nearest};
use serde::{Deserialize, Serialize};

/// The role of who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads: fleet, replicas, requests, sessions, access, records.
    Viewer,
    /// Also what is open and running: ends sessions, changes how much is logged.
    Operator,
    /// Also who may connect: registers agents, makes and takes away their tokens.
    Administrator,
}

impl Setting for Role {}

/// A text that is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no role: viewer, operator or administrator{1}")]
pub struct RoleError(String, String);

impl Role {
    /// All of them, the least first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Administrator];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Administrator => "administrator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| {
            let known = Self::ALL.iter().map(|role| role.as_str());
            let hint = nearest(text, known).map(|near| format!("; did you mean {near}?"));
            RoleError(text.to_owned(), hint.unwrap_or_default())
        })
    }
}

/// What somebody changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Registers an agent.
    AddAgent,
    /// Makes a join token.
    CreateJoinToken,
    /// Makes an agent's token.
    RotateAgentToken,
    /// Takes all tokens from an agent.
    RevokeAgent,
    /// Ends a session.
    EndSession,
    /// Changes how much is logged.
    SetLogLevel,
}

impl Action {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::AddAgent,
        Self::CreateJoinToken,
        Self::RotateAgentToken,
        Self::RevokeAgent,
        Self::EndSession,
        Self::SetLogLevel,
    ];

    /// Its name in the audit trail, the log and the OpenAPI document.
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Self::AddAgent => "add_agent",
            Self::CreateJoinToken => "create_join_token",
            Self::RotateAgentToken => "rotate_agent_token",
            Self::RevokeAgent => "revoke_agent",
            Self::EndSession => "end_session",
            Self::SetLogLevel => "set_log_level",
        }
    }

    /// The least role that may do it.
    pub(crate) fn role(self) -> Role {
        match self {
            Self::EndSession | Self::SetLogLevel => Role::Operator,
            Self::AddAgent | Self::CreateJoinToken | Self::RotateAgentToken | Self::RevokeAgent => {
                Role::Administrator
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_in_the_order_of_what_they_may() {
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Administrator);
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        let typo = "adminstrator".parse::<Role>().unwrap_err().to_string();
        assert!(typo.contains("did you mean administrator?"), "{typo}");
    }
}

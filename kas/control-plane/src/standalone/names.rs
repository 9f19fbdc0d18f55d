//! The names that the file may use.

use serde::{Deserialize, Serialize};

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not an agent's name.
    #[error(
        "`{0}` is not a name for an agent: use up to 63 lower-case letters, digits and `-`, not `-` at an end"
    )]
    Agent(String),
    /// An agent's number.
    #[error(
        "`{0}` is not a name for a new agent: digits alone are an agent's number; add a letter"
    )]
    Digits(String),
    /// Not a label's key or value.
    #[error("`{0}` is not a label: use up to 63 letters, digits and `_`, `-`, `.`, `/`")]
    Label(String),
    /// Not a name of a user, service or group.
    #[error(
        "`{0}` is not a name: use up to 255 letters, digits and `_`, `-`, `.`, `/`, `@`, `+`, `:`, beginning with a letter, a digit or `/`"
    )]
    Caller(String),
}

/// The name of an agent: what GitLab allows, `[a-z0-9](?:[-a-z0-9]*[a-z0-9])?`.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(extend("pattern" = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")))]
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentName(String);

/// The name of a user, a service or a group.
///
/// It is the last part of names such as `gitlab:user:NAME`, so that a `:` in it makes it no other's.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(extend("pattern" = "^[A-Za-z0-9/][-A-Za-z0-9_./@+:]{0,254}$")))]
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// The key or the value of an agent's label.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(extend("pattern" = "^[-A-Za-z0-9_./]{1,63}$")))]
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabelText(String);

impl LabelText {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for LabelText {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b"_-./".contains(&b);
        if !text.is_empty() && text.len() <= 63 && text.bytes().all(inner) {
            Ok(Self(text))
        } else {
            Err(NameError::Label(text))
        }
    }
}

impl From<LabelText> for String {
    fn from(text: LabelText) -> Self {
        text.0
    }
}

impl AgentName {
    /// A name for a new agent: not of digits alone, which could be an agent's number. There are old ones in files, and in
    /// GitLab.
    ///
    /// # Errors
    /// Why it is none.
    pub fn of_new_agent(text: &str) -> Result<Self, NameError> {
        match text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
            true => Err(NameError::Digits(text.to_owned())),
            false => Self::try_from(text.to_owned()),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Name {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for AgentName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let good = text.len() <= 63
            && text.bytes().all(inner)
            && !text.is_empty()
            && !text.starts_with('-')
            && !text.ends_with('-');
        if good {
            Ok(Self(text))
        } else {
            Err(NameError::Agent(text))
        }
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b"_-./@+:".contains(&b);
        let good = text.len() <= 255
            && text.bytes().all(inner)
            && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
        if good {
            Ok(Self(text))
        } else {
            Err(NameError::Caller(text))
        }
    }
}

impl From<AgentName> for String {
    fn from(name: AgentName) -> Self {
        name.0
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_named_as_gitlab_allows() {
        for good in ["a", "0", "my-agent-2", "a--b", &"x".repeat(63)] {
            assert!(AgentName::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ä", &"x".repeat(64)] {
            assert!(AgentName::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_new_agent_is_not_called_like_a_number() {
        let refused = AgentName::of_new_agent("42").unwrap_err().to_string();
        assert!(refused.contains("an agent's number"), "{refused}");
        for good in ["a42", "4-2", "42a"] {
            assert!(AgentName::of_new_agent(good).is_ok(), "{good}");
        }
        assert!(matches!(
            AgentName::of_new_agent(""),
            Err(NameError::Agent(_))
        ));
        assert!(
            AgentName::try_from("42".to_owned()).is_ok(),
            "old ones stay"
        );
    }

    #[test]
    fn callers_are_named_as_people_and_workloads_are() {
        for good in [
            "alice",
            "Alice.B",
            "group/sub-group",
            "a_1",
            "alice+admin@example.com",
            "repo:org/app:ref:refs/heads/main",
            "/platform/ops",
        ] {
            assert!(Name::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", ":a", "-a", "@a", "a b", "a\r\nb", "*", "é"] {
            assert!(Name::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}

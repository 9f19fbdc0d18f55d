//! `authorize_proxy_user`: whether a user may use an agent, and as whom.

use bytes::Bytes;
use cluster_state::AgentId;
use serde::{Deserialize, Serialize};

use super::{
    super::{DenyReason, RefusedKind, Token},
    call::{Call, Endpoint, Expect, Requester},
    client::Client,
    error::{AnswerError, CallError},
    number::{Number, or_default},
};

const PATH: &str = "/api/v4/internal/kubernetes/authorize_proxy_user";

/// What a user proved themselves with.
#[derive(Debug, Clone)]
pub(super) enum UserProof {
    /// A personal access token.
    Token(Token),
    /// A browser's session.
    Session {
        access_key: Token,
        csrf_token: Token,
    },
}

impl UserProof {
    /// What only this user has.
    pub(super) fn secret(&self) -> &Token {
        match self {
            Self::Token(token) => token,
            Self::Session { access_key, .. } => access_key,
        }
    }

    /// As GitLab names it, and as the cluster is told.
    pub(super) fn access_type(&self) -> &'static str {
        match self {
            Self::Token(_) => "personal_access_token",
            Self::Session { .. } => "session_cookie",
        }
    }
}

/// A user who may use an agent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ProxyUser {
    pub(super) agent: AgentId,
    pub(super) config_project: i64,
    pub(super) id: i64,
    pub(super) username: String,
    pub(super) access_as: UserAccessAs,
}

/// As whom a user appears.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum UserAccessAs {
    Agent,
    User {
        projects: Vec<Roles>,
        groups: Vec<Roles>,
    },
}

/// The roles in one project or group.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Roles {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) id: Number,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) roles: Vec<String>,
}

#[derive(Serialize)]
struct Question<'a> {
    /// A string: 64-bit numbers are, in protobuf's JSON.
    agent_id: String,
    access_type: &'a str,
    access_key: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    csrf_token: &'a str,
}

/// Asks whether a user may use an agent.
pub(super) async fn authorize(
    client: &Client,
    agent: AgentId,
    proof: &UserProof,
    requester: Requester,
) -> Result<ProxyUser, CallError> {
    let (access_key, csrf_token) = match proof {
        UserProof::Token(token) => (token.expose(), ""),
        UserProof::Session {
            access_key,
            csrf_token,
        } => (access_key.expose(), csrf_token.expose()),
    };
    let question = Question {
        agent_id: agent.to_string(),
        access_type: proof.access_type(),
        access_key,
        csrf_token,
    };
    let body =
        serde_json::to_vec(&question).map_err(|e| CallError::InvalidRequest(e.to_string()))?;
    let endpoint = Endpoint::AuthorizeProxyUser;
    let call = Call {
        caller: Some(proof.secret().hash()),
        requester,
        ..Call::post(endpoint, PATH, Bytes::from(body), Expect::Json)
    };
    let answer = client.call(&call).await?;
    parse(&answer, agent).map_err(|why| CallError::InvalidAnswer { path: PATH, why })
}

/// What the caller is told. "No such agent" and "not for you" sound the same,
/// so that nobody finds out which agents there are.
pub(super) fn refusal(error: &CallError, agent: AgentId) -> DenyReason {
    let unauthenticated = |words| DenyReason::Refused {
        kind: RefusedKind::Unauthenticated,
        words,
    };
    match error {
        CallError::Status {
            status: 400 | 401,
            reason: Some(reason),
            ..
        } => unauthenticated(format!("GitLab says: {reason}")),
        CallError::Status {
            status: 400 | 401, ..
        } => unauthenticated(error.to_string()),
        CallError::Status {
            status: 403 | 404, ..
        } => unauthenticated(format!(
            "GitLab lets this user not use agent {agent}, or there is no such agent"
        )),
        CallError::TooManyUnknown => DenyReason::TooManyUnknownCredentials,
        _ => DenyReason::Unavailable(format!("Failed to authorize user session: {error}")),
    }
}

#[derive(Deserialize)]
struct Answer {
    agent: Option<AgentAnswer>,
    user: Option<UserAnswer>,
    access_as: Option<AccessAsAnswer>,
}

#[derive(Deserialize)]
struct AgentAnswer {
    #[serde(default, deserialize_with = "or_default")]
    id: Number,
    config_project: Option<ProjectAnswer>,
}

#[derive(Deserialize)]
struct ProjectAnswer {
    #[serde(default, deserialize_with = "or_default")]
    id: Number,
}

#[derive(Deserialize)]
struct UserAnswer {
    #[serde(default, deserialize_with = "or_default")]
    id: Number,
    #[serde(default, deserialize_with = "or_default")]
    username: String,
}

#[derive(Deserialize)]
struct AccessAsAnswer {
    agent: Option<serde::de::IgnoredAny>,
    user: Option<MembershipsAnswer>,
}

#[derive(Deserialize)]
struct MembershipsAnswer {
    #[serde(default, deserialize_with = "or_default")]
    projects: Vec<Roles>,
    #[serde(default, deserialize_with = "or_default")]
    groups: Vec<Roles>,
}

fn parse(body: &Bytes, asked: AgentId) -> Result<ProxyUser, AnswerError> {
    let answer: Answer = serde_json::from_slice(body)?;
    let agent = answer.agent.ok_or(AnswerError::Missing("agent"))?;
    if agent.id.0 != asked.0 {
        let about = agent.id.0;
        return Err(AnswerError::Invalid(format!(
            "it is about agent {about}, not {asked}"
        )));
    }
    let project = agent
        .config_project
        .ok_or(AnswerError::Missing("config_project"))?;
    let user = answer.user.ok_or(AnswerError::Missing("user"))?;
    if user.username.is_empty() {
        return Err(AnswerError::Invalid("user.username is empty".to_owned()));
    }
    let access_as = match answer.access_as {
        Some(AccessAsAnswer { user: Some(it), .. }) => UserAccessAs::User {
            projects: it.projects,
            groups: it.groups,
        },
        Some(AccessAsAnswer { agent: Some(_), .. }) => UserAccessAs::Agent,
        Some(_) | None => {
            return Err(AnswerError::Invalid(
                "access_as has no key that is known".to_owned(),
            ));
        }
    };
    Ok(ProxyUser {
        agent: asked,
        config_project: project.id.0,
        id: user.id.0,
        username: user.username,
        access_as,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"agent":{"id":5,"config_project":{"id":3}},"user":{"id":1,"username":"jo"},
        "access_as":{"user":{"projects":[{"id":"8","roles":["guest","developer"]}],"groups":null}}}"#;

    fn read(text: &str) -> Result<ProxyUser, AnswerError> {
        parse(&Bytes::from(text.to_owned()), AgentId(5))
    }

    #[test]
    fn an_answer_is_read_whole() {
        let user = read(GOOD).unwrap();

        assert_eq!((user.username.as_str(), user.config_project), ("jo", 3));
        let UserAccessAs::User { projects, groups } = user.access_as else {
            panic!("{:?}", user.access_as)
        };
        assert_eq!(projects[0].id, Number(8));
        assert!(groups.is_empty());
    }

    #[test]
    fn an_answer_about_another_agent_or_without_a_way_is_not_taken() {
        for (there, gone, why) in [
            (r#""id":5"#, r#""id":6"#, "about agent 6"),
            (
                r#""user":{"projects""#,
                r#""robot":{"projects""#,
                "access_as",
            ),
            ("config_project", "project", "config_project"),
            (r#""jo""#, r#""""#, "username"),
        ] {
            let error = read(&GOOD.replace(there, gone)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}

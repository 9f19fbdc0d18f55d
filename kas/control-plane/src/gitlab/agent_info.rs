//! `agent_info`: whose token is it, and where is the agent's repository.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use cluster_state::AgentId;
use proto::agent::entity::{GitalyInfo, GitalyRepository};
use serde::Deserialize;

use super::{
    super::{AgentInfo, AuthError, Token},
    call::{Call, Endpoint, Requester},
    client::Client,
    error::{AnswerError, CallError},
    number::{Number, or_default},
};

/// Where the call is, as GitLab renamed it.
const PATHS: [&str; 2] = [
    "/api/v4/internal/kubernetes/agent_info",
    "/api/v4/internal/agents/agentk/agent_info",
];

/// What GitLab knows of an agent.
#[derive(Clone, PartialEq)]
pub struct RegisteredAgent {
    /// The agent.
    pub agent: Arc<AgentInfo>,
    /// The Gitaly server of its configuration project; holds a secret.
    pub gitaly: GitalyInfo,
    /// Its configuration project there.
    pub repository: GitalyRepository,
}

impl std::fmt::Debug for RegisteredAgent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegisteredAgent")
            .field("agent", &self.agent)
            .finish_non_exhaustive()
    }
}

/// Which of the two paths this GitLab answers on, as far as is known.
#[derive(Debug, Default)]
pub(super) struct AgentInfoPaths(AtomicUsize);

impl AgentInfoPaths {
    /// Asks for the agent of a token.
    ///
    /// 404 means "no such agent" or "no such path", so the other path is tried then.
    pub(super) async fn agent_info(
        &self,
        client: &Client,
        token: &Token,
        requester: Requester,
    ) -> Result<RegisteredAgent, CallError> {
        let first = self.0.load(Ordering::Relaxed);
        let answer = ask(client, PATHS[first], token, requester).await;
        if !is_not_found(&answer) {
            return answer;
        }
        let other = 1 - first;
        let second = ask(client, PATHS[other], token, requester).await;
        if is_not_found(&second) {
            return answer;
        }
        if second.is_ok() || refused(&second) {
            self.0.store(other, Ordering::Relaxed);
        }
        second
    }
}

fn refused<T>(answer: &Result<T, CallError>) -> bool {
    matches!(answer, Err(error) if error.refusal().is_some())
}

fn is_not_found<T>(answer: &Result<T, CallError>) -> bool {
    matches!(answer, Err(CallError::Status { status: 404, .. }))
}

async fn ask(
    client: &Client,
    path: &'static str,
    token: &Token,
    requester: Requester,
) -> Result<RegisteredAgent, CallError> {
    let call = Call::get(Endpoint::AgentInfo, path).for_agent(token);
    let call = call.requested_by(requester);
    let body = client.call(&call).await?;
    parse(&body).map_err(|why| CallError::InvalidAnswer { path, why })
}

/// What an agent is told.
pub(super) fn refusal(error: &CallError) -> AuthError {
    match error.refusal() {
        Some(401) => AuthError::UnknownToken,
        Some(403) => AuthError::Forbidden,
        Some(404) => AuthError::NoAgent,
        _ if *error == CallError::TooManyUnknown => AuthError::TooManyUnknownCredentials,
        _ => AuthError::Unavailable(error.to_string()),
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default, deserialize_with = "or_default")]
    project_id: Number,
    #[serde(default, deserialize_with = "or_default")]
    agent_id: Number,
    #[serde(default, deserialize_with = "or_default")]
    agent_name: String,
    gitaly_info: Option<Server>,
    gitaly_repository: Option<Repository>,
    #[serde(default, deserialize_with = "or_default")]
    default_branch: String,
}

#[derive(Deserialize)]
struct Server {
    #[serde(default, deserialize_with = "or_default")]
    address: String,
    #[serde(default, deserialize_with = "or_default")]
    token: String,
    #[serde(default, deserialize_with = "or_default")]
    features: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Repository {
    #[serde(default, deserialize_with = "or_default")]
    storage_name: String,
    #[serde(default, deserialize_with = "or_default")]
    relative_path: String,
    #[serde(default, deserialize_with = "or_default")]
    git_object_directory: String,
    #[serde(default, deserialize_with = "or_default")]
    git_alternate_object_directories: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    gl_repository: String,
    #[serde(default, deserialize_with = "or_default")]
    gl_project_path: String,
}

fn parse(body: &Bytes) -> Result<RegisteredAgent, AnswerError> {
    let answer: Answer = serde_json::from_slice(body)?;
    let missing = AnswerError::Missing;
    if answer.project_id.0 <= 0 {
        return Err(missing("project_id"));
    }
    if answer.agent_id.0 <= 0 {
        return Err(missing("agent_id"));
    }
    if answer.agent_name.is_empty() {
        return Err(missing("agent_name"));
    }
    if answer.default_branch.is_empty() {
        return Err(missing("default_branch"));
    }
    let server = answer.gitaly_info.ok_or_else(|| missing("gitaly_info"))?;
    let repository = answer
        .gitaly_repository
        .ok_or_else(|| missing("gitaly_repository"))?;
    Ok(RegisteredAgent {
        agent: Arc::new(AgentInfo {
            id: AgentId(answer.agent_id.0),
            name: answer.agent_name,
            project_id: answer.project_id.0,
            project_path: repository.gl_project_path.clone(),
            default_branch: answer.default_branch,
        }),
        gitaly: GitalyInfo {
            address: server.address,
            token: server.token,
            features: server.features,
        },
        repository: GitalyRepository {
            storage_name: repository.storage_name,
            relative_path: repository.relative_path,
            git_object_directory: repository.git_object_directory,
            git_alternate_object_directories: repository.git_alternate_object_directories,
            gl_repository: repository.gl_repository,
            gl_project_path: repository.gl_project_path,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"project_id":"7","agent_id":3,"agent_name":"a","default_branch":"main",
        "gitaly_info":{"address":"tcp://g:1","token":"hush","features":{"x":"true"}},
        "gitaly_repository":{"gl_project_path":"g/p","git_alternate_object_directories":null},
        "something_new":1}"#;

    #[test]
    fn numbers_may_be_strings_and_what_is_new_is_ignored() {
        let registered = parse(&Bytes::from(GOOD)).unwrap();

        assert_eq!(registered.agent.id, AgentId(3));
        assert_eq!(registered.agent.project_id, 7);
        assert_eq!(registered.agent.project_path, "g/p");
        assert!(!format!("{registered:?}").contains("hush"));
    }

    #[test]
    fn what_must_be_there_must_be_there() {
        for (there, gone) in [
            (r#""agent_id":3"#, r#""agent_id":0"#),
            (r#""project_id":"7""#, r#""project_id":null"#),
            (r#""agent_name":"a""#, r#""agent_name":"""#),
            ("gitaly_info", "gitaly_infos"),
            ("gitaly_repository", "repository"),
        ] {
            let error = parse(&Bytes::from(GOOD.replace(there, gone)));
            let error = error.unwrap_err().to_string();
            assert!(error.ends_with("is missing"), "{gone}: {error}");
        }
        assert!(parse(&Bytes::from_static(b"<html>")).is_err());
    }
}

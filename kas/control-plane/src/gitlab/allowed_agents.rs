//! `allowed_agents`: which agents a CI job may use, and as whom.

use bytes::Bytes;
use cluster_state::AgentId;
use http::HeaderName;
use serde::Deserialize;

use super::{
    super::{DenyReason, RefusedKind, Token},
    call::{Call, Endpoint, Requester},
    client::Client,
    error::{AnswerError, CallError},
    number::{Number, or_default},
};

const PATH: &str = "/api/v4/job/allowed_agents";
const JOB_TOKEN: HeaderName = HeaderName::from_static("job-token");

/// A job and the agents it may use.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AllowedAgents {
    pub(super) agents: Vec<AllowedAgent>,
    pub(super) job: Job,
}

/// What is known of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) id: i64,
    pub(super) pipeline: i64,
    pub(super) project: i64,
    /// The groups of its project, as GitLab orders them.
    pub(super) groups: Vec<i64>,
    pub(super) user_id: i64,
    pub(super) username: String,
    pub(super) environment: Option<Environment>,
}

/// Where a job deploys to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Environment {
    pub(super) slug: String,
    pub(super) tier: String,
}

/// An agent that a job may use.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AllowedAgent {
    pub(super) id: AgentId,
    pub(super) config_project: i64,
    pub(super) access_as: JobAccessAs,
}

/// As whom a job appears.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum JobAccessAs {
    Agent,
    CiJob,
    Impersonate(Impersonate),
}

/// Somebody to impersonate.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Impersonate {
    #[serde(deserialize_with = "or_default")]
    pub(super) username: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) groups: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) uid: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) extra: Vec<Extra>,
}

/// An extra value of an identity.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Extra {
    #[serde(deserialize_with = "or_default")]
    pub(super) key: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) val: Vec<String>,
}

/// Asks which agents the job of a token may use.
pub(super) async fn allowed_agents(
    client: &Client,
    token: &Token,
    requester: Requester,
) -> Result<AllowedAgents, CallError> {
    let call = Call {
        signed: false,
        credential: Some((JOB_TOKEN, token.clone())),
        caller: Some(token.hash()),
        requester,
        ..Call::get(Endpoint::AllowedAgents, PATH)
    };
    let body = client.call(&call).await?;
    parse(&body).map_err(|why| CallError::InvalidAnswer { path: PATH, why })
}

/// What the caller is told, in upstream's words.
pub(super) fn refusal(error: &CallError) -> DenyReason {
    let refused = |kind, what: &str| DenyReason::Refused {
        kind,
        words: format!("{what}CI job token: {error}"),
    };
    match error.refusal() {
        Some(401) => refused(RefusedKind::Unauthenticated, ""),
        Some(403) => refused(RefusedKind::Forbidden, ""),
        Some(404) => refused(RefusedKind::NotFound, "agents for "),
        _ if *error == CallError::TooManyUnknown => DenyReason::TooManyUnknownCredentials,
        _ => DenyReason::Unavailable(format!(
            "Failed to get allowed agents for CI job token: {error}"
        )),
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default, deserialize_with = "or_default")]
    allowed_agents: Vec<AgentAnswer>,
    job: Option<Numbered>,
    pipeline: Option<Numbered>,
    project: Option<ProjectAnswer>,
    user: Option<UserAnswer>,
    environment: Option<EnvironmentAnswer>,
}

#[derive(Deserialize)]
struct Numbered {
    #[serde(default, deserialize_with = "or_default")]
    id: Number,
}

#[derive(Deserialize)]
struct AgentAnswer {
    #[serde(default, deserialize_with = "or_default")]
    id: Number,
    config_project: Option<Numbered>,
    configuration: Option<ConfigurationAnswer>,
}

#[derive(Deserialize)]
struct ConfigurationAnswer {
    access_as: Option<AccessAsAnswer>,
}

/// Which keys are there; what is new in GitLab is no key here.
#[derive(Deserialize)]
struct AccessAsAnswer {
    agent: Option<serde::de::IgnoredAny>,
    ci_job: Option<serde::de::IgnoredAny>,
    impersonate: Option<Impersonate>,
}

#[derive(Deserialize)]
struct ProjectAnswer {
    #[serde(default, deserialize_with = "or_default")]
    id: Number,
    #[serde(default, deserialize_with = "or_default")]
    groups: Vec<Numbered>,
}

#[derive(Deserialize)]
struct UserAnswer {
    #[serde(default, deserialize_with = "or_default")]
    id: Number,
    #[serde(default, deserialize_with = "or_default")]
    username: String,
}

#[derive(Deserialize)]
struct EnvironmentAnswer {
    #[serde(default, deserialize_with = "or_default")]
    slug: String,
    #[serde(default, deserialize_with = "or_default")]
    tier: String,
}

fn parse(body: &Bytes) -> Result<AllowedAgents, AnswerError> {
    let answer: Answer = serde_json::from_slice(body)?;
    let there = |what: Option<Numbered>, key| what.ok_or(AnswerError::Missing(key));
    let project = answer.project.ok_or(AnswerError::Missing("project"))?;
    let user = answer.user.ok_or(AnswerError::Missing("user"))?;
    if user.username.is_empty() {
        return Err(AnswerError::Invalid("user.username is empty".to_owned()));
    }
    let agents: Result<_, _> = answer.allowed_agents.into_iter().map(agent).collect();
    Ok(AllowedAgents {
        agents: agents?,
        job: Job {
            id: there(answer.job, "job")?.id.0,
            pipeline: there(answer.pipeline, "pipeline")?.id.0,
            project: project.id.0,
            groups: project.groups.iter().map(|group| group.id.0).collect(),
            user_id: user.id.0,
            username: user.username,
            environment: answer.environment.map(environment).transpose()?,
        },
    })
}

fn environment(answer: EnvironmentAnswer) -> Result<Environment, AnswerError> {
    let EnvironmentAnswer { slug, tier } = answer;
    if slug.is_empty() || tier.is_empty() {
        return Err(AnswerError::Invalid(
            "environment has an empty slug or tier".to_owned(),
        ));
    }
    Ok(Environment { slug, tier })
}

fn agent(answer: AgentAnswer) -> Result<AllowedAgent, AnswerError> {
    let id = answer.id.0;
    let config_project = answer
        .config_project
        .ok_or_else(|| AnswerError::Invalid(format!("config_project of agent {id} is missing")))?;
    let access_as = answer.configuration.and_then(|it| it.access_as);
    Ok(AllowedAgent {
        id: AgentId(id),
        config_project: config_project.id.0,
        access_as: match access_as {
            None => JobAccessAs::Agent,
            Some(given) => access_as_of(given).ok_or_else(|| {
                AnswerError::Invalid(format!("access_as of agent {id} has no key that is known"))
            })?,
        },
    })
}

fn access_as_of(given: AccessAsAnswer) -> Option<JobAccessAs> {
    match given {
        AccessAsAnswer {
            impersonate: Some(whom),
            ..
        } => Some(JobAccessAs::Impersonate(whom)),
        AccessAsAnswer {
            ci_job: Some(_), ..
        } => Some(JobAccessAs::CiJob),
        AccessAsAnswer { agent: Some(_), .. } => Some(JobAccessAs::Agent),
        AccessAsAnswer { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"allowed_agents":[
        {"id":5,"config_project":{"id":"3"},"configuration":{"default_namespace":"n","access_as":ACCESS}}],
        "job":{"id":3},"pipeline":{"id":6},"project":{"id":10,"groups":[{"id":1},{"id":"2"}]},
        "user":{"id":2,"username":"root","roles_in_project":["guest"]},
        "environment":{"slug":"prod","tier":"production"}}"#;

    fn with(access_as: &str) -> Result<AllowedAgents, AnswerError> {
        parse(&Bytes::from(GOOD.replace("ACCESS", access_as)))
    }

    #[test]
    fn an_answer_is_read_whole() {
        let answer = with(r#"{"ci_job":{}}"#).unwrap();

        assert_eq!(answer.agents[0].id, AgentId(5));
        assert_eq!(answer.agents[0].config_project, 3);
        assert_eq!(answer.job.groups, [1, 2]);
        assert_eq!(answer.job.environment.unwrap().tier, "production");
    }

    #[test]
    fn access_as_is_one_of_those_known_or_nothing() {
        let read = |text| with(text).map(|answer| answer.agents[0].access_as.clone());
        let whom = Impersonate {
            username: "x".into(),
            ..Impersonate::default()
        };

        assert_eq!(read("null"), Ok(JobAccessAs::Agent));
        assert_eq!(read(r#"{"agent":{}}"#), Ok(JobAccessAs::Agent));
        assert_eq!(read(r#"{"ci_job":{}}"#), Ok(JobAccessAs::CiJob));
        assert_eq!(
            read(r#"{"impersonate":{"username":"x","groups":null}}"#),
            Ok(JobAccessAs::Impersonate(whom))
        );
        for unknown in ["{}", r#"{"ci_user":{}}"#] {
            assert!(
                read(unknown)
                    .unwrap_err()
                    .to_string()
                    .contains("access_as of agent 5")
            );
        }
    }

    #[test]
    fn what_must_be_there_must_be_there() {
        let good = GOOD.replace("ACCESS", "null");
        for (there, gone) in [
            (r#""config_project""#, r#""other""#),
            (r#""job""#, r#""jobs""#),
            (r#""pipeline""#, r#""other""#),
            (r#""project":"#, r#""other":"#),
            (r#""user""#, r#""users""#),
            (r#""root""#, r#""""#),
            (r#""prod""#, r#""""#),
        ] {
            let body = Bytes::from(good.replace(there, gone));
            assert!(parse(&body).is_err(), "{there} -> {gone}");
        }
    }
}

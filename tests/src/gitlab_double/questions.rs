//! What GitLab answers to each call: success with JSON, or a refusal with its reason.

use http::{HeaderMap, header};
use serde_json::{Value, json};

use super::scenario::{Agent, Job, Scenario, User};

/// A status and a body; none for 204.
pub(super) type Answer = (u16, Option<Value>);

/// A refusal in GitLab's form.
pub(super) fn refused(status: u16, message: &str) -> Answer {
    (status, Some(json!({"message": message})))
}

/// Where a project's repository is on its storage.
pub(super) fn relative_path(project: i64) -> String {
    format!("@hashed/{project}.git")
}

pub(super) fn agent_info(scenario: &Scenario, gitaly: &str, headers: &HeaderMap) -> Answer {
    match by_bearer(scenario, headers) {
        None => refused(401, "401 Unauthorized"),
        Some(agent) => (200, Some(info(scenario, gitaly, agent))),
    }
}

pub(super) fn by_bearer<'a>(scenario: &'a Scenario, headers: &HeaderMap) -> Option<&'a Agent> {
    let token = text(headers, header::AUTHORIZATION.as_str());
    let token = token.strip_prefix("Bearer ").unwrap_or_default();
    let owns = |agent: &&Agent| agent.tokens.iter().any(|own| own == token);
    scenario.agents.iter().find(owns)
}

fn info(scenario: &Scenario, gitaly: &str, agent: &Agent) -> Value {
    let server = &scenario.gitaly;
    let address = server.address.as_deref().unwrap_or(gitaly);
    json!({
        "project_id": agent.project.id,
        "agent_id": agent.id,
        "agent_name": agent.name,
        "gitaly_info": {"address": address, "token": server.token, "features": server.features},
        "gitaly_repository": {
            "storage_name": "default",
            "relative_path": relative_path(agent.project.id),
            "git_object_directory": "",
            "git_alternate_object_directories": [],
            "gl_repository": format!("project-{}", agent.project.id),
            "gl_project_path": agent.project.path,
        },
        "default_branch": agent.project.default_branch,
    })
}

pub(super) fn allowed_agents(scenario: &Scenario, headers: &HeaderMap) -> Answer {
    let token = text(headers, "job-token");
    match scenario.jobs.iter().find(|job| job.token == token) {
        None => refused(401, "401 Unauthorized"),
        Some(job) if job.finished => refused(403, "403 Forbidden - Job is not running"),
        Some(job) => (200, Some(allowed(scenario, job))),
    }
}

fn allowed(scenario: &Scenario, job: &Job) -> Value {
    let agents = job.agents.iter().filter_map(|allowed| {
        let agent = scenario.agent(allowed.id)?;
        let mut configuration = json!({});
        if let Some(access_as) = &allowed.access_as {
            configuration["access_as"] = access_as.clone();
        }
        Some(json!({
            "id": agent.id,
            "config_project": {"id": agent.project.id},
            "configuration": configuration,
        }))
    });
    let mut answer = json!({
        "allowed_agents": agents.collect::<Vec<_>>(),
        "job": {"id": job.id},
        "pipeline": {"id": job.pipeline},
        "project": {
            "id": job.project,
            "groups": job.groups.iter().map(|id| json!({"id": id})).collect::<Vec<_>>(),
        },
        "user": {"id": 1, "username": job.username, "roles_in_project": ["developer"]},
    });
    if let Some(environment) = &job.environment {
        answer["environment"] = json!({"slug": environment.slug, "tier": environment.tier});
    }
    answer
}

pub(super) fn authorize_proxy_user(scenario: &Scenario, body: &Value) -> Answer {
    let field = |key: &str| body[key].as_str().unwrap_or_default();
    let id: Option<i64> = field("agent_id").parse().ok();
    let Some(agent) = id.and_then(|id| scenario.agent(id)) else {
        return refused(404, "404 Not found");
    };
    if !agent.user_access {
        return refused(401, "401 Unauthorized - Feature disabled for agent");
    }
    let key = field("access_key");
    let user = match field("access_type") {
        "personal_access_token" => by_token(scenario, key),
        "session_cookie" => by_session(scenario, key, field("csrf_token")),
        _ => Err(refused(400, "access_type does not have a valid value")),
    };
    match user {
        Err(refused) => refused,
        Ok(user) => match user.agents.iter().find(|allowed| allowed.id == agent.id) {
            None => refused(403, "403 Forbidden"),
            Some(allowed) => (
                200,
                Some(json!({
                    "agent": {"id": agent.id, "config_project": {"id": agent.project.id}},
                    "user": {"id": user.id, "username": user.username},
                    "access_as": allowed.access_as,
                })),
            ),
        },
    }
}

fn by_token<'a>(scenario: &'a Scenario, token: &str) -> Result<&'a User, Answer> {
    let owned = |user: &'a User| {
        let own = user.tokens.iter().find(|own| own.token == token)?;
        Some((user, own))
    };
    let Some((user, own)) = scenario.users.iter().find_map(owned) else {
        return Err(refused(401, "401 Unauthorized"));
    };
    if own.scopes.iter().any(|scope| scope == "k8s_proxy") {
        return Ok(user);
    }
    let why = json!({"error": "insufficient_scope", "scope": "k8s_proxy"});
    Err((403, Some(why)))
}

fn by_session<'a>(scenario: &'a Scenario, key: &str, csrf: &str) -> Result<&'a User, Answer> {
    if !key.starts_with("session ") {
        return Err(refused(400, "400 Bad request - Invalid access_key"));
    }
    let session = scenario.sessions.iter().find(|it| it.cookie == key);
    let Some(session) = session else {
        return Err(refused(401, "401 Unauthorized - Invalid session"));
    };
    if session.csrf != csrf {
        return Err(refused(401, "401 Unauthorized - CSRF token does not match"));
    }
    let user = session.username.as_deref().and_then(|it| scenario.user(it));
    user.ok_or_else(|| refused(401, "401 Unauthorized - Invalid user in session"))
}

/// Also gives what is to be remembered.
pub(super) fn agent_configuration(
    scenario: &Scenario,
    body: &Value,
) -> (Answer, Option<(i64, Value)>) {
    let id: Option<i64> = body["agent_id"].as_str().and_then(|it| it.parse().ok());
    match id.filter(|id| scenario.agent(*id).is_some()) {
        _ if !body["agent_config"].is_object() => (refused(400, "agent_config is missing"), None),
        None => (refused(404, "404 Not found"), None),
        Some(id) => ((204, None), Some((id, body["agent_config"].clone()))),
    }
}

/// Also gives what is to be remembered. GitLab knows the names that it counts.
pub(super) fn usage_metrics(report: Value) -> (Answer, Option<Value>) {
    let known = |key: &str, is_good: fn(&Value) -> bool| {
        let group = report[key].as_object();
        group.is_none_or(|all| !all.is_empty() && all.values().all(is_good))
    };
    let counts = known("counters", |it| it.as_u64().is_some_and(|it| it > 0));
    let ids = |it: &Value| {
        it.as_array()
            .is_some_and(|all| all.iter().all(Value::is_i64))
    };
    if counts && known("unique_counters", ids) && report.is_object() {
        return ((204, None), Some(report));
    }
    (refused(400, "400 Bad request - Invalid counters"), None)
}

/// Also gives what is to be remembered.
pub(super) fn agent_events(report: Value) -> (Answer, Option<Value>) {
    let events = report["events"].as_object();
    let lists = |all: &serde_json::Map<String, Value>| all.values().all(Value::is_array);
    if events.is_some_and(lists) {
        return ((204, None), Some(report["events"].clone()));
    }
    (refused(400, "400 Bad request - events is missing"), None)
}

/// A job for a runner, with all that the runner said; none for one that has had its own.
pub(super) fn job_request(scenario: &Scenario, body: &Value) -> Answer {
    let token = body["token"].as_str().unwrap_or_default();
    match scenario.runners.iter().find(|it| it.token == token) {
        None => refused(403, "403 Forbidden"),
        Some(runner) => match runner.job {
            None => (204, None),
            Some(id) => (201, Some(json!({"id": id, "asked": body}))),
        },
    }
}

/// Where runners ask for jobs; GitLab says 501 where that is not through kas.
pub(super) fn router_discovery(scenario: &Scenario) -> Answer {
    match &scenario.job_router {
        None => refused(501, "501 Not Implemented"),
        Some(url) => (200, Some(json!({"server_url": url}))),
    }
}

/// An agent may read its own project, and what the scenario says besides.
pub(super) fn verify_project_access(
    scenario: &Scenario,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Answer {
    let Some(agent) = by_bearer(scenario, headers) else {
        return refused(401, "401 Unauthorized");
    };
    let path = query.and_then(|it| it.strip_prefix("id="));
    let path = path.unwrap_or_default().replace("%2F", "/");
    match path == agent.project.path || agent.reads.contains(&path) {
        true => (204, None),
        false => refused(404, "404 Project Not Found"),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let value = headers.get(name);
    value.and_then(|it| it.to_str().ok()).unwrap_or_default()
}

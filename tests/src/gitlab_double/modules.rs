//! GitLab's API for agents' modules: what they ask for is remembered, and answered as GitLab does.

use http::{HeaderMap, Method, request::Parts};
use serde_json::{Value, json};

use super::{questions::Answer, scenario::Scenario};

/// What all paths of modules begin with.
pub(super) const PREFIX: &str = "/api/v4/internal/kubernetes/modules/";

/// A request of an agent's module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleCall {
    /// The agent, by its token.
    pub agent: i64,
    /// The method.
    pub method: String,
    /// Path and query behind what all modules' paths begin with.
    pub target: String,
    /// The headers.
    pub headers: HeaderMap,
    /// Bytes of the body.
    pub body_bytes: usize,
}

/// Also gives what is to be remembered.
pub(super) fn answer(
    scenario: &Scenario,
    head: &Parts,
    body: &[u8],
) -> (Answer, Option<ModuleCall>) {
    let Some(agent) = super::questions::by_bearer(scenario, &head.headers) else {
        return (super::questions::refused(401, "401 Unauthorized"), None);
    };
    let target = head.uri.path_and_query().map(ToString::to_string);
    let target = target.unwrap_or_default().split_off(PREFIX.len());
    let call = ModuleCall {
        agent: agent.id,
        method: head.method.to_string(),
        headers: head.headers.clone(),
        body_bytes: body.len(),
        target,
    };
    let path = call.target.split('?').next().unwrap_or_default();
    let answer: (u16, Value) = match (&head.method, path) {
        (&Method::GET, "starboard_vulnerability/policies_configuration") => {
            (200, json!({"configurations": []}))
        }
        (&Method::PUT, "starboard_vulnerability/") => (200, json!({"uuid": "0b1"})),
        (&Method::POST, "starboard_vulnerability/scan_result") => (200, json!({})),
        (&Method::POST, "remote_development/reconcile") => {
            (201, json!({"workspace_rails_infos": scenario.workspaces}))
        }
        _ => (404, json!({"error": "404 Not Found"})),
    };
    ((answer.0, Some(answer.1)), Some(call))
}

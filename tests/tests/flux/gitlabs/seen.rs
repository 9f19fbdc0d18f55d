//! What came to GitLab, so that two runs can be compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use serde_json::Value;
use tests::gitlab_double::Recorded;

/// Parts of JSON that are deeper are the cluster's, not the agent's.
const DEPTH: usize = 3;

/// Calls, each with all that it came with in one of its instances.
pub(super) type Calls = BTreeMap<String, BTreeSet<String>>;

/// What has to come: calls, and what must have come with them.
const EXPECTED: [(&str, &[&str]); 8] = [
    ("GET kubernetes/agent_info", &[]),
    (
        "POST kubernetes/agent_configuration",
        &[
            r#"body agent_config.container_scanning.cadence="@every 20s""#,
            r#"body agent_config.remote_development.dns_zone="workspaces.example.com""#,
            "body agent_config.flux.webhook_receiver_url",
        ],
    ),
    (
        "POST kubernetes/usage_metrics",
        &[
            "body counters.flux_git_push_notifications_total",
            "body unique_counters.flux_git_push_notified_unique_projects[]",
        ],
    ),
    (
        "GET kubernetes/verify_project_access",
        &["query id=group%2Fapp"],
    ),
    (
        "GET kubernetes/modules/starboard_vulnerability/policies_configuration",
        &[],
    ),
    (
        "PUT kubernetes/modules/starboard_vulnerability/",
        &["body vulnerability.location.kubernetes_resource"],
    ),
    (
        "POST kubernetes/modules/starboard_vulnerability/scan_result",
        &["body uuids[]"],
    ),
    (
        "POST kubernetes/modules/remote_development/reconcile",
        &[
            "body update_type=full",
            "body update_type=partial",
            "body workspace_agent_infos[].latest_k8s_deployment_info.kind",
        ],
    ),
];

/// What GitLab's later kas ask, too; a GitLab that does not know it says 404.
pub(super) const LATER: [&str; 2] = [
    "GET kubernetes/receptive_agents",
    "POST kubernetes/agent_events",
];

/// What of all that has to come has not.
pub(super) fn missing(seen: &Calls) -> Vec<String> {
    let mut missing = Vec::new();
    for (call, parts) in EXPECTED {
        let Some(seen) = seen.get(call) else {
            missing.push(call.to_owned());
            continue;
        };
        let absent = parts.iter().filter(|part| !seen.contains(**part));
        missing.extend(absent.map(|part| format!("{call}: {part}")));
    }
    missing
}

/// The name of a call.
pub(super) fn call(one: &Recorded) -> String {
    let path = one.path.trim_start_matches("/api/v4/internal/");
    format!("{} {path}", one.method)
}

/// All calls of a run.
pub(super) fn seen(recorded: &[Recorded]) -> Calls {
    let mut calls = Calls::new();
    for one in recorded {
        let parts = calls.entry(call(one)).or_default();
        if !one.query.is_empty() {
            parts.insert(format!("query {}", one.query));
        }
        for (name, value) in &one.headers {
            let part = match name.as_str() {
                "accept" | "content-type" => format!("header {name}: {value:?}"),
                // How it travels is not what is asked.
                "accept-encoding" | "connection" | "content-length" | "transfer-encoding" => {
                    continue;
                }
                _ => format!("header {name}"),
            };
            parts.insert(part);
        }
        if !one.body.is_empty() {
            match serde_json::from_slice(&one.body) {
                Ok(body) => names(&body, "", DEPTH, parts),
                Err(_) => drop(parts.insert("body that is no JSON".to_owned())),
            }
        }
    }
    calls
}

/// The names in JSON, what kind of update it is, and what an agent's file says.
fn names(value: &Value, path: &str, depth: usize, all: &mut BTreeSet<String>) {
    let is_file = path.starts_with("agent_config.");
    match value {
        Value::Object(fields) if (depth > 0 || is_file) && !fields.is_empty() => {
            for (name, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                let path = format!("{path}{dot}{name}");
                names(value, &path, depth.saturating_sub(1), all);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                names(item, &format!("{path}[]"), depth, all);
            }
        }
        Value::String(text) if path == "update_type" => {
            all.insert(format!("body {path}={text}"));
        }
        // The URL has a port of its own in each run.
        value if is_file && !path.ends_with("_url") => {
            all.insert(format!("body {path}={value}"));
        }
        _ => {
            all.insert(format!("body {path}"));
        }
    }
}

/// A line for each difference.
pub(super) fn differences(theirs: &Calls, ours: &Calls) -> String {
    let none = BTreeSet::new();
    let mut text = String::new();
    let calls: BTreeSet<_> = theirs.keys().chain(ours.keys()).collect();
    for call in calls {
        if theirs.contains_key(call) != ours.contains_key(call) {
            let only = if ours.contains_key(call) {
                "ours"
            } else {
                "GitLab's"
            };
            // Writing to a string cannot fail.
            writeln!(text, "only through {only}: {call}").ok();
        }
        let of = |all: &'_ Calls| all.get(call).unwrap_or(&none).clone();
        let (theirs, ours) = (of(theirs), of(ours));
        for part in theirs.symmetric_difference(&ours) {
            let only = if ours.contains(part) {
                "ours"
            } else {
                "GitLab's"
            };
            writeln!(text, "only through {only}: {call}: {part}").ok();
        }
    }
    text
}

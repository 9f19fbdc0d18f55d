//! Events of which GitLab makes its own usage pages: who reached clusters how, and which agents registered.

use std::collections::{BTreeMap, HashMap, HashSet};

use cluster_state::AgentId;
use serde::Serialize;

use super::AccessKind;
use crate::AgentInfo;

/// Different events of a kind that are remembered until they are reported.
const EVENTS_MAX: usize = 10_000;
/// Characters of what an agent says of itself.
const TEXT_CHARS_MAX: usize = 64;

const USERS: [&str; 3] = [
    "k8s_api_proxy_requests_unique_users_via_ci_access",
    "k8s_api_proxy_requests_unique_users_via_user_access",
    "k8s_api_proxy_requests_unique_users_via_pat_access",
];
const REGISTERED: &str = "register_agent_at_kas";

/// A user reached a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
struct UserEvent {
    user_id: i64,
    project_id: i64,
}

/// An agent registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct AgentEvent {
    project_id: i64,
    agent_version: String,
    architecture: String,
}

/// What happened since the last report, each once.
#[derive(Debug, Default)]
pub(super) struct Events {
    users: [HashSet<UserEvent>; 3],
    agents: HashMap<AgentId, AgentEvent>,
}

/// A report of events, as GitLab takes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EventReport {
    events: BTreeMap<&'static str, Vec<Event>>,
    #[serde(skip)]
    agents: Vec<(AgentId, AgentEvent)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Event {
    User(UserEvent),
    Agent(AgentEvent),
}

impl EventReport {
    /// Whether there is nothing to report.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

impl Events {
    pub(super) fn user(&mut self, kind: AccessKind, user_id: i64, project_id: i64) {
        let users = &mut self.users[kind as usize];
        if user_id != 0 && project_id != 0 && users.len() < EVENTS_MAX {
            users.insert(UserEvent {
                user_id,
                project_id,
            });
        }
    }

    /// `platform` is Kubernetes' own name for it, such as `linux/amd64`.
    pub(super) fn agent(&mut self, agent: &AgentInfo, version: &str, platform: &str) {
        if self.agents.len() >= EVENTS_MAX && !self.agents.contains_key(&agent.id) {
            return;
        }
        let architecture = platform.rsplit('/').next().unwrap_or_default();
        let event = AgentEvent {
            project_id: agent.project_id,
            agent_version: printable(version),
            architecture: printable(architecture),
        };
        self.agents.insert(agent.id, event);
    }

    pub(super) fn report(&self) -> EventReport {
        let mut report = EventReport::default();
        for (name, users) in USERS.into_iter().zip(&self.users) {
            let mut users: Vec<_> = users.iter().copied().collect();
            users.sort_unstable();
            if !users.is_empty() {
                let users = users.into_iter().map(Event::User).collect();
                report.events.insert(name, users);
            }
        }
        let mut agents: Vec<_> = self
            .agents
            .iter()
            .map(|(id, it)| (*id, it.clone()))
            .collect();
        agents.sort_unstable_by_key(|(id, _)| *id);
        if !agents.is_empty() {
            let events = agents.iter().map(|(_, it)| Event::Agent(it.clone()));
            report.events.insert(REGISTERED, events.collect());
        }
        report.agents = agents;
        report
    }

    pub(super) fn reported(&mut self, report: &EventReport) {
        for (name, users) in USERS.into_iter().zip(&mut self.users) {
            for event in report.events.get(name).into_iter().flatten() {
                if let Event::User(user) = event {
                    users.remove(user);
                }
            }
        }
        for (id, event) in &report.agents {
            if self.agents.get(id) == Some(event) {
                self.agents.remove(id);
            }
        }
    }
}

fn printable(text: &str) -> String {
    let printable = text.chars().filter(|it| !it.is_control());
    printable.take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(id: i64) -> AgentInfo {
        AgentInfo {
            id: AgentId(id),
            name: "a".into(),
            project_id: 3,
            project_path: "g/p".into(),
            default_branch: "main".into(),
        }
    }

    #[test]
    fn each_event_is_reported_once_and_what_comes_meanwhile_next_time() {
        let mut events = Events::default();
        events.user(AccessKind::Ci, 1, 3);
        events.user(AccessKind::Ci, 1, 3);
        events.user(AccessKind::Pat, 1, 3);
        events.user(AccessKind::User, 0, 3);
        events.agent(&agent(5), "v18.1.0\n", "linux/arm64");

        let report = events.report();
        events.user(AccessKind::User, 2, 3);
        events.agent(&agent(5), "v18.2.0", "linux/arm64");
        events.reported(&report);

        let expected = serde_json::json!({"events": {
            "k8s_api_proxy_requests_unique_users_via_ci_access": [{"user_id": 1, "project_id": 3}],
            "k8s_api_proxy_requests_unique_users_via_pat_access": [{"user_id": 1, "project_id": 3}],
            "register_agent_at_kas":
                [{"project_id": 3, "agent_version": "v18.1.0", "architecture": "arm64"}],
        }});
        assert_eq!(serde_json::to_value(&report).unwrap(), expected);
        let expected = serde_json::json!({"events": {
            "k8s_api_proxy_requests_unique_users_via_user_access": [{"user_id": 2, "project_id": 3}],
            "register_agent_at_kas":
                [{"project_id": 3, "agent_version": "v18.2.0", "architecture": "arm64"}],
        }});
        assert_eq!(serde_json::to_value(events.report()).unwrap(), expected);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut events = Events::default();
        for id in 1..=20_000 {
            events.user(AccessKind::Ci, id, 3);
            events.agent(&agent(id), &"v".repeat(1000), "");
        }

        assert_eq!(events.users[0].len(), EVENTS_MAX);
        assert_eq!(events.agents.len(), EVENTS_MAX);
        assert_eq!(
            events.agents[&AgentId(1)].agent_version.len(),
            TEXT_CHARS_MAX
        );
    }
}

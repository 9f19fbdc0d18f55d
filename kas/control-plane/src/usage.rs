//! How the server is used, counted for GitLab under the names that it knows.
//!
//! What a report says is subtracted once GitLab has taken it, so that nothing is
//! lost that comes meanwhile. Each replica reports for itself.

mod events;

pub use events::EventReport;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cluster_state::AgentId;
use serde::Serialize;

use crate::{AgentInfo, Credentials};
use events::Events;

/// Different users or agents that are remembered until they are reported.
const IDS_MAX: usize = 100_000;

/// How callers authenticate to reach clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessKind {
    /// As a CI job.
    Ci,
    /// In a browser.
    User,
    /// With a personal access token.
    Pat,
}

impl AccessKind {
    /// The kind of these credentials.
    #[must_use]
    pub fn of(credentials: &Credentials) -> Self {
        match credentials {
            Credentials::Ci { .. } => Self::Ci,
            Credentials::Session { .. } => Self::User,
            Credentials::Pat { .. } | Credentials::Oidc { .. } => Self::Pat,
        }
    }
}

/// The names of the counters of one kind.
#[derive(Debug)]
struct Names {
    requests: &'static str,
    users: &'static str,
    agents: &'static str,
}

const ACCESS_KINDS: [Names; 3] = [
    Names {
        requests: "k8s_api_proxy_requests_via_ci_access",
        users: "k8s_api_proxy_requests_unique_users_via_ci_access",
        agents: "k8s_api_proxy_requests_unique_agents_via_ci_access",
    },
    Names {
        requests: "k8s_api_proxy_requests_via_user_access",
        users: "k8s_api_proxy_requests_unique_users_via_user_access",
        agents: "k8s_api_proxy_requests_unique_agents_via_user_access",
    },
    Names {
        requests: "k8s_api_proxy_requests_via_pat_access",
        users: "k8s_api_proxy_requests_unique_users_via_pat_access",
        agents: "k8s_api_proxy_requests_unique_agents_via_pat_access",
    },
];
const REQUESTS: &str = "k8s_api_proxy_request";
/// GitLab's name, though it counts all users.
const USERS: &str = "agent_users_using_ci_tunnel";

const FLUX: &str = "flux_git_push_notifications_total";
const FLUX_PROJECTS: &str = "flux_git_push_notified_unique_projects";

/// What was counted since the last report. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Usage(Arc<Mutex<Counted>>);

#[derive(Debug, Default)]
struct Counted {
    users: HashSet<i64>,
    ways: [ByWay; 3],
    flux: u64,
    flux_projects: HashSet<i64>,
    events: Events,
}

#[derive(Debug, Default)]
struct ByWay {
    requests: u64,
    users: HashSet<i64>,
    agents: HashSet<i64>,
}

/// A report, as GitLab takes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    counters: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    unique_counters: BTreeMap<&'static str, Vec<i64>>,
}

impl Report {
    /// Whether there is nothing to report.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counters.is_empty() && self.unique_counters.is_empty()
    }

    fn count(&mut self, name: &'static str, count: u64) {
        if count > 0 {
            *self.counters.entry(name).or_default() += count;
        }
    }

    fn unique(&mut self, name: &'static str, ids: &HashSet<i64>) {
        if !ids.is_empty() {
            let mut ids: Vec<_> = ids.iter().copied().collect();
            ids.sort_unstable();
            self.unique_counters.insert(name, ids);
        }
    }
}

impl Usage {
    /// A request was allowed. `user` is 0 where GitLab names none; `project` is the agent's.
    pub fn allowed(&self, kind: AccessKind, user: i64, agent: AgentId, project: i64) {
        let mut counted = self.lock();
        counted.events.user(kind, user, project);
        add(&mut counted.users, user);
        let by_way = &mut counted.ways[kind as usize];
        by_way.requests += 1;
        add(&mut by_way.users, user);
        add(&mut by_way.agents, agent.0);
    }

    /// A process of an agent registered, which says this of itself.
    pub fn registered(&self, agent: &AgentInfo, version: &str, platform: &str) {
        self.lock().events.agent(agent, version, platform);
    }

    /// The events that are to be reported now.
    #[must_use]
    pub fn event_report(&self) -> EventReport {
        self.lock().events.report()
    }

    /// GitLab has taken a report of events, or does not want any.
    pub fn events_reported(&self, report: &EventReport) {
        self.lock().events.reported(report);
    }

    /// An agent was told of a push to a project, for Flux.
    pub fn flux_told(&self, project: i64) {
        let mut counted = self.lock();
        counted.flux += 1;
        add(&mut counted.flux_projects, project);
    }

    /// What is to be reported now.
    #[must_use]
    pub fn report(&self) -> Report {
        let counted = self.lock();
        let mut report = Report::default();
        report.unique(USERS, &counted.users);
        report.count(FLUX, counted.flux);
        report.unique(FLUX_PROJECTS, &counted.flux_projects);
        for (names, by_way) in ACCESS_KINDS.iter().zip(&counted.ways) {
            report.count(REQUESTS, by_way.requests);
            report.count(names.requests, by_way.requests);
            report.unique(names.users, &by_way.users);
            report.unique(names.agents, &by_way.agents);
        }
        report
    }

    /// GitLab has taken a report.
    pub fn reported(&self, report: &Report) {
        let mut counted = self.lock();
        let unique = |name| report.unique_counters.get(name).into_iter().flatten();
        for id in unique(USERS) {
            counted.users.remove(id);
        }
        for id in unique(FLUX_PROJECTS) {
            counted.flux_projects.remove(id);
        }
        let flux = report.counters.get(FLUX).copied();
        counted.flux = counted.flux.saturating_sub(flux.unwrap_or(0));
        for (names, by_way) in ACCESS_KINDS.iter().zip(&mut counted.ways) {
            let count = report.counters.get(names.requests).copied();
            by_way.requests = by_way.requests.saturating_sub(count.unwrap_or(0));
            for id in unique(names.users) {
                by_way.users.remove(id);
            }
            for id in unique(names.agents) {
                by_way.agents.remove(id);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(ids: &mut HashSet<i64>, id: i64) {
    if id != 0 && (ids.len() < IDS_MAX || ids.contains(&id)) {
        ids.insert(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_gitlabs_names_and_leaves_out_what_is_zero() {
        let usage = Usage::default();
        usage.allowed(AccessKind::Ci, 1, AgentId(5), 3);
        usage.allowed(AccessKind::Ci, 1, AgentId(6), 3);
        usage.allowed(AccessKind::Pat, 2, AgentId(5), 3);

        let report = serde_json::to_value(usage.report()).unwrap();

        let expected = serde_json::json!({
            "counters": {
                "k8s_api_proxy_request": 3,
                "k8s_api_proxy_requests_via_ci_access": 2,
                "k8s_api_proxy_requests_via_pat_access": 1,
            },
            "unique_counters": {
                "agent_users_using_ci_tunnel": [1, 2],
                "k8s_api_proxy_requests_unique_users_via_ci_access": [1],
                "k8s_api_proxy_requests_unique_agents_via_ci_access": [5, 6],
                "k8s_api_proxy_requests_unique_users_via_pat_access": [2],
                "k8s_api_proxy_requests_unique_agents_via_pat_access": [5],
            },
        });
        assert_eq!(report, expected);
    }

    #[test]
    fn what_comes_while_a_report_is_under_way_is_in_the_next() {
        let usage = Usage::default();
        usage.allowed(AccessKind::User, 1, AgentId(5), 3);
        let first = usage.report();
        usage.allowed(AccessKind::User, 2, AgentId(5), 3);

        usage.reported(&first);

        let next = usage.report();
        assert_eq!(next.counters[REQUESTS], 1);
        assert_eq!(next.unique_counters[USERS], [2]);
        usage.reported(&next);
        assert!(usage.report().is_empty());
    }

    #[test]
    fn pushes_for_flux_are_reported_once_with_their_projects() {
        let usage = Usage::default();
        usage.flux_told(3);
        usage.flux_told(3);

        let report = usage.report();
        usage.reported(&report);

        assert_eq!(report.counters[FLUX], 2);
        assert_eq!(report.unique_counters[FLUX_PROJECTS], [3]);
        assert!(usage.report().is_empty());
    }

    #[test]
    fn nobody_is_no_user() {
        let usage = Usage::default();
        usage.allowed(AccessKind::Ci, 0, AgentId(5), 3);

        assert!(!usage.report().unique_counters.contains_key(USERS));
    }
}

//! The configuration file of an agent, with GitLab's keys and rules.
//!
//! It is checked here and sent as written: defaults are the agent's business. Keys that are not known here may be
//! known to a newer GitLab, which enforces what they say (`protected_branches_only`): it is told them as they were
//! written, and the agent is sent what is known.

mod access;
mod gitops;
mod modules;

pub use access::{CiAccess, UserAccess};
pub use gitops::Gitops;
pub use modules::{ContainerScanning, Flux, Observability, RemoteDevelopment};

use proto::agent::agentcfg::AgentConfiguration;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// All that an agent's configuration file may say.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentFile {
    /// Manifests to apply from repositories.
    pub gitops: Option<Gitops>,
    /// Logs and profiles of the agent.
    pub observability: Option<Observability>,
    /// Which CI jobs may use the agent.
    pub ci_access: Option<CiAccess>,
    /// Vulnerability scans of running images.
    pub container_scanning: Option<ContainerScanning>,
    /// Which users may use the agent. Told to GitLab, not to the agent.
    pub user_access: Option<UserAccess>,
    /// Workspaces.
    pub remote_development: Option<RemoteDevelopment>,
    /// Notifications for Flux.
    pub flux: Option<Flux>,
}

impl AgentFile {
    /// What the agent is sent of it; who the agent is, the caller fills in.
    #[must_use]
    pub fn to_message(&self) -> AgentConfiguration {
        AgentConfiguration {
            gitops: self.gitops.as_ref().map(Gitops::to_message),
            observability: self.observability.as_ref().map(Observability::to_message),
            ci_access: self.ci_access.as_ref().map(CiAccess::to_message),
            container_scanning: self
                .container_scanning
                .as_ref()
                .map(ContainerScanning::to_message),
            remote_development: self
                .remote_development
                .as_ref()
                .map(RemoteDevelopment::to_message),
            flux: self.flux.as_ref().map(Flux::to_message),
            ..AgentConfiguration::default()
        }
    }

    /// What GitLab is told of it: what was written, and what is known of that as protobuf's JSON.
    #[must_use]
    pub fn told(&self, written: &Value) -> Value {
        match (self.to_json(), written) {
            (known, Value::Object(_)) => merged(&known, written),
            (known, _) => known,
        }
    }

    /// What is known of it, as protobuf's JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut file = serde_json::to_value(self).expect("its keys are texts");
        remove_nulls(&mut file);
        file
    }
}

/// What was written, where `known` does not say it in its own form.
fn merged(known: &Value, written: &Value) -> Value {
    match (known, written) {
        (Value::Object(known), Value::Object(written)) => {
            let given = written.iter().filter(|(_, value)| !value.is_null());
            let told = given.map(|(key, value)| {
                let known = known.get(key).unwrap_or(&Value::Null);
                (key.clone(), merged(known, value))
            });
            Value::Object(told.collect())
        }
        (Value::Array(known), Value::Array(written)) if known.len() == written.len() => {
            let items = known.iter().zip(written);
            items
                .map(|(known, written)| merged(known, written))
                .collect()
        }
        (Value::Null, _) => {
            let mut told = written.clone();
            remove_nulls(&mut told);
            told
        }
        (known, _) => known.clone(),
    }
}

fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(remove_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proto::agent::agentcfg::{LogLevelEnum, ci_access_as_cf::As, git_ref_cf::Ref};

    use super::*;

    const FULL: &str = "
gitops:
  manifest_projects:
    - id: group/project
      default_namespace: apps
      paths: [{glob: 'prod/**/*.yaml'}]
      reconcile_timeout: 3600s
      dry_run_strategy: client
      prune: false
      prune_timeout: 60s
      prune_propagation_policy: background
      inventory_policy: adopt_all
      ref: {branch: main}
observability:
  logging: {level: debug, grpc_level: warn}
  google_profiler: {enabled: true, project_id: p}
ci_access:
  projects:
    - id: group/app
      default_namespace: app
      environments: [production]
      access_as: {impersonate: {username: deployer, groups: [g], uid: u, extra: [{key: k, val: [v]}]}}
  groups:
    - {id: group, access_as: {ci_job: {}}}
    - {id: other, access_as: {agent: {}}}
user_access:
  access_as: {user: {}}
  projects: [{id: group/app}]
container_scanning:
  cadence: '0 0 * * *'
  vulnerability_report: {namespaces: [default], filters: [{kinds: [Pod]}]}
  resource_requirements: {limits: {cpu: 500m}}
remote_development:
  enabled: true
  dns_zone: example.com
  partial_sync_interval: 10s
  gitlab_workspaces_proxy: {namespace: w}
  network_policy: {enabled: false}
flux: {webhook_receiver_url: 'http://receiver'}
";

    fn read(text: &str) -> Result<AgentFile, runtime::yaml::YamlError> {
        runtime::yaml::read(Path::new("config.yaml"), text)
    }

    #[test]
    fn every_key_reaches_the_agent() {
        let sent = read(FULL).unwrap().to_message();

        let project = &sent.gitops.as_ref().unwrap().manifest_projects[0];
        assert_eq!(project.id.as_deref(), Some("group/project"));
        assert_eq!(project.prune_timeout.unwrap().seconds, 60);
        let at = project.r#ref.as_ref().unwrap().r#ref.as_ref();
        assert_eq!(at, Some(&Ref::Branch("main".into())));
        let logging = sent.observability.as_ref().unwrap().logging.unwrap();
        assert_eq!(logging.level(), LogLevelEnum::Debug);
        assert_eq!(logging.grpc_level(), LogLevelEnum::Warn);
        let ci = sent.ci_access.as_ref().unwrap();
        let access = ci.projects[0].access_as.as_ref().unwrap().r#as.as_ref();
        let Some(As::Impersonate(whom)) = access else {
            panic!("{access:?}")
        };
        assert_eq!(whom.username, "deployer");
        assert_eq!(ci.groups.len(), 2);
        assert_eq!(sent.container_scanning.unwrap().cadence, "0 0 * * *");
        assert!(sent.remote_development.unwrap().enabled);
        assert_eq!(sent.flux.unwrap().webhook_receiver_url, "http://receiver");
    }

    #[test]
    fn gitlab_is_told_the_file_as_it_was_written() {
        let told = read(FULL).unwrap().to_json();

        let written: Value = serde_saphyr::from_str(FULL).unwrap();
        assert_eq!(told, written);
        assert_eq!(AgentFile::default().to_json(), serde_json::json!({}));
    }

    #[test]
    fn what_is_not_known_is_told_to_gitlab_as_it_was_written() {
        let text = "
ci_access:
  instance: {default_namespace: d}
  projects:
    - {id: g/a, protected_branches_only: yes, access_as: {ci_user: {}}}
    - {id: g/b, access_as: {impersonate: {username: u, extra: [{key: k, val: [v], more: 1}]}}}
user_access: {access_as: {agent: {new: on}}, projects: [{id: 5, roles: [a]}]}
remote_development: {enabled: no, enabled: on, max_resources_per_workspace: {limits: {cpu: '1.5'}}, dns_zone: ~}
observability:
future: [{a: ~, b: 0.5}]
";
        let path = Path::new("config.yaml");
        let (file, unknown) = runtime::yaml::read_noting::<AgentFile>(path, text).unwrap();
        let written = runtime::yaml::read_written(path, text).unwrap();

        let expected = serde_json::json!({
            "ci_access": {
                "instance": {"default_namespace": "d"},
                "projects": [
                    {"id": "g/a", "protected_branches_only": true, "access_as": {"ci_user": {}}},
                    {"id": "g/b", "access_as": {"impersonate": {
                        "username": "u", "extra": [{"key": "k", "val": ["v"], "more": 1}],
                    }}},
                ],
            },
            "user_access": {"access_as": {"agent": {"new": true}}, "projects": [{"id": "5", "roles": ["a"]}]},
            "remote_development": {"enabled": true, "max_resources_per_workspace": {"limits": {"cpu": "1.5"}}},
            "future": [{"b": 0.5}],
        });
        assert_eq!(file.told(&written), expected);
        assert_eq!(unknown.len(), 8, "{unknown:?}");
        let sent = file.to_message();
        let projects: Vec<_> = sent.ci_access.unwrap().projects;
        // As whom the other's jobs act is not known here: without that it would mean as the agent.
        assert_eq!(projects.len(), 1);
        assert_eq!(projects[0].id, "g/b");
        assert!(sent.remote_development.unwrap().enabled);
    }

    #[test]
    fn an_empty_file_is_an_empty_configuration() {
        assert_eq!(read("").unwrap(), AgentFile::default());
    }

    #[test]
    fn what_upstream_refuses_is_refused_with_its_place() {
        for (text, place, part) in [
            (
                "ci_access: {projects: [{id: ''}]}",
                "1:29",
                "must not be empty",
            ),
            ("ci_access: {projects: [{}]}", "1:24", "`id` is missing"),
            (
                "ci_access: {groups: [{id: g, access_as: {}}]}",
                "1:41",
                "exactly one key",
            ),
            (
                "ci_access: {groups: [{id: g, access_as: {agnt: {}}}]}",
                "1:42",
                "did you mean `agent`",
            ),
            ("container_scanning: {}", "1:21", "`cadence` is missing"),
            (
                "gitops: {manifest_projects: [{reconcile_timeout: 5m}]}",
                "1:50",
                "not a duration",
            ),
            (
                "remote_development: {full_sync_interval: 0s}",
                "1:42",
                "greater than 0s",
            ),
            (
                "observability:\n  loging: {}",
                "2:3",
                "did you mean `logging`",
            ),
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(
                error.starts_with(&format!("config.yaml:{place}: ")) && error.contains(part),
                "{text}: {error}"
            );
        }
    }
}

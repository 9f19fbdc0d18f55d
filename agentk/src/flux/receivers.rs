//! The Receivers of this agent: which projects they are for, and where each
//! is called. Pure.

use std::collections::{BTreeMap, BTreeSet};

use kube::core::DynamicObject;
use proto::graph::rpc::Update;
use runtime::names;

use super::{OF_AGENT, OF_PROJECT};

/// By uid.
#[derive(Debug, Default)]
pub(super) struct Receivers(BTreeMap<String, Receiver>);

#[derive(Debug, PartialEq, Eq)]
struct Receiver {
    project: String,
    /// None until the notification controller has seen it.
    path: Option<String>,
}

impl Receivers {
    /// Takes a change; says whether it meant something to this agent.
    pub(super) fn apply(&mut self, update: Update, agent: i64) -> bool {
        let mut new = false;
        for object in update.changed {
            new |= match Receiver::read(&object.json, agent) {
                Some(receiver) => {
                    self.0.get(&object.uid) != Some(&receiver) && {
                        self.0.insert(object.uid, receiver);
                        true
                    }
                }
                None => self.0.remove(&object.uid).is_some(),
            };
        }
        for uid in update.removed {
            new |= self.0.remove(&uid).is_some();
        }
        new
    }

    /// All projects, by full path.
    pub(super) fn projects(&self) -> BTreeSet<String> {
        self.0.values().map(|it| it.project.clone()).collect()
    }

    /// Where the Receivers of a project are called.
    pub(super) fn paths(&self, project: &str) -> Vec<String> {
        let of_project = self.0.values().filter(|it| it.project == project);
        of_project.filter_map(|it| it.path.clone()).collect()
    }
}

impl Receiver {
    /// None if it is not this agent's.
    fn read(json: &[u8], agent: i64) -> Option<Self> {
        let object: DynamicObject = serde_json::from_slice(json).ok()?;
        let mut annotations = object.metadata.annotations?;
        if annotations.get(OF_AGENT) != Some(&agent.to_string()) {
            return None;
        }
        let path = object.data["status"]["webhookPath"].as_str();
        Some(Self {
            project: annotations.remove(OF_PROJECT)?,
            // Made anew of its segments: what stands in an object must not reach out of its service.
            path: path
                .and_then(|it| it.strip_prefix('/'))
                .map(|it| names::path(&it.split('/').collect::<Vec<_>>())),
        })
    }
}

#[cfg(test)]
mod tests {
    use proto::graph::rpc::Object;
    use serde_json::json;

    use super::*;

    fn receiver(uid: &str, agent: &str, project: &str, path: Option<&str>) -> Update {
        let json = json!({
            "apiVersion": "notification.toolkit.fluxcd.io/v1", "kind": "Receiver",
            "metadata": {"uid": uid, "annotations": {OF_AGENT: agent, OF_PROJECT: project}},
            "status": {"webhookPath": path},
        });
        let object = Object {
            uid: uid.to_owned(),
            json: json.to_string().into_bytes().into(),
            ..Object::default()
        };
        Update {
            changed: vec![object],
            ..Update::default()
        }
    }

    #[test]
    fn those_of_this_agent_are_found_by_project() {
        let mut receivers = Receivers::default();
        assert!(receivers.apply(receiver("a", "5", "group/app", None), 5));
        assert!(receivers.apply(receiver("b", "5", "group/app", Some("/hook/b")), 5));
        assert!(!receivers.apply(receiver("b", "5", "group/app", Some("/hook/b")), 5));
        assert!(!receivers.apply(receiver("c", "6", "group/other", Some("/hook/c")), 5));
        assert_eq!(receivers.paths("group/app"), ["/hook/b"]);
        assert_eq!(receivers.projects(), ["group/app".to_owned()].into());

        let gone = Update {
            removed: vec!["a".into(), "b".into()],
            ..Update::default()
        };
        assert!(receivers.apply(gone, 5));
        assert!(receivers.projects().is_empty());
    }
}

//! A repository that Flux follows, and what makes Flux look at it at once: a
//! Receiver and its Secret. Pure.

use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::{MANAGED_BY, OF_AGENT, OF_PROJECT};

/// A repository of the agent's GitLab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Repository {
    api_version: String,
    kind: String,
    pub(super) namespace: String,
    name: String,
    uid: String,
    project: String,
}

impl Repository {
    /// None if it is not on this host, or going.
    pub(super) fn read(json: &[u8], host: &str) -> Option<Self> {
        let object: DynamicObject = serde_json::from_slice(json).ok()?;
        let project = project(object.data["spec"]["url"].as_str()?, host)?;
        let (types, metadata) = (object.types?, object.metadata);
        if metadata.deletion_timestamp.is_some() {
            return None;
        }
        Some(Self {
            api_version: types.api_version,
            kind: types.kind,
            namespace: metadata.namespace?,
            name: metadata.name?,
            uid: metadata.uid?,
            project,
        })
    }

    /// What Receivers need to have, though nothing is signed with it.
    pub(super) fn secret(&self, agent: i64) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "data": {"token": ""},
            "metadata": self.metadata(self.secret_name(), &self.annotations(agent)),
        })
    }

    /// What has the notification controller look at the repository when asked.
    pub(super) fn receiver(&self, agent: i64) -> Value {
        let mut annotations = self.annotations(agent);
        annotations[OF_PROJECT] = self.project.as_str().into();
        let resource = json!({
            "apiVersion": self.api_version, "kind": self.kind,
            "name": self.name, "namespace": self.namespace,
        });
        json!({
            "apiVersion": "notification.toolkit.fluxcd.io/v1", "kind": "Receiver",
            "metadata": self.metadata(cut(self.named("gitlab-"), 63), &annotations),
            "spec": {
                "type": "generic", "interval": "5m", "resources": [resource],
                "secretRef": {"name": self.secret_name()},
            },
        })
    }

    fn secret_name(&self) -> String {
        cut(self.named("gitlab-receiver-"), 253)
    }

    /// Repositories of another kind may have the same names.
    fn named(&self, prefix: &str) -> String {
        let kind = match self.kind.as_str() {
            "OCIRepository" => "oci-",
            _ => "",
        };
        format!("{prefix}{kind}{}", self.name)
    }

    fn annotations(&self, agent: i64) -> Value {
        json!({MANAGED_BY: "gitlab", OF_AGENT: agent.to_string()})
    }

    /// Both go when the repository does.
    fn metadata(&self, name: String, annotations: &Value) -> Value {
        let owner = json!({
            "apiVersion": self.api_version, "kind": self.kind, "name": self.name, "uid": self.uid,
            "controller": true, "blockOwnerDeletion": true,
        });
        json!({
            "name": name, "namespace": self.namespace,
            "annotations": annotations, "ownerReferences": [owner],
        })
    }
}

/// The full path of the project with this URL, if it is on this host.
fn project(url: &str, host: &str) -> Option<String> {
    let url: http::Uri = url.parse().ok()?;
    if !url.host()?.eq_ignore_ascii_case(host) {
        return None;
    }
    let path = url.path().trim_start_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    (!path.is_empty()).then(|| path.to_owned())
}

/// Names end in a letter or a digit.
fn cut(mut name: String, most: usize) -> String {
    if name.len() > most {
        name.truncate(most);
        if !name.ends_with(|last: char| last.is_ascii_alphanumeric()) {
            name.truncate(most - 2);
            name.push_str("-x");
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(name: &str, url: &str) -> Option<Repository> {
        let json = json!({
            "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository",
            "metadata": {"name": name, "namespace": "flux", "uid": "u"}, "spec": {"url": url},
        });
        Repository::read(json.to_string().as_bytes(), "gitlab.example.com")
    }

    #[test]
    fn a_repository_of_this_gitlab_is_that_of_a_project() {
        for url in [
            "https://gitlab.example.com/group/app.git",
            "https://GitLab.example.com:8443/group/app",
            "ssh://git@gitlab.example.com/group/app.git",
            "oci://gitlab.example.com//group/app",
        ] {
            assert_eq!(
                repository("app", url).unwrap().project,
                "group/app",
                "{url}"
            );
        }
        for url in [
            "https://github.com/group/app",
            "git@gitlab.example.com:group/app",
            "https://gitlab.example.com/",
            "",
        ] {
            assert_eq!(repository("app", url), None, "{url}");
        }
    }

    #[test]
    fn its_receiver_belongs_to_it() {
        let app = repository("app", "https://gitlab.example.com/group/app.git").unwrap();

        let (receiver, secret) = (app.receiver(5), app.secret(5));

        assert_eq!(receiver["metadata"]["name"], "gitlab-app");
        let annotations = &receiver["metadata"]["annotations"];
        assert_eq!(annotations[OF_PROJECT], "group/app");
        assert_eq!(annotations[OF_AGENT], "5");
        assert_eq!(receiver["spec"]["resources"][0]["name"], "app");
        assert_eq!(receiver["spec"]["secretRef"]["name"], "gitlab-receiver-app");
        assert_eq!(secret["metadata"]["name"], "gitlab-receiver-app");
        assert_eq!(secret["metadata"]["ownerReferences"][0]["uid"], "u");
    }

    #[test]
    fn long_names_are_cut_where_a_name_may_end() {
        let url = "https://gitlab.example.com/group/app";
        let long = repository(&"a".repeat(100), url).unwrap();
        let name = long.receiver(5)["metadata"]["name"].clone();
        assert_eq!(name.as_str().map(str::len), Some(63));
        let dots = repository(&format!("{}.b", "a".repeat(55)), url).unwrap();
        let name = dots.receiver(5)["metadata"]["name"].clone();
        assert_eq!(name, format!("gitlab-{}-x", "a".repeat(54)));
    }
}

//! Arcs of an object: to its owners, and to what it names. Inferred is that what a template of pods names is a
//! transitive reference of the object that has the template.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde_json::Value;

use super::{
    discovery::Resource,
    message::{ArcKind, Attributes, Vertex},
};

/// Arcs of one object, at most.
const MAX_ARCS: usize = 1_000;

/// Resources of a query, and what all resources of the cluster are called.
#[derive(Debug, Default)]
pub(super) struct Resources {
    /// Those of the query, by group and resource.
    pub(super) seen: HashMap<(Arc<str>, Arc<str>), Resource>,
    /// Resources by group and kind.
    pub(super) kinds: HashMap<(Arc<str>, Arc<str>), Arc<str>>,
}

/// Arcs by destination and kind.
pub(super) type Arcs = BTreeMap<(Vertex, ArcKind), Attributes>;

impl Resources {
    /// An object of the query's resources. Those of others are not seen, and whether they exist is not known.
    fn vertex(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Vertex> {
        let key = (Arc::from(group), Arc::from(resource));
        let seen = self.seen.get(&key)?;
        let namespace = if seen.namespaced { namespace } else { "" };
        Some(Vertex {
            group: seen.group.clone(),
            version: seen.version.clone(),
            resource: seen.plural.clone(),
            namespace: namespace.into(),
            name: name.into(),
        })
    }

    fn of_kind(&self, group: &str, kind: &str, namespace: &str, name: &str) -> Option<Vertex> {
        let resource = self.kinds.get(&(Arc::from(group), Arc::from(kind)))?;
        self.vertex(group, resource, namespace, name)
    }

    /// The arcs of an object.
    pub(super) fn arcs(&self, of: &Vertex, object: &Value) -> Arcs {
        let mut found = Found {
            resources: self,
            namespace: &of.namespace,
            kind: ArcKind::Reference,
            arcs: Arcs::new(),
        };
        found.owners(&object["metadata"]["ownerReferences"]);
        let spec = &object["spec"];
        match (&*of.group, &*of.resource) {
            ("", "pods") => found.pod(spec),
            ("batch", "cronjobs") => {
                found.template(&spec["jobTemplate"]["spec"]["template"]["spec"]);
            }
            ("apps" | "batch", _) | ("", "replicationcontrollers") => {
                found.template(&spec["template"]["spec"]);
                found.name("", "services", &spec["serviceName"]);
            }
            ("", "serviceaccounts") => {
                found.names("secrets", &object["secrets"]);
                found.names("secrets", &object["imagePullSecrets"]);
            }
            ("", "persistentvolumeclaims") => {
                found.name("", "persistentvolumes", &spec["volumeName"]);
            }
            ("networking.k8s.io", "ingresses") => found.ingress(spec),
            ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
                found.binding(object);
            }
            ("autoscaling", "horizontalpodautoscalers") => {
                let target = &spec["scaleTargetRef"];
                let group = group_of(text(&target["apiVersion"]));
                found.add(self.of_kind(
                    group,
                    text(&target["kind"]),
                    &of.namespace,
                    text(&target["name"]),
                ));
            }
            _ => {}
        }
        found.arcs
    }
}

/// Arcs as they are found.
struct Found<'a> {
    resources: &'a Resources,
    namespace: &'a str,
    kind: ArcKind,
    arcs: Arcs,
}

impl Found<'_> {
    fn add(&mut self, to: Option<Vertex>) {
        self.add_with(to, self.kind, Attributes::default());
    }

    fn add_with(&mut self, to: Option<Vertex>, kind: ArcKind, attributes: Attributes) {
        if let Some(to) = to.filter(|to| !to.name.is_empty() && self.arcs.len() < MAX_ARCS) {
            self.arcs.insert((to, kind), attributes);
        }
    }

    fn owners(&mut self, owners: &Value) {
        for owner in all(owners) {
            let (group, kind) = (group_of(text(&owner["apiVersion"])), text(&owner["kind"]));
            let to = (self.resources).of_kind(group, kind, self.namespace, text(&owner["name"]));
            let attributes = Attributes {
                controller: owner["controller"] == true,
                block_owner_deletion: owner["blockOwnerDeletion"] == true,
                missing: false,
            };
            self.add_with(to, ArcKind::Owner, attributes);
        }
    }

    /// An object of the same namespace.
    fn name(&mut self, group: &str, resource: &str, name: &Value) {
        let to = (self.resources).vertex(group, resource, self.namespace, text(name));
        self.add(to);
    }

    /// Objects of the core group, by a list of references.
    fn names(&mut self, resource: &str, references: &Value) {
        for reference in all(references) {
            self.name("", resource, &reference["name"]);
        }
    }

    fn template(&mut self, pod: &Value) {
        self.kind = ArcKind::Transitive;
        self.pod(pod);
        self.kind = ArcKind::Reference;
    }

    fn pod(&mut self, pod: &Value) {
        self.name("", "serviceaccounts", &pod["serviceAccountName"]);
        self.names("secrets", &pod["imagePullSecrets"]);
        for volume in all(&pod["volumes"]) {
            self.name("", "secrets", &volume["secret"]["secretName"]);
            self.name("", "configmaps", &volume["configMap"]["name"]);
            let claim = &volume["persistentVolumeClaim"]["claimName"];
            self.name("", "persistentvolumeclaims", claim);
            for source in all(&volume["projected"]["sources"]) {
                self.name("", "secrets", &source["secret"]["name"]);
                self.name("", "configmaps", &source["configMap"]["name"]);
            }
        }
        for containers in ["initContainers", "containers", "ephemeralContainers"] {
            for container in all(&pod[containers]) {
                for from in all(&container["envFrom"]) {
                    self.name("", "secrets", &from["secretRef"]["name"]);
                    self.name("", "configmaps", &from["configMapRef"]["name"]);
                }
                for variable in all(&container["env"]) {
                    let from = &variable["valueFrom"];
                    self.name("", "secrets", &from["secretKeyRef"]["name"]);
                    self.name("", "configmaps", &from["configMapKeyRef"]["name"]);
                }
            }
        }
    }

    fn ingress(&mut self, spec: &Value) {
        self.name("", "services", &spec["defaultBackend"]["service"]["name"]);
        for tls in all(&spec["tls"]) {
            self.name("", "secrets", &tls["secretName"]);
        }
        for rule in all(&spec["rules"]) {
            for path in all(&rule["http"]["paths"]) {
                self.name("", "services", &path["backend"]["service"]["name"]);
            }
        }
        self.name(
            "networking.k8s.io",
            "ingressclasses",
            &spec["ingressClassName"],
        );
    }

    fn binding(&mut self, binding: &Value) {
        let role = &binding["roleRef"];
        let (group, kind) = (text(&role["apiGroup"]), text(&role["kind"]));
        let to = (self.resources).of_kind(group, kind, self.namespace, text(&role["name"]));
        self.add(to);
        for subject in all(&binding["subjects"]) {
            if subject["kind"] == "ServiceAccount" {
                let (namespace, name) = (text(&subject["namespace"]), text(&subject["name"]));
                let to = (self.resources).vertex("", "serviceaccounts", namespace, name);
                self.add(to);
            }
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn all(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resources() -> Resources {
        let mut resources = Resources::default();
        for (group, kind, resource, namespaced) in [
            ("", "Pod", "pods", true),
            ("", "Secret", "secrets", true),
            ("", "ConfigMap", "configmaps", true),
            ("", "ServiceAccount", "serviceaccounts", true),
            ("apps", "ReplicaSet", "replicasets", true),
            ("apps", "Deployment", "deployments", true),
            (
                "rbac.authorization.k8s.io",
                "ClusterRole",
                "clusterroles",
                false,
            ),
            (
                "rbac.authorization.k8s.io",
                "RoleBinding",
                "rolebindings",
                true,
            ),
        ] {
            let key = (Arc::from(group), Arc::from(resource));
            let seen = Resource {
                group: group.into(),
                version: "v1".into(),
                plural: resource.into(),
                kind: kind.into(),
                namespaced,
            };
            resources.seen.insert(key, seen);
            resources
                .kinds
                .insert((group.into(), kind.into()), resource.into());
        }
        resources
    }

    fn arcs(group: &str, resource: &str, object: &Value) -> Vec<String> {
        let resources = resources();
        let of = resources.vertex(group, resource, "a", "x").unwrap();
        let arcs = resources.arcs(&of, object);
        arcs.iter()
            .map(|((to, kind), it)| {
                let controller = if it.controller { "!" } else { "" };
                format!(
                    "{kind:?}{controller} {}/{}/{}",
                    to.resource, to.namespace, to.name
                )
            })
            .collect()
    }

    #[test]
    fn owners_and_references_become_arcs() {
        let pod = json!({
            "metadata": {"ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "controller": true},
                {"apiVersion": "example.com/v1", "kind": "Unknown", "name": "u"},
            ]},
            "spec": {
                "serviceAccountName": "runner",
                "volumes": [{"secret": {"secretName": "tls"}}, {"projected": {"sources": [{"configMap": {"name": "ca"}}]}}],
                "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "password"}}}]}],
            },
        });
        let expected = [
            "Reference configmaps/a/ca",
            "Reference secrets/a/password",
            "Reference secrets/a/tls",
            "Reference serviceaccounts/a/runner",
            "Owner! replicasets/a/web",
        ];
        assert_eq!(arcs("", "pods", &pod), expected);
        let deployment = json!({"spec": {"template": {"spec": {"containers": [{"envFrom": [{"configMapRef": {"name": "c"}}]}]}}}});
        assert_eq!(
            arcs("apps", "deployments", &deployment),
            ["Transitive configmaps/a/c"]
        );
        let binding = json!({
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "ServiceAccount", "name": "runner", "namespace": "b"}, {"kind": "User", "name": "joe"}],
        });
        let expected = [
            "Reference serviceaccounts/b/runner",
            "Reference clusterroles//view",
        ];
        assert_eq!(
            arcs("rbac.authorization.k8s.io", "rolebindings", &binding),
            expected
        );
    }

    #[test]
    fn what_is_no_object_has_no_arcs() {
        for object in [
            json!(null),
            json!([]),
            json!({"spec": {"volumes": {"a": 1}}}),
        ] {
            assert!(arcs("", "pods", &object).is_empty());
        }
    }
}

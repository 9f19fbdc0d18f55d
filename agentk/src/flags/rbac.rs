//! `agentk rbac`: the rights that features need, and those to act as others, for `kubectl apply -f -`.

mod constrained;

use clap::Args;
use constrained::Constrained;

use crate::features::Feature;

/// Print the RBAC objects that the agent needs for its features, and to act as callers
#[derive(Debug, Args)]
pub struct Rbac {
    /// Enabled features, separated by commas
    #[arg(long, value_enum, value_delimiter = ',')]
    features: Vec<Feature>,
    /// Namespace of the agent
    #[arg(long, value_name = "NAME", default_value = "agentk")]
    namespace: String,
    /// Service account of the agent; also the name of the printed objects
    #[arg(long, value_name = "NAME", default_value = "agentk")]
    service_account: String,
    #[command(flatten)]
    constrained: Constrained,
}

/// The lease by which the leader is elected.
const LEASES: &str =
    "{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update]}";

impl Rbac {
    /// The objects, as YAML.
    #[must_use]
    pub fn yaml(&self) -> String {
        let mut rules: Vec<_> = self.features.iter().map(|feature| rule(*feature)).collect();
        rules.dedup();
        let name = format!("{}-leases", self.service_account);
        let mut all = self.grant("", &name, &self.in_namespace(), &[LEASES]);
        if !rules.is_empty() {
            let name = format!("{}-{}-features", self.namespace, self.service_account);
            all += &self.grant("Cluster", &name, "", &rules);
        }
        if let Some(rules) = self.constrained.rules() {
            let name = format!("{}-{}-constrained", self.namespace, self.service_account);
            let rules: Vec<_> = rules.iter().map(String::as_str).collect();
            all += &self.grant("Cluster", &name, "", &rules);
        }
        all
    }

    fn in_namespace(&self) -> String {
        format!(", namespace: {}", self.namespace)
    }

    /// A role and its binding, in a namespace or cluster-wide.
    fn grant(&self, scope: &str, name: &str, namespace: &str, rules: &[&str]) -> String {
        let Self {
            namespace: home,
            service_account: account,
            ..
        } = self;
        let rules = rules.join("\n  - ");
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1
kind: {scope}Role
metadata: {{name: {name}{namespace}}}
rules:
  - {rules}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {scope}RoleBinding
metadata: {{name: {name}{namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: {scope}Role, name: {name}}}
subjects: [{{kind: ServiceAccount, name: {account}, namespace: {home}}}]
---
"
        )
    }
}

/// What a feature reads and writes in all namespaces.
fn rule(feature: Feature) -> &'static str {
    match feature {
        Feature::Events => "{apiGroups: [\"\"], resources: [events], verbs: [list, watch]}",
        Feature::Flux => {
            "{apiGroups: [source.toolkit.fluxcd.io], resources: [gitrepositories, ocirepositories], verbs: [list, watch]}
  - {apiGroups: [notification.toolkit.fluxcd.io], resources: [receivers], verbs: [list, watch, create, patch]}
  - {apiGroups: [\"\"], resources: [secrets], verbs: [create, patch]}"
        }
        // No Secrets: whoever wants programs to show them adds the right.
        Feature::Graph => {
            "{apiGroups: [\"\"], resources: [namespaces, nodes, pods, services, endpoints, configmaps, events, persistentvolumes, persistentvolumeclaims, replicationcontrollers, resourcequotas, limitranges, serviceaccounts], verbs: [list, watch]}
  - {apiGroups: [apps, batch, autoscaling, policy, networking.k8s.io, discovery.k8s.io, storage.k8s.io, gateway.networking.k8s.io], resources: [\"*\"], verbs: [list, watch]}"
        }
    }
}

//! The resource kinds that the demo cluster knows, as one table.

/// Index of a kind in the table; orders objects in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KindId(u8);

/// One resource kind and what discovery says about it.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) namespaced: bool,
    pub(crate) short_names: &'static [&'static str],
    pub(crate) categories: &'static [&'static str],
    pub(crate) subresources: &'static [Subresource],
}

/// A subresource and the verbs that discovery lists for it.
#[derive(Debug)]
pub(crate) struct Subresource {
    pub(crate) name: &'static str,
    /// Group, version and kind of its body where they differ from the parent's.
    pub(crate) body: Option<(&'static str, &'static str, &'static str)>,
    pub(crate) verbs: &'static [&'static str],
}

const EDIT: &[&str] = &["get", "patch", "update"];
const CONNECT: &[&str] = &["create", "get"];

const STATUS: Subresource = Subresource {
    name: "status",
    body: None,
    verbs: EDIT,
};

const SCALED: &[Subresource] = &[
    STATUS,
    Subresource {
        name: "scale",
        body: Some(("autoscaling", "v1", "Scale")),
        verbs: EDIT,
    },
];

const fn connect(name: &'static str, kind: &'static str) -> Subresource {
    Subresource {
        name,
        body: Some(("", "v1", kind)),
        verbs: CONNECT,
    }
}

const OF_PODS: &[Subresource] = &[
    STATUS,
    connect("attach", "PodAttachOptions"),
    connect("exec", "PodExecOptions"),
    connect("portforward", "PodPortForwardOptions"),
    connect("proxy", "PodProxyOptions"),
    Subresource {
        name: "eviction",
        body: Some(("policy", "v1", "Eviction")),
        verbs: &["create"],
    },
    Subresource {
        name: "log",
        body: None,
        verbs: &["get"],
    },
];

impl Kind {
    const fn new(
        group: &'static str,
        plural: &'static str,
        singular: &'static str,
        kind: &'static str,
    ) -> Self {
        Self {
            group,
            version: "v1",
            plural,
            singular,
            kind,
            namespaced: true,
            short_names: &[],
            categories: &[],
            subresources: &[],
        }
    }

    const fn cluster(mut self) -> Self {
        self.namespaced = false;
        self
    }

    const fn short(mut self, names: &'static [&'static str]) -> Self {
        self.short_names = names;
        self
    }

    const fn all(mut self) -> Self {
        self.categories = &["all"];
        self
    }

    const fn with(mut self, subresources: &'static [Subresource]) -> Self {
        self.subresources = subresources;
        self
    }

    /// The `apiVersion` of its objects.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            return self.version.to_owned();
        }
        format!("{}/{}", self.group, self.version)
    }

    /// The plural with its group, as error messages name it.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() {
            return self.plural.to_owned();
        }
        format!("{}.{}", self.plural, self.group)
    }

    /// Whether `status` is written through its own subresource only.
    pub(crate) fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// The subresource of that name.
    pub(crate) fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }
}

static KINDS: &[Kind] = &[
    Kind::new("", "namespaces", "namespace", "Namespace")
        .cluster()
        .short(&["ns"])
        .with(&[STATUS]),
    Kind::new("", "nodes", "node", "Node")
        .cluster()
        .short(&["no"])
        .with(&[STATUS]),
    Kind::new(
        "",
        "persistentvolumes",
        "persistentvolume",
        "PersistentVolume",
    )
    .cluster()
    .short(&["pv"])
    .with(&[STATUS]),
    Kind::new("", "configmaps", "configmap", "ConfigMap").short(&["cm"]),
    Kind::new("", "endpoints", "endpoints", "Endpoints").short(&["ep"]),
    Kind::new("", "events", "event", "Event").short(&["ev"]),
    Kind::new("", "limitranges", "limitrange", "LimitRange").short(&["limits"]),
    Kind::new(
        "",
        "persistentvolumeclaims",
        "persistentvolumeclaim",
        "PersistentVolumeClaim",
    )
    .short(&["pvc"])
    .with(&[STATUS]),
    Kind::new("", "pods", "pod", "Pod")
        .short(&["po"])
        .all()
        .with(OF_PODS),
    Kind::new("", "resourcequotas", "resourcequota", "ResourceQuota")
        .short(&["quota"])
        .with(&[STATUS]),
    Kind::new("", "secrets", "secret", "Secret"),
    Kind::new("", "serviceaccounts", "serviceaccount", "ServiceAccount").short(&["sa"]),
    Kind::new("", "services", "service", "Service")
        .short(&["svc"])
        .all()
        .with(&[STATUS]),
    Kind::new("apps", "deployments", "deployment", "Deployment")
        .short(&["deploy"])
        .all()
        .with(SCALED),
    Kind::new("apps", "replicasets", "replicaset", "ReplicaSet")
        .short(&["rs"])
        .all()
        .with(SCALED),
    Kind::new("coordination.k8s.io", "leases", "lease", "Lease"),
    Kind::new(
        "discovery.k8s.io",
        "endpointslices",
        "endpointslice",
        "EndpointSlice",
    ),
    Kind::new("networking.k8s.io", "ingresses", "ingress", "Ingress")
        .short(&["ing"])
        .with(&[STATUS]),
    Kind::new(
        "networking.k8s.io",
        "networkpolicies",
        "networkpolicy",
        "NetworkPolicy",
    )
    .short(&["netpol"]),
    Kind::new(
        "rbac.authorization.k8s.io",
        "clusterroles",
        "clusterrole",
        "ClusterRole",
    )
    .cluster(),
    Kind::new(
        "rbac.authorization.k8s.io",
        "clusterrolebindings",
        "clusterrolebinding",
        "ClusterRoleBinding",
    )
    .cluster(),
    Kind::new("rbac.authorization.k8s.io", "roles", "role", "Role"),
    Kind::new(
        "rbac.authorization.k8s.io",
        "rolebindings",
        "rolebinding",
        "RoleBinding",
    ),
];

impl KindId {
    /// What the table says about this kind.
    pub(crate) fn info(self) -> &'static Kind {
        &KINDS[usize::from(self.0)]
    }
}

/// Every kind, in the table's order.
pub(crate) fn all() -> impl Iterator<Item = KindId> {
    (0u8..).take(KINDS.len()).map(KindId)
}

/// The kind with that plural in that group and version.
pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<KindId> {
    all().find(|id| {
        let kind = id.info();
        kind.plural == plural && kind.group == group && kind.version == version
    })
}

/// A kind that the demo cluster itself works with.
pub(crate) fn named(plural: &str) -> KindId {
    all()
        .find(|id| id.info().plural == plural)
        .expect("callers name kinds of the table")
}

/// The groups of the table, the core group first, each once.
pub(crate) fn groups() -> Vec<&'static str> {
    let mut groups: Vec<_> = KINDS.iter().map(|kind| kind.group).collect();
    groups.dedup();
    groups
}

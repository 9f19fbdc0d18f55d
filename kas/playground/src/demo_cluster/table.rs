//! Server-side tables: the columns that `kubectl get` shows.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::kinds::KindId;
use super::object;

mod cells;

/// How much of each object goes along with its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    Nothing,
    Metadata,
    Object,
}

impl Include {
    /// Reads the parameter `includeObject`.
    pub(crate) fn parse(include: Option<&str>) -> Self {
        match include {
            Some("None") => Self::Nothing,
            Some("Object") => Self::Object,
            Some(_) | None => Self::Metadata,
        }
    }
}

/// A table without rows; watches give the columns once.
pub(crate) fn head(kind: KindId, with_columns: bool) -> Value {
    let mut table = json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1",
                           "metadata": {}, "columnDefinitions": null, "rows": []});
    if with_columns {
        table["columnDefinitions"] = columns(kind).iter().map(definition).collect();
    }
    table
}

/// The object's row.
pub(crate) fn row(kind: KindId, object: &Value, include: Include, now: Timestamp) -> Value {
    let cells: Vec<_> = columns(kind)
        .iter()
        .map(|column| (column.cell)(object, now))
        .collect();
    match include {
        Include::Nothing => json!({"cells": cells}),
        Include::Metadata => json!({"cells": cells, "object": object::partial(object)}),
        Include::Object => json!({"cells": cells, "object": object}),
    }
}

/// One column: its name, whether only `-o wide` shows it, and what stands in it.
struct Column {
    name: &'static str,
    wide: bool,
    kind: &'static str,
    cell: fn(&Value, Timestamp) -> Value,
}

const fn column(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        name,
        wide: false,
        kind: "string",
        cell,
    }
}

const fn number(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        name,
        wide: false,
        kind: "integer",
        cell,
    }
}

const fn wide(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        name,
        wide: true,
        kind: "string",
        cell,
    }
}

fn definition(column: &Column) -> Value {
    let format = if column.name == "Name" { "name" } else { "" };
    json!({
        "name": column.name, "type": column.kind, "format": format,
        "description": "", "priority": i32::from(column.wide),
    })
}

const NAME: Column = column("Name", cells::name);
const AGE: Column = column("Age", cells::age);

static PODS: &[Column] = &[
    NAME,
    column("Ready", cells::ready_containers),
    column("Status", cells::pod_status),
    column("Restarts", cells::restarts),
    AGE,
    wide("IP", cells::pod_ip),
    wide("Node", cells::node),
    wide("Nominated Node", cells::none),
    wide("Readiness Gates", cells::none),
];

static DEPLOYMENTS: &[Column] = &[
    NAME,
    column("Ready", cells::ready_of_wanted),
    number("Up-to-date", cells::updated),
    number("Available", cells::available),
    AGE,
    wide("Containers", cells::containers),
    wide("Images", cells::images),
    wide("Selector", cells::selector),
];

static REPLICASETS: &[Column] = &[
    NAME,
    number("Desired", cells::desired),
    number("Current", cells::current),
    number("Ready", cells::ready_replicas),
    AGE,
    wide("Containers", cells::containers),
    wide("Images", cells::images),
    wide("Selector", cells::selector),
];

static SERVICES: &[Column] = &[
    NAME,
    column("Type", cells::service_type),
    column("Cluster-IP", cells::cluster_ip),
    column("External-IP", cells::none),
    column("Port(s)", cells::ports),
    AGE,
    wide("Selector", cells::service_selector),
];

static NODES: &[Column] = &[
    NAME,
    column("Status", cells::node_status),
    column("Roles", cells::roles),
    AGE,
    column("Version", cells::kubelet_version),
    wide("Internal-IP", cells::internal_ip),
    wide("External-IP", cells::none),
    wide("OS-Image", cells::os_image),
    wide("Kernel-Version", cells::kernel),
    wide("Container-Runtime", cells::runtime),
];

static EVENTS: &[Column] = &[
    column("Last Seen", cells::last_seen),
    column("Type", cells::event_type),
    column("Reason", cells::reason),
    column("Object", cells::involved),
    wide("Source", cells::source),
    column("Message", cells::message),
    wide("Count", cells::count),
    wide("Name", cells::name),
];

static CONFIGMAPS: &[Column] = &[NAME, number("Data", cells::data), AGE];
static SECRETS: &[Column] = &[
    NAME,
    column("Type", cells::secret_type),
    number("Data", cells::data),
    AGE,
];
static SERVICEACCOUNTS: &[Column] = &[NAME, number("Secrets", cells::secrets), AGE];
static NAMESPACES: &[Column] = &[NAME, column("Status", cells::phase), AGE];
static LEASES: &[Column] = &[NAME, column("Holder", cells::holder), AGE];
static OTHERS: &[Column] = &[NAME, AGE];

fn columns(kind: KindId) -> &'static [Column] {
    match kind.info().plural {
        "pods" => PODS,
        "deployments" => DEPLOYMENTS,
        "replicasets" => REPLICASETS,
        "services" => SERVICES,
        "nodes" => NODES,
        "events" => EVENTS,
        "configmaps" => CONFIGMAPS,
        "secrets" => SECRETS,
        "serviceaccounts" => SERVICEACCOUNTS,
        "namespaces" | "persistentvolumeclaims" => NAMESPACES,
        "leases" => LEASES,
        _ => OTHERS,
    }
}

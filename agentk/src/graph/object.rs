//! A Kubernetes object in the form that watchers receive.

use kube::core::{ApiResource, DynamicObject, TypeMeta};
use proto::graph::rpc::{Object, OwnerReference};

/// Converts an object, with all of its JSON if `whole`. The kind is added, which items of lists
/// lack.
pub(super) fn from_kubernetes(api: &ApiResource, mut object: DynamicObject, whole: bool) -> Object {
    object.types = Some(TypeMeta {
        api_version: api.api_version.clone(),
        kind: api.kind.clone(),
    });
    let json = whole.then(|| serde_json::to_vec(&object).unwrap_or_default());
    let metadata = object.metadata;
    let owners = metadata.owner_references.unwrap_or_default().into_iter();
    Object {
        api_version: api.api_version.clone(),
        kind: api.kind.clone(),
        namespace: metadata.namespace.unwrap_or_default(),
        name: metadata.name.unwrap_or_default(),
        uid: metadata.uid.unwrap_or_default(),
        resource_version: metadata.resource_version.unwrap_or_default(),
        owners: owners
            .map(|owner| OwnerReference {
                api_version: owner.api_version,
                kind: owner.kind,
                name: owner.name,
                uid: owner.uid,
                controller: owner.controller.unwrap_or_default(),
            })
            .collect(),
        labels: metadata.labels.unwrap_or_default().into_iter().collect(),
        deleting: metadata.deletion_timestamp.is_some(),
        json: json.unwrap_or_default().into(),
    }
}

//! The subresource `scale`: a workload's size, and nothing else of it.

use http::Method;
use serde_json::{Value, json};

use super::super::super::cluster::Cluster;
use super::super::super::failure::Failure;
use super::super::super::object;
use super::super::super::patch::Format;
use super::super::super::store::Key;
use super::super::super::verbs::{self, Part};
use super::super::{Answer, ApiRequest, document};
use super::find;

/// Reads or writes the size.
pub(super) fn answer(
    cluster: &Cluster,
    key: &Key,
    request: &ApiRequest,
) -> Result<Answer, Failure> {
    let workload = find(cluster, key)?;
    let current = scale_of(&workload);
    let wanted = match request.method {
        Method::GET => return Ok(document(&current)),
        Method::PUT => request.json()?,
        Method::PATCH => request.patch_format()?.apply(&current, &request.json()?)?,
        _ => return Err(Failure::method_not_allowed()),
    };
    let change = json!({
        "metadata": {"resourceVersion": wanted["metadata"]["resourceVersion"]},
        "spec": {"replicas": wanted["spec"]["replicas"]},
    });
    let context = request.context(cluster);
    let merge = Format::Merge;
    let scaled =
        cluster.write(|store| verbs::patch(store, key, Part::Main, merge, &change, context))?;
    Ok(document(&scale_of(&scaled)))
}

fn scale_of(workload: &Value) -> Value {
    let labels: Vec<_> = object::map(workload, "/spec/selector/matchLabels")
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let metadata = &workload["metadata"];
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1",
           "metadata": {"name": metadata["name"], "namespace": metadata["namespace"],
                        "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"],
                        "creationTimestamp": metadata["creationTimestamp"]},
           "spec": {"replicas": object::number(workload, "/spec/replicas")},
           "status": {"replicas": object::number(workload, "/status/replicas"),
                      "selector": labels.join(",")}})
}

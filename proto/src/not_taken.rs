//! The mark of a failed call of which the Kubernetes API has begun nothing, so that it may be made again whatever it
//! asks for. It is ours, a detail of the call's status: GitLab's kas does not look at details.

use prost_types::Any;

const TYPE_URL: &str = "type.googleapis.com/kas.kubernetes_api.rpc.NotTaken";

/// The detail that marks a status.
#[must_use]
pub fn detail() -> Any {
    Any {
        type_url: TYPE_URL.to_owned(),
        value: Vec::new(),
    }
}

/// Whether the mark is among the details of a status.
#[must_use]
pub fn is_among(details: &[Any]) -> bool {
    details.iter().any(|detail| detail.type_url == TYPE_URL)
}

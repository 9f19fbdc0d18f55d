//! What the Kubernetes API calls a resource.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::{Client, core::ApiResource};
use runtime::names::Collection;

use crate::informer::{InformerError, within};

/// Why a resource was not found.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiscoveryError {
    /// The API server was not asked, or gave no answer.
    #[error(transparent)]
    Api(#[from] InformerError),
    /// The collection's path is no URL.
    #[error("the path of the resource is invalid")]
    Path(#[from] http::Error),
    /// It has no such resource.
    #[error("the cluster has no such resource")]
    Unknown,
}

/// Asks the API server for the kind of a collection's objects.
pub(super) async fn find(
    client: &Client,
    collection: &Collection,
) -> Result<ApiResource, DiscoveryError> {
    let request = http::Request::get(collection.api_path()).body(Vec::new())?;
    let list = within(client.request::<APIResourceList>(request)).await?;
    let found = list
        .resources
        .into_iter()
        .find(|it| it.name == collection.plural());
    let found = found.ok_or(DiscoveryError::Unknown)?;
    Ok(ApiResource {
        group: collection.group().to_owned(),
        version: collection.version().to_owned(),
        api_version: collection.api_version(),
        kind: found.kind,
        plural: found.name,
    })
}

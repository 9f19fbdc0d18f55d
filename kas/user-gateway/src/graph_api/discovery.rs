//! What a cluster's API has, as the caller is told: in one document where the API server has it so, else in one for
//! each version of a group.

use std::{collections::HashSet, sync::Arc, time::Duration};

use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt, Limited};
use proto::graph::rpc::Resource as Names;
use runtime::{names::Collection, telemetry::Causes};
use serde_json::Value;

use crate::{caller::Caller, events, target::Target};

/// One document that says all, if the API server has it.
const ACCEPT: HeaderValue = HeaderValue::from_static(
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
);
/// The longest document, in bytes.
const MAX_DOCUMENT_BYTES: usize = 4 << 20;
/// Documents that are read of one cluster, at most.
const MAX_DOCUMENTS: usize = 300;
/// Resources of a cluster, at most.
const MAX_RESOURCES: usize = 3_000;
/// How long all of it may take.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(60);

/// A resource that can be listed and watched.
#[derive(Debug, Clone)]
pub(super) struct Resource {
    /// Its group; empty for the core group.
    pub(super) group: Arc<str>,
    /// A version of it.
    pub(super) version: Arc<str>,
    /// Its plural.
    pub(super) plural: Arc<str>,
    /// Its kind.
    pub(super) kind: Arc<str>,
    /// Whether its objects are in namespaces.
    pub(super) namespaced: bool,
}

impl Resource {
    /// Its objects in a namespace, or in all.
    pub(super) fn collection(&self, namespace: &str) -> Option<Collection> {
        let names = Names {
            group: self.group.to_string(),
            version: self.version.to_string(),
            resource: self.plural.to_string(),
            namespace: namespace.to_owned(),
            whole: true,
        };
        Collection::parse(&names).ok()
    }
}

/// All resources that can be watched, the preferred version of each group first.
///
/// # Errors
/// A `Status`, or a message, that says why they are not known.
pub(super) async fn resources(caller: &Caller) -> Result<Vec<Resource>, Value> {
    let discovery = Discovery {
        caller,
        left: MAX_DOCUMENTS,
        found: Vec::new(),
        seen: HashSet::new(),
    };
    let found = tokio::time::timeout(DISCOVERY_TIMEOUT, discovery.run()).await;
    found.unwrap_or_else(|_| {
        Err(events::message(
            "the cluster did not say in time what it has",
        ))
    })
}

struct Discovery<'a> {
    caller: &'a Caller,
    left: usize,
    found: Vec<Resource>,
    seen: HashSet<(Arc<str>, Arc<str>, Arc<str>)>,
}

impl Discovery<'_> {
    async fn run(mut self) -> Result<Vec<Resource>, Value> {
        let core = self.read("/api").await?;
        if is_aggregated(&core) {
            self.take_aggregated(&core);
        } else {
            for version in names(&core["versions"], |it| it) {
                self.version("", version).await?;
            }
        }
        let groups = self.read("/apis").await?;
        if is_aggregated(&groups) {
            self.take_aggregated(&groups);
            return Ok(self.found);
        }
        for group in groups["groups"].as_array().into_iter().flatten() {
            let name = group["name"].as_str().unwrap_or_default();
            let preferred = names(&group["preferredVersion"], |it| &it["version"]);
            let others = names(&group["versions"], |it| &it["version"]);
            for version in preferred.chain(others) {
                // A group whose server is away must not hide the others.
                drop(self.version(name, version).await);
            }
        }
        Ok(self.found)
    }

    async fn version(&mut self, group: &str, version: &str) -> Result<(), Value> {
        let probe = self.resource(group, version, "x", "X", false);
        let Some(path) = probe.collection("").map(|it| it.api_path()) else {
            return Ok(());
        };
        let listed = self.read(&path).await?;
        for resource in listed["resources"].as_array().into_iter().flatten() {
            let text = |name: &str| resource[name].as_str().unwrap_or_default();
            let namespaced = resource["namespaced"] == true;
            let found = self.resource(group, version, text("name"), text("kind"), namespaced);
            self.add(found, &resource["verbs"]);
        }
        Ok(())
    }

    fn take_aggregated(&mut self, document: &Value) {
        for group in document["items"].as_array().into_iter().flatten() {
            let name = group["metadata"]["name"].as_str().unwrap_or_default();
            for version in group["versions"].as_array().into_iter().flatten() {
                let number = version["version"].as_str().unwrap_or_default();
                for resource in version["resources"].as_array().into_iter().flatten() {
                    let plural = resource["resource"].as_str().unwrap_or_default();
                    let kind = resource["responseKind"]["kind"]
                        .as_str()
                        .unwrap_or_default();
                    let namespaced = resource["scope"] == "Namespaced";
                    let found = self.resource(name, number, plural, kind, namespaced);
                    self.add(found, &resource["verbs"]);
                }
            }
        }
    }

    fn resource(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        kind: &str,
        namespaced: bool,
    ) -> Resource {
        Resource {
            group: group.into(),
            version: version.into(),
            plural: plural.into(),
            kind: kind.into(),
            namespaced,
        }
    }

    /// Subresources are no names of resources.
    fn add(&mut self, resource: Resource, verbs: &Value) {
        let can = |verb: &str| names(verbs, |it| it).any(|it| it == verb);
        let key = (
            resource.group.clone(),
            resource.version.clone(),
            resource.plural.clone(),
        );
        if can("list")
            && can("watch")
            && self.found.len() < MAX_RESOURCES
            && resource.collection("").is_some()
            && self.seen.insert(key)
        {
            self.found.push(resource);
        }
    }

    async fn read(&mut self, path: &str) -> Result<Value, Value> {
        self.left = (self.left.checked_sub(1)).ok_or_else(|| {
            events::message(format!("the cluster has more than {MAX_DOCUMENTS} groups"))
        })?;
        let target = Target::at(path).map_err(|error| events::message(error.to_string()))?;
        let response = self.caller.get_as(target, ACCEPT).await;
        let response = response.map_err(|failure| events::status(&failure))?;
        if response.status() != StatusCode::OK {
            return Err(events::refusal(response).await);
        }
        let body = Limited::new(response.into_body(), MAX_DOCUMENT_BYTES)
            .collect()
            .await;
        let body = body.map_err(|error| events::message(Causes(&*error).to_string()))?;
        serde_json::from_slice(&body.to_bytes()).map_err(|error| {
            events::message(format!("what the cluster has is not understood: {error}"))
        })
    }
}

fn is_aggregated(document: &Value) -> bool {
    document["kind"] == "APIGroupDiscoveryList"
}

/// Texts of a list, or the one of an object.
fn names<'a>(
    of: &'a Value,
    text: impl Fn(&'a Value) -> &'a Value,
) -> impl Iterator<Item = &'a str> {
    let all = of
        .as_array()
        .map_or(std::slice::from_ref(of), Vec::as_slice);
    all.iter().filter_map(move |it| text(it).as_str())
}

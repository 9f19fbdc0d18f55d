//! Where the other pods of the agent are.

use std::{fmt, time::Duration};

use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::api::{Api, ListParams};
use runtime::connect::Target;

use crate::{
    cluster::Cluster,
    config::{Peers, PrivateApi},
    pod::Pod,
};

/// Pods that are dialled, at most.
const MAX_PODS: u32 = 32;
/// How long the API server may take to list them.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);

/// Finds the other pods.
pub(crate) struct PeerAddresses {
    peers: Peers,
    tls: bool,
    cluster: Cluster,
    own: Option<Pod>,
}

/// Why they are not found.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeersError {
    /// The API server refuses, or cannot be reached.
    #[error(
        "could not list the agent's pods; its service account needs the right to list pods in its namespace"
    )]
    List(#[from] Box<kube::Error>),
    /// The API server is silent.
    #[error("could not list the agent's pods: the API server did not answer in time")]
    Late,
    /// It is not known where to look.
    #[error("could not list the agent's pods: this process does not know its namespace")]
    NoPod,
}

impl PeerAddresses {
    /// Those of this configuration; pods are looked for in the namespace of this one.
    pub(crate) fn new(config: &PrivateApi, cluster: Cluster, own: Option<Pod>) -> Self {
        Self {
            peers: config.peers.clone(),
            tls: config.tls.is_some(),
            cluster,
            own,
        }
    }

    /// Where they are now. Each may stand for several.
    pub(super) async fn targets(&self) -> Result<Vec<Target>, PeersError> {
        let (selector, port) = match &self.peers {
            Peers::Name(name) => return Ok(vec![name.clone()]),
            Peers::Labels { selector, port, .. } => (selector, *port),
        };
        let own = self.own.as_ref().ok_or(PeersError::NoPod)?;
        let client = self.cluster.typed().map_err(Box::new)?;
        let pods: Api<PodObject> = Api::namespaced(client, &own.namespace);
        let wanted = ListParams::default().labels(selector).limit(MAX_PODS);
        let listed = tokio::time::timeout(LIST_TIMEOUT, pods.list(&wanted)).await;
        let listed = listed.map_err(|_| PeersError::Late)?.map_err(Box::new)?;
        let others = listed
            .items
            .into_iter()
            .filter(|pod| pod.metadata.name.as_deref() != Some(&own.name));
        let addresses = others.filter_map(|pod| {
            let status = pod.status?;
            // The address of one that is over may be another pod's.
            let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
            status.pod_ip.filter(|_| !over)
        });
        Ok(addresses
            .filter_map(|address| self.target(&address, port))
            .collect())
    }

    fn target(&self, address: &str, port: u16) -> Option<Target> {
        let scheme = if self.tls { "grpcs" } else { "grpc" };
        let address = match address.contains(':') {
            true => format!("{scheme}://[{address}]:{port}"),
            false => format!("{scheme}://{address}:{port}"),
        };
        Target::parse(&address).ok()
    }
}

impl fmt::Debug for PeerAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.peers.fmt(f)
    }
}

impl fmt::Display for PeerAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.peers {
            Peers::Name(name) => name.fmt(f),
            Peers::Labels { selector, .. } => write!(f, "pods with labels {selector}"),
        }
    }
}

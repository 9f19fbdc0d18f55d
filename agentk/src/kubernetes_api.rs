//! The one service that kas calls: an HTTP request to the Kubernetes API.

mod batch;
mod body;
mod failure;
mod feed;
mod head;
mod impersonate;
mod requests;
mod respond;
mod upgrade;
mod url;

use std::pin::pin;

use http::{Request, header};

pub(crate) use body::RequestBody;
pub(crate) use failure::{Failure, chain};
pub(crate) use impersonate::extra_header;

use crate::{
    cluster::Cluster,
    metrics::Metrics,
    tunnels::{Inbound, Outbound},
};
use feed::Intake;
use head::Head;
use requests::Requests;

/// The service's full name.
pub(crate) const SERVICE: &str = "gitlab.agent.kubernetes_api.rpc.KubernetesApi";
/// Its only method.
pub(crate) const METHOD: &str = "MakeRequest";
/// Both, as calls name them.
pub(crate) const PATH: &str = "/gitlab.agent.kubernetes_api.rpc.KubernetesApi/MakeRequest";

/// The same for requests whose path and query must be sent as they are, which GitLab's agentk
/// does not do: kas chooses a tunnel by what it offers.
pub(crate) const EXACT_SERVICE: &str = "kas.kubernetes_api.rpc.KubernetesApi";
/// [`EXACT_SERVICE`] and its only method, as calls name them.
pub(crate) const EXACT_PATH: &str = "/kas.kubernetes_api.rpc.KubernetesApi/MakeRequest";

/// Makes requests of the cluster's API. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct KubernetesApi {
    cluster: Cluster,
    metrics: Metrics,
}

impl KubernetesApi {
    pub(crate) fn new(cluster: Cluster, metrics: Metrics) -> Self {
        Self { cluster, metrics }
    }

    /// Serves a call up to its end or its failure. Dropping the future, or kas
    /// giving up the tunnel, cancels the request at the API server.
    pub(crate) async fn make_request(
        &self,
        inbound: &mut Inbound,
        outbound: &mut Outbound,
    ) -> Result<(), Failure> {
        let mut requests = Requests::new(inbound);
        let head = Head::new(requests.header().await?, self.cluster.identity())?;
        let (feed, intake) = feed::between(&head, &mut requests, self.metrics.clone()).await?;
        let mut feeding = pin!(feed.run(&mut requests));
        let mut exchange = pin!(self.exchange(head, intake, outbound));
        tokio::select! {
            fed = &mut feeding => {
                fed?;
                exchange.await
            }
            done = &mut exchange => done,
        }
    }

    async fn exchange(
        &self,
        head: Head,
        intake: Intake,
        outbound: &mut Outbound,
    ) -> Result<(), Failure> {
        let Intake { body, upgraded } = intake;
        let (request, lasting) = self.request(head, body).await?;
        let Some(upgraded) = upgraded else {
            let response = outbound
                .unless_reset(self.cluster.request(request, lasting))
                .await?;
            let response = response.map_err(|error| failure::outgoing(&error))?;
            return respond::whole(outbound, response, &self.metrics).await;
        };
        let response = outbound
            .unless_reset(self.cluster.request_upgrade(request))
            .await?;
        let (response, _driver) = response.map_err(|error| failure::outgoing(&*error))?;
        if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
            upgrade::run(outbound, response, upgraded, &self.metrics).await
        } else {
            respond::whole(outbound, response, &self.metrics).await
        }
    }

    async fn request(
        &self,
        head: Head,
        body: RequestBody,
    ) -> Result<(Request<RequestBody>, bool), Failure> {
        let mut request = Request::new(body);
        *request.method_mut() = head.method;
        *request.uri_mut() = self
            .cluster
            .uri(&head.path_and_query)
            .map_err(|error| tonic::Status::invalid_argument(error.to_string()))?;
        *request.headers_mut() = head.headers;
        let authorized = self.cluster.authorize(request.headers_mut()).await;
        authorized.map_err(|error| failure::outgoing(&*error))?;
        debug_assert!(!request.headers().contains_key(header::HOST));
        Ok((request, head.lasting))
    }
}

//! The service that carries an HTTP request to the Kubernetes API.

mod answers;
mod batch;
mod feed;
mod head;
mod impersonate;
mod requests;
mod respond;
mod resumable;
mod upgrade;
mod url;

use std::{error::Error, pin::pin};

use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, header};
use prost::Message as _;
use proto::{
    agent::{grpctool::ResumeOffer, kubernetes_api::rpc::ImpersonationConfig},
    google::rpc,
    not_taken,
};
use tokio::time::Instant;
use tonic::Status;

use runtime::{
    telemetry::Causes,
    traces::{Side, TraceSpan},
};

use crate::{
    call::{CallError, Inbound, Outbound},
    cluster::{AnswerBody, Cluster, RequestError, Upload},
    metrics::Metrics,
    services::Service,
};
pub(crate) use answers::{Answers, Ask};
use feed::{Intake, Upgraded};
use head::Head;
use requests::RequestParts;
pub(crate) use resumable::{Attach, Resumables};

/// The method, as calls name it.
pub(crate) const PATH: &str = "/gitlab.agent.kubernetes_api.rpc.KubernetesApi/MakeRequest";

/// The same for requests whose path and query must be sent as they are, which GitLab's agentk
/// does not do: kas chooses a tunnel by what it offers.
pub(crate) const EXACT_PATH: &str = "/kas.kubernetes_api.rpc.KubernetesApi/MakeRequest";

/// Makes requests of the cluster's API. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct KubernetesApi {
    cluster: Cluster,
    resumables: Resumables,
    answers: Answers,
    metrics: Metrics,
}

impl KubernetesApi {
    pub(crate) fn new(
        cluster: Cluster,
        resumables: Resumables,
        answers: Answers,
        metrics: Metrics,
    ) -> Self {
        Self {
            cluster,
            resumables,
            answers,
            metrics,
        }
    }

    /// Serves a call up to its end or its failure. Dropping the future, or kas
    /// giving up the tunnel, cancels the request at the API server.
    async fn make_request(
        &self,
        inbound: &mut Inbound,
        outbound: &mut Outbound,
    ) -> Result<(), CallError> {
        let parent = inbound.trace_parent();
        let mut trace = TraceSpan::follow("Kubernetes API request", Side::Client, parent);
        let mut requests = RequestParts::new(inbound);
        let mut head = Head::new(*requests.header().await?, self.cluster.identity())?;
        if trace.is_sampled() {
            trace.propagate(&mut head.headers);
            trace.set("http.request.method", head.method.to_string());
            let path = head.path_and_query.split('?').next().unwrap_or_default();
            trace.set("url.path", path.to_owned());
        }
        let resumable = head.resume.is_some() && self.resumables.have_room();
        let metrics = self.metrics.clone();
        let (feed, intake) = feed::channel(&head, resumable, &mut requests, metrics).await?;
        let kept = match head.keep.take() {
            // What is upgraded is resumed in another way.
            Some(offer) if head.upgrade => {
                self.answers.begin_unkept(&offer)?;
                None
            }
            Some(offer) => self.answers.begin(&offer, head.identity.take())?,
            None => None,
        };
        if let Some(kept) = kept {
            let Intake { body, whole, .. } = intake;
            let response = self.clone().respond(head, body, trace);
            let carrier = kept.carried(response, whole);
            // Apart, as all that is large and that not each request needs.
            return Box::pin(carrier.run(feed.run(&mut requests), outbound)).await;
        }
        let mut feeding = pin!(feed.run(&mut requests));
        let mut exchange = pin!(self.exchange(head, intake, outbound, &mut trace));
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
        mut head: Box<Head>,
        intake: Intake,
        outbound: &mut Outbound,
        trace: &mut TraceSpan,
    ) -> Result<(), CallError> {
        let Intake { body, upgraded, .. } = intake;
        let exchange = Exchange::begin(&head);
        let request = self.request(&mut head, body).await?;
        if let Some(upgraded) = upgraded {
            let offer = head.resume.take().zip(Some(head.identity.take()));
            let upgrade = self.upgrade((request, exchange), (upgraded, offer), outbound, trace);
            return Box::pin(upgrade).await;
        }
        let response = outbound
            .unless_reset(self.cluster.request(request, head.long_running))
            .await?;
        let response = response.map_err(|error| unanswered(&error))?;
        exchange.answered(response.status(), trace);
        respond::whole(outbound, response, &self.metrics).await
    }

    async fn upgrade(
        &self,
        (request, exchange): (Request<Upload>, Exchange),
        (upgraded, offer): (Upgraded, Option<(ResumeOffer, Option<ImpersonationConfig>)>),
        outbound: &mut Outbound,
        trace: &mut TraceSpan,
    ) -> Result<(), CallError> {
        let response = outbound
            .unless_reset(self.cluster.request_upgrade(request))
            .await?;
        let (response, driver) = response.map_err(|error| unanswered(&error))?;
        exchange.answered(response.status(), trace);
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let response = response.map(AnswerBody::alone);
            return respond::whole(outbound, response, &self.metrics).await;
        }
        match (upgraded, offer) {
            (Upgraded::Bytes(bytes), _) => {
                upgrade::run(outbound, response, bytes, &self.metrics).await
            }
            (Upgraded::Segments(segments), Some(offer)) => {
                let opened = (response, driver, offer);
                self.resumables.open(opened, segments, outbound).await
            }
            (Upgraded::Segments(_), None) => unreachable!("there was an offer"),
        }
    }

    /// Makes a request that goes on without the call that brought it.
    async fn respond(
        self,
        mut head: Box<Head>,
        body: Upload,
        mut trace: TraceSpan,
    ) -> Result<Response<AnswerBody>, Status> {
        let exchange = Exchange::begin(&head);
        let request = self.request(&mut head, body).await?;
        let response = self.cluster.request(request, head.long_running).await;
        let response = response.map_err(|error| unanswered(&error))?;
        exchange.answered(response.status(), &mut trace);
        Ok(response)
    }

    /// The request itself, whose parts leave the head.
    async fn request(&self, head: &mut Head, body: Upload) -> Result<Request<Upload>, Status> {
        let mut request = Request::new(body);
        request.method_mut().clone_from(&head.method);
        *request.uri_mut() = self
            .cluster
            .uri(&head.path_and_query)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        *request.headers_mut() = std::mem::take(&mut head.headers);
        let authorized = self.cluster.authorize(request.headers_mut()).await;
        authorized.map_err(|error| unavailable(&*error))?;
        debug_assert!(!request.headers().contains_key(header::HOST));
        Ok(request)
    }
}

/// A request to the API server, for its log line.
struct Exchange {
    method: Method,
    started: Instant,
}

impl Exchange {
    fn begin(head: &Head) -> Self {
        Self {
            method: head.method.clone(),
            started: Instant::now(),
        }
    }

    fn answered(self, status: StatusCode, trace: &mut TraceSpan) {
        trace.set("http.response.status_code", i64::from(status.as_u16()));
        let duration_ms = self.started.elapsed().as_millis();
        tracing::debug!(
            http.method = %self.method,
            http.status = status.as_u16(),
            duration_ms = u64::try_from(duration_ms).unwrap_or(u64::MAX),
            "the Kubernetes API answered"
        );
    }
}

impl Service for KubernetesApi {
    fn serve<'a>(
        &'a self,
        inbound: &'a mut Inbound,
        outbound: &'a mut Outbound,
    ) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(self.make_request(inbound, outbound))
    }
}

/// The status of a request that got no answer. It has a mark where the API server has begun nothing of it.
fn unanswered(error: &RequestError) -> Status {
    let status = unavailable(error);
    if !matches!(error, RequestError::NotTaken(_)) {
        return status;
    }
    let details = rpc::Status {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details: vec![not_taken::detail()],
    };
    Status::with_details(
        status.code(),
        status.message(),
        details.encode_to_vec().into(),
    )
}

/// The status of a request that could not be made of the API server, or whose response broke.
fn unavailable(error: &(dyn Error + 'static)) -> Status {
    let error = Causes(error).to_string();
    tracing::error!(error, "request to the Kubernetes API failed");
    Status::unavailable(format!("gRPC -> HTTP: {error}"))
}

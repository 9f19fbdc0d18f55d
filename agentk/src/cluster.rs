//! The Kubernetes API of the agent's cluster, and the connections to it.

mod answer;
mod base;
mod body;
mod connection;
mod connector;
mod credentials;
mod driver;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub(crate) mod identity;
mod outcome;
mod pool;
pub(crate) mod source;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{client::legacy::Client, rt::TokioTimer};
use kube::client::ConfigExt;
use proto::agent::entity::KubernetesVersion;
use runtime::{connect::ProxySetting, telemetry::Causes};
use tokio::time::Instant;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tower::ServiceExt;

use crate::metrics::Metrics;
use answer::{Asked, Lingering};
use base::Base;
use connector::{ApiConnector, ApiStream, Spawner};
use credentials::Credentials;
use pool::Pool;

pub(crate) use answer::AnswerBody;
pub(crate) use body::{Piece, RequestBody, Upload};
pub(crate) use credentials::BoxError;
pub(crate) use outcome::RequestError;

/// Idle connections that are kept for HTTP/1.1.
const MAX_IDLE_CONNECTIONS: usize = 32;
/// How long one is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Pings on HTTP/2 find an API server that is gone, as kubectl's do, while there are requests.
const PING_INTERVAL: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Flow control: a slow reader holds one window, not the whole connection.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Lines and bytes of a response's head, at most: far more than any API server sends, whose requests
/// have no more than a MiB either. A response beyond is lost, although the request was carried out.
const MAX_RESPONSE_HEADER_LINES: usize = 4096;
const MAX_RESPONSE_HEAD_BYTES: usize = 1 << 20;
/// How long the API server may take to answer the agent's own questions, and how much it may say.
const OWN_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_OWN_ANSWER_BYTES: usize = 1 << 20;
/// How often a request is made again.
const MAX_REPEATS: u32 = 5;
/// The pause before the second repeat; later ones are longer.
const REPEAT_BACKOFF: Duration = Duration::from_millis(25);
/// An attempt that took longer without being taken, to connect that is, is the last one.
const REPEATABLE_DIAL: Duration = Duration::from_secs(5);

/// A cluster that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no kubeconfig, and this is no pod.
    #[error(
        "no cluster: there is no kubeconfig (flag --kubeconfig, environment variable KUBECONFIG, ~/.kube/config), and this process does not run in a pod"
    )]
    NotFound,
    /// The kubeconfig is wrong.
    #[error("cannot use the kubeconfig")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// The pod has no service account.
    #[error("cannot use the pod's service account")]
    InCluster(#[from] kube::config::InClusterError),
    /// The server's URL is wrong.
    #[error("the Kubernetes server {0:?} is not an http or https URL")]
    Server(String, #[source] ServerUrlError),
    /// A file of certificates is wrong.
    #[error("cannot use the certificates in {0}")]
    Certificates(String, #[source] CertificatesError),
    /// Certificates or credentials cannot be used.
    #[error("cannot use the credentials or certificates for the cluster")]
    Access(#[source] Box<kube::Error>),
    /// A proxy that is not supported.
    #[error("cannot use the proxy for the Kubernetes API")]
    Proxy(#[from] runtime::connect::ProxyUrlError),
    /// An identity that no header can carry.
    #[error("the identity to impersonate ({0}) has characters that HTTP does not allow")]
    Identity(&'static str),
    /// An identity that is too long.
    #[error(
        "the identity to impersonate has more groups and extras than a request's headers can hold"
    )]
    LongIdentity,
}

/// Why a URL is not one of a Kubernetes API server.
#[derive(Debug, thiserror::Error)]
pub enum ServerUrlError {
    /// It is no URL.
    #[error(transparent)]
    Invalid(#[from] http::uri::InvalidUri),
    /// It lacks the scheme.
    #[error("it has no scheme")]
    NoScheme,
    /// The scheme is neither http nor https.
    #[error("its scheme is another one")]
    OtherScheme,
    /// It lacks the host.
    #[error("it has no host")]
    NoHost,
}

/// Why a file has no usable certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] std::io::Error),
    /// Its PEM is broken.
    #[error(transparent)]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// There are none in it.
    #[error("it has no PEM certificate")]
    Empty,
}

impl ClusterError {
    pub(crate) fn access(error: kube::Error) -> Self {
        Self::Access(Box::new(error))
    }
}

type Pooled = Client<HttpsConnector<ApiConnector>, RequestBody>;

/// The Kubernetes API. Clones share connections.
#[derive(Debug, Clone)]
pub(crate) struct Cluster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    base: Base,
    credentials: Credentials,
    identity: HeaderMap,
    /// For requests that end soon.
    http2: Pool,
    lingering: Lingering,
    /// For the same where the API server has no HTTP/2.
    short: Pooled,
    /// For those that last: each has a connection of its own, so that many of
    /// them cannot use up the streams that HTTP/2 servers allow.
    long: Pooled,
    upgrades: HttpsConnector<ApiConnector>,
    connector: HttpsConnector<ApiConnector>,
    config: kube::Config,
    tasks: TaskTracker,
    metrics: Metrics,
}

impl Cluster {
    /// Reads certificates and credentials; may run a credential plugin.
    pub(crate) async fn open(
        config: kube::Config,
        proxy: ProxySetting,
        metrics: Metrics,
    ) -> Result<Self, ClusterError> {
        // kube builds TLS from the process's default.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let reading = config.clone();
        let read = move || Ok((reading.rustls_client_config()?, Credentials::new(&reading)?));
        let (tls, credentials) = tokio::task::spawn_blocking(read)
            .await
            .expect("reading credentials does not panic")
            .map_err(ClusterError::access)?;
        let base = Base::new(&config.cluster_url)?;
        let connect = ApiConnector::new(proxy);
        let tasks = TaskTracker::new();
        let name = config.tls_server_name.as_deref();
        let both = connector::https(tls.clone(), name, connect.clone(), true);
        let one = connector::https(tls, name, connect, false);
        Ok(Self(Arc::new(Inner {
            base,
            credentials,
            identity: identity::identity(&config.auth_info)?,
            http2: Pool::new(config.cluster_url.clone(), both.clone(), tasks.clone()),
            lingering: Lingering::new(tasks.clone()),
            short: pooled(one.clone(), &tasks),
            long: pooled(one.clone(), &tasks),
            upgrades: one,
            connector: both,
            config,
            tasks,
            metrics,
        })))
    }

    /// The URL of a path and a query, both encoded.
    pub(crate) fn uri(&self, path_and_query: &str) -> Result<Uri, http::Error> {
        self.0.base.uri(path_and_query)
    }

    /// Whom the agent itself is configured to impersonate, as headers.
    pub(crate) fn identity(&self) -> &HeaderMap {
        &self.0.identity
    }

    /// Adds the agent's credentials, unless the request brings its own.
    pub(crate) async fn authorize(&self, headers: &mut HeaderMap) -> Result<(), BoxError> {
        if !headers.contains_key(http::header::AUTHORIZATION)
            && let Some(value) = self.0.credentials.header().await?
        {
            headers.insert(http::header::AUTHORIZATION, value);
        }
        Ok(())
    }

    /// Makes a request, and makes it again when the API server has not taken it, or when it was lost and changes nothing.
    /// Dropping the future, or the response's body, cancels it.
    pub(crate) async fn request(
        &self,
        request: Request<Upload>,
        long_running: bool,
    ) -> Result<Response<AnswerBody>, RequestError> {
        let (head, upload) = request.into_parts();
        let mut repeats = 0;
        loop {
            let started = Instant::now();
            let request = Request::from_parts(head.clone(), upload.body());
            let error = match self.attempt(request, long_running).await {
                Ok(mut response) => {
                    upload.forget();
                    self.relate(&mut response);
                    return Ok(response);
                }
                Err(error) => error,
            };
            let slow =
                matches!(error, RequestError::NotTaken(_)) && started.elapsed() > REPEATABLE_DIAL;
            let again = error.can_be_repeated(&head.method) && upload.can_be_sent_again();
            if !again || slow || upload.is_cut_short() || repeats == MAX_REPEATS {
                return Err(error);
            }
            tokio::time::sleep(REPEAT_BACKOFF * ((1 << repeats) - 1)).await;
            repeats += 1;
            self.0.metrics.repeats.inc();
            tracing::debug!(error = %Causes(&error), repeats, "the Kubernetes API did not answer a request; repeating it");
        }
    }

    async fn attempt(
        &self,
        request: Request<RequestBody>,
        long_running: bool,
    ) -> Result<Response<AnswerBody>, RequestError> {
        if !long_running {
            let place = self.0.http2.place().await;
            let place = place.map_err(|error| RequestError::NotTaken(error.into()))?;
            if let Some(place) = place {
                return Asked::of(request, place, self.0.lingering.clone()).await;
            }
        }
        let client = if long_running {
            &self.0.long
        } else {
            &self.0.short
        };
        let response = client.request(request).await;
        let response = response.map_err(|error| RequestError::of(error.into()))?;
        Ok(response.map(AnswerBody::alone))
    }

    /// Makes a request on a connection of its own, which may be upgraded. The
    /// handle that comes with the response keeps the connection alive.
    pub(crate) async fn request_upgrade(
        &self,
        request: Request<Upload>,
    ) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), RequestError> {
        let connecting = self.0.upgrades.clone().oneshot(request.uri().clone());
        let io = connecting.await.map_err(RequestError::NotTaken)?;
        let asked = self.ask_upgrade(io, request).await;
        asked.map_err(RequestError::of)
    }

    async fn ask_upgrade(
        &self,
        io: MaybeHttpsStream<ApiStream>,
        request: Request<Upload>,
    ) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), BoxError> {
        let mut request = request.map(|upload| upload.body());
        let (mut send, connection) = hyper::client::conn::http1::Builder::new()
            .max_headers(MAX_RESPONSE_HEADER_LINES)
            .max_buf_size(MAX_RESPONSE_HEAD_BYTES)
            .handshake(io)
            .await?;
        let driver = async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(
                    error = %Causes(&error),
                    "upgraded connection to the Kubernetes API broke"
                );
            }
        };
        let driver = AbortOnDropHandle::new(self.0.tasks.spawn(driver));
        let host = HeaderValue::from_str(self.0.base.authority());
        request.headers_mut().insert(http::header::HOST, host?);
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map(Uri::from).unwrap_or_default();
        let mut response = send.send_request(request).await?;
        self.relate(&mut response);
        Ok((response, driver))
    }

    /// A place in the cluster is given by its path alone: who asked reaches it by another host.
    fn relate<B>(&self, response: &mut Response<B>) {
        let location = response.headers().get(http::header::LOCATION);
        let location = location.and_then(|it| it.to_str().ok());
        let path = location.and_then(|it| self.0.base.path_of(it));
        if let Some(Ok(path)) = path.map(HeaderValue::from_str) {
            response.headers_mut().insert(http::header::LOCATION, path);
        }
    }

    /// The API server's version; `None` if it could not be had.
    pub(crate) async fn version(&self) -> Option<KubernetesVersion> {
        let (_, body) = self.ask("/version").await?;
        match serde_json::from_slice::<Version>(&body) {
            Ok(version) => Some(version.into()),
            Err(error) => {
                tracing::debug!(%error, "the answer of the Kubernetes API to /version is not understood");
                None
            }
        }
    }

    /// Which cluster it is; `None` if it did not answer.
    pub(crate) async fn identity_of_cluster(&self) -> Option<ClusterIdentity> {
        let (status, body) = self.ask("/api/v1/namespaces/kube-system").await?;
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return None;
        }
        let namespace = serde_json::from_slice::<Namespace>(&body);
        let uid = namespace.map(|it| it.metadata.uid).unwrap_or_default();
        if !status.is_success() || uid.is_empty() {
            return Some(ClusterIdentity::Hidden);
        }
        Some(ClusterIdentity::Uid(uid))
    }

    /// The answer to a small request of the agent's own; `None` if there was none.
    async fn ask(&self, path: &'static str) -> Option<(StatusCode, Bytes)> {
        let asking = async {
            let mut request = Request::new(Upload::empty());
            *request.uri_mut() = self.uri(path)?;
            self.authorize(request.headers_mut()).await?;
            let response = self.request(request, false).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_OWN_ANSWER_BYTES);
            let body = body.collect().await?.to_bytes();
            Ok::<_, BoxError>((status, body))
        };
        match tokio::time::timeout(OWN_REQUEST_TIMEOUT, asking).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                tracing::debug!(
                    path,
                    error = %Causes(&*error),
                    "the Kubernetes API did not answer the agent"
                );
                None
            }
            Err(_) => None,
        }
    }

    /// A client for typed objects.
    pub(crate) fn typed(&self) -> Result<kube::Client, kube::Error> {
        let config = &self.0.config;
        let client = Client::builder(Spawner(self.0.tasks.clone())).build(self.0.connector.clone());
        let service = tower::ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer()?)
            .layer(config.extra_headers_layer()?)
            .map_err(BoxError::from)
            .service(client);
        Ok(kube::Client::new(service, config.default_namespace.clone()))
    }
}

fn pooled(connector: HttpsConnector<ApiConnector>, tasks: &TaskTracker) -> Pooled {
    Client::builder(Spawner(tasks.clone()))
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
        .timer(TokioTimer::new())
        .http1_max_headers(MAX_RESPONSE_HEADER_LINES)
        .http1_max_buf_size(MAX_RESPONSE_HEAD_BYTES)
        .build(connector)
}

/// Which cluster it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ClusterIdentity {
    /// The UID of its namespace `kube-system`.
    Uid(String),
    /// The agent may not read it, or what answers is no Kubernetes.
    Hidden,
}

#[derive(serde::Deserialize)]
struct Namespace {
    metadata: NamespaceMetadata,
}

#[derive(serde::Deserialize)]
struct NamespaceMetadata {
    uid: String,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Version {
    major: String,
    minor: String,
    git_version: String,
    platform: String,
}

impl From<Version> for KubernetesVersion {
    fn from(version: Version) -> Self {
        Self {
            major: version.major,
            minor: version.minor,
            git_version: version.git_version,
            platform: version.platform,
        }
    }
}

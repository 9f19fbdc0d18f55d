//! The agent's own credentials for the Kubernetes API, refreshed as needed.

use http::{HeaderValue, Request, Response, header::AUTHORIZATION};
use http_body_util::Empty;
use kube::client::ConfigExt;
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};

/// Any error.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

type Source = BoxCloneSyncService<Request<Empty<bytes::Bytes>>, Option<HeaderValue>, BoxError>;

/// Gives the value of `Authorization`, from wherever the kubeconfig says:
/// tokens, token files, plugins, name and password.
#[derive(Clone)]
pub(super) struct Credentials(Option<Source>);

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Credentials {
    /// May run a plugin, and blocks meanwhile.
    pub(super) fn new(config: &kube::Config) -> Result<Self, kube::Error> {
        let Some(layer) = config.auth_layer()? else {
            return Ok(Self(None));
        };
        // kube offers its credentials as a layer that decorates requests: here
        // it decorates one that goes nowhere.
        let nowhere = service_fn(|request: Request<Empty<bytes::Bytes>>| {
            let mut decorated = Response::new(());
            *decorated.headers_mut() = request.into_parts().0.headers;
            async move { Ok::<_, BoxError>(decorated) }
        });
        let source = layer
            .layer(nowhere)
            .map_response(|decorated| decorated.headers().get(AUTHORIZATION).cloned());
        Ok(Self(Some(BoxCloneSyncService::new(source))))
    }

    /// The value for a request that is made now.
    pub(super) async fn header(&self) -> Result<Option<HeaderValue>, BoxError> {
        match &self.0 {
            None => Ok(None),
            Some(source) => source.clone().oneshot(Request::new(Empty::new())).await,
        }
    }
}

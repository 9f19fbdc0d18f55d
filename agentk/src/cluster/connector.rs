//! Connects to the API server, through an HTTP proxy if there is one.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper::rt::{Executor, Read, ReadBufCursor, Write};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use runtime::{
    connect::{ConnectOptions, ProxySetting, Target, connect},
    io::ByteStream,
    telemetry::Causes,
    tls::{ClientTls, ClientTlsOptions},
};
use tokio_util::task::TaskTracker;

use super::BoxError;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs what the HTTP clients have to run beside their requests.
#[derive(Debug, Clone)]
pub(super) struct Spawner(pub(super) TaskTracker);

impl<F> Executor<F> for Spawner
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// Dials TCP; TLS comes on top.
#[derive(Debug, Clone)]
pub(super) struct ApiConnector(std::sync::Arc<ConnectOptions>);

impl ApiConnector {
    pub(super) fn new(proxy: ProxySetting) -> Self {
        Self(std::sync::Arc::new(ConnectOptions {
            // For proxies that are themselves reached by TLS.
            tls: ClientTls::load(&ClientTlsOptions::default()).ok(),
            user_agent: crate::version::user_agent(),
            proxy,
            timeout: CONNECT_TIMEOUT,
            ..ConnectOptions::default()
        }))
    }
}

/// TLS where the URL says `https`, with HTTP/2 if `http2` is set and the
/// server has it.
pub(super) fn https(
    tls: rustls::ClientConfig,
    server_name: Option<&str>,
    connector: ApiConnector,
    http2: bool,
) -> HttpsConnector<ApiConnector> {
    let mut builder = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http();
    if let Some(name) = server_name.and_then(|name| name.to_owned().try_into().ok()) {
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    if http2 {
        builder
            .enable_http1()
            .enable_http2()
            .wrap_connector(connector)
    } else {
        builder.enable_http1().wrap_connector(connector)
    }
}

impl tower::Service<Uri> for ApiConnector {
    type Response = ApiStream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<ApiStream, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let options = self.0.clone();
        Box::pin(async move {
            let target = target(&uri)?;
            let connected = connect(&target, &options).await.map_err(|error| {
                // The target's own scheme says nothing to an operator here.
                let text = Causes(&error).to_string();
                text.replace(
                    &target.to_string(),
                    &format!("the Kubernetes API at {}", target.host_and_port()),
                )
            })?;
            Ok(ApiStream(TokioIo::new(connected.io)))
        })
    }
}

/// A byte stream without TLS to the host of a URL.
fn target(uri: &Uri) -> Result<Target, BoxError> {
    let host = uri.host().ok_or("a URL without host")?;
    let default_port = if uri.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    let port = uri.port_u16().unwrap_or(default_port);
    Ok(Target::parse(&format!("grpc://{host}:{port}"))?)
}

/// A connection to the API server.
#[derive(Debug)]
pub(super) struct ApiStream(TokioIo<ByteStream>);

impl Connection for ApiStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for ApiStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for ApiStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_follow_the_scheme() {
        for (url, expected) in [
            ("https://a/x", "a:443"),
            ("http://a/x", "a:80"),
            ("https://[::1]:6443/x", "[::1]:6443"),
        ] {
            assert_eq!(
                target(&url.parse().unwrap()).unwrap().host_and_port(),
                expected
            );
        }
    }
}

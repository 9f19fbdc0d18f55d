//! The connection to the collector, with TLS as the rest of the process has it.

use std::{fmt, future::Future, path::PathBuf, pin::Pin, time::Duration};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_http::{HttpClient, HttpError};
use rustls::ClientConfig;

use crate::tls::{ClientTls, ClientTlsOptions, TlsError};

/// Bytes of an answer that are read, at most.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Sends requests to a collector.
pub(super) struct Collector {
    client: AnyClient,
    timeout: Duration,
}

enum AnyClient {
    Plain(Client<HttpConnector, Full<Bytes>>),
    Tls(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").finish_non_exhaustive()
    }
}

impl Collector {
    /// A client for an endpoint.
    ///
    /// # Errors
    /// [`TlsError`] when its CA cannot be used.
    pub(super) fn new(
        endpoint: &str,
        ca_files: &[PathBuf],
        timeout: Duration,
    ) -> Result<Self, TlsError> {
        let builder = Client::builder(TokioExecutor::new());
        let uri: Uri = endpoint.parse().unwrap_or_default();
        let client = if uri.scheme_str() == Some("https") {
            let tls = ClientTls::load(&ClientTlsOptions {
                ca_files: ca_files.to_vec(),
                ..ClientTlsOptions::default()
            })?;
            let connector = HttpsConnectorBuilder::new()
                .with_tls_config(ClientConfig::clone(&tls.config(&[])))
                .https_only()
                .enable_http1()
                .build();
            AnyClient::Tls(builder.build(connector))
        } else {
            AnyClient::Plain(builder.build_http())
        };
        Ok(Self { client, timeout })
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = request.map(Full::new);
        let answer = match &self.client {
            AnyClient::Plain(client) => client.request(request).await?,
            AnyClient::Tls(client) => client.request(request).await?,
        };
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

impl HttpClient for Collector {
    fn send_bytes<'a, 'f>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>
    where
        'a: 'f,
        Self: 'f,
    {
        Box::pin(async move { tokio::time::timeout(self.timeout, self.send(request)).await? })
    }
}

//! A collector of traces: takes OTLP over HTTP and keeps the spans.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// A span as it was exported, its ids in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The trace.
    pub trace: String,
    /// The span.
    pub id: String,
    /// The span above; empty at the top.
    pub parent: String,
    /// What it is of.
    pub name: String,
    /// The program that made it, `service.name`.
    pub service: String,
    /// The process that made it, `service.instance.id`.
    pub instance: String,
    /// Its attributes, as texts.
    pub attributes: HashMap<String, String>,
}

/// A running collector; dropping it stops it.
#[derive(Debug)]
pub struct OtlpCollector {
    port: u16,
    spans: Arc<Mutex<Vec<Span>>>,
    _serving: AbortOnDropHandle<()>,
}

impl OtlpCollector {
    /// Starts a collector.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let spans = Arc::<Mutex<Vec<Span>>>::default();
        let serving = tokio::spawn(serve(listener, spans.clone()));
        Ok(Self {
            port,
            spans,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1/traces", self.port)
    }

    /// The spans of a trace that came so far.
    #[must_use]
    pub fn trace(&self, id: &str) -> Vec<Span> {
        let spans = lock(&self.spans);
        spans
            .iter()
            .filter(|span| span.trace == id)
            .cloned()
            .collect()
    }
}

async fn serve(listener: TcpListener, spans: Arc<Mutex<Vec<Span>>>) {
    while let Ok((socket, _)) = listener.accept().await {
        let spans = spans.clone();
        let service = service_fn(move |request| {
            let spans = spans.clone();
            async move { Ok::<_, Infallible>(take(request, &spans).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(socket), service);
        tokio::spawn(connection);
    }
}

async fn take(request: Request<Incoming>, spans: &Mutex<Vec<Span>>) -> Response<Full<Bytes>> {
    let body = request.into_body().collect().await;
    let decoded = body
        .ok()
        .and_then(|body| ExportTraceServiceRequest::decode(body.to_bytes()).ok());
    let mut response = Response::new(Full::default());
    match decoded {
        Some(export) => lock(spans).extend(all(export)),
        None => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    response
}

fn all(export: ExportTraceServiceRequest) -> Vec<Span> {
    let mut all = Vec::new();
    for of_process in export.resource_spans {
        let about = texts(of_process.resource.unwrap_or_default().attributes);
        let said = |key: &str| about.get(key).cloned().unwrap_or_default();
        let spans = of_process.scope_spans.into_iter().flat_map(|it| it.spans);
        all.extend(spans.map(|span| Span {
            trace: hex::encode(&span.trace_id),
            id: hex::encode(&span.span_id),
            parent: hex::encode(&span.parent_span_id),
            name: span.name,
            service: said("service.name"),
            instance: said("service.instance.id"),
            attributes: texts(span.attributes),
        }));
    }
    all
}

fn texts(attributes: Vec<KeyValue>) -> HashMap<String, String> {
    let text = |value: KeyValue| {
        let text = match value.value?.value? {
            Value::StringValue(text) => text,
            Value::IntValue(number) => number.to_string(),
            other => format!("{other:?}"),
        };
        Some((value.key, text))
    };
    attributes.into_iter().filter_map(text).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Traces: spans of sampled requests, exported by OTLP over HTTP. Off until [`start`], and free of cost then.
//!
//! A trace begins where a user's request enters, or goes on from what the client sent, by the W3C's `traceparent`
//! (<https://www.w3.org/TR/trace-context/>). Only sampled requests have spans; where there is none nothing is changed
//! in what is passed on. Spans are made here rather than by those of the log, whose level must not decide about them.

mod collector;
mod queue;

use std::{
    path::PathBuf,
    sync::{LazyLock, OnceLock},
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::{Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer as _},
};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracer, SdkTracerProvider, Span, SpanExporter as _},
};
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use proto::metadata::Meta;

use crate::tls::TlsError;
use collector::Collector;
pub use queue::Exporter;

/// How long the collector may take for one batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// What begins a token of GitLab's, which has a header of its own.
const GITLAB_TOKEN: &str = "glpat-";

static TRACER: OnceLock<SdkTracer> = OnceLock::new();
static PROPAGATOR: LazyLock<TraceContextPropagator> = LazyLock::new(TraceContextPropagator::new);
static COUNTS: LazyLock<Counts> = LazyLock::new(Counts::default);

/// What became of spans.
#[derive(Debug, Default)]
struct Counts {
    exported: Counter,
    dropped: Counter,
}

/// Registers the metrics of traces.
pub fn register(registry: &mut Registry) {
    registry.register(
        "trace_spans_exported",
        "Spans of traces that the collector has taken",
        COUNTS.exported.clone(),
    );
    registry.register(
        "trace_spans_dropped",
        "Spans of traces that were lost because the collector did not take them in time",
        COUNTS.dropped.clone(),
    );
}

/// Where traces go.
#[derive(Debug, Clone)]
pub struct Settings {
    /// An http or https URL that takes OTLP over HTTP, with its path.
    pub endpoint: String,
    /// A token for it.
    pub token: Option<String>,
    /// PEM files with further trusted roots for it.
    pub ca_files: Vec<PathBuf>,
    /// The program.
    pub service: &'static str,
    /// Its version.
    pub version: String,
    /// Which process of it.
    pub instance: String,
    /// The share of requests that are sampled of those about which the client has not decided, from 0 to 1.
    pub sample_ratio: f64,
}

/// Why traces cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The CA cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The endpoint, or a header for it.
    #[error("traces cannot be exported: {0}")]
    Build(#[from] ExporterBuildError),
}

/// Switches traces on, once a process; whoever starts them runs the exporter.
///
/// # Errors
/// [`TracesError`].
pub fn start(settings: &Settings) -> Result<Exporter, TracesError> {
    let (exporter, resource) = span_exporter(settings)?;
    let (queue, exporter) = queue::queue(exporter);
    let ratio = Sampler::TraceIdRatioBased(settings.sample_ratio);
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(ratio)))
        .with_span_processor(queue)
        .with_resource(resource)
        .build();
    // A second start keeps the first tracer, which is what several replicas in one process need.
    let _ = TRACER.set(provider.tracer(settings.service));
    Ok(exporter)
}

/// Whether [`start`] would go well; nothing is switched on and nobody is asked.
///
/// # Errors
/// As it has.
pub fn check(settings: &Settings) -> Result<(), TracesError> {
    span_exporter(settings).map(drop)
}

fn span_exporter(settings: &Settings) -> Result<(SpanExporter, Resource), TracesError> {
    let collector = Collector::new(&settings.endpoint, &settings.ca_files, EXPORT_TIMEOUT)?;
    let token = settings.token.as_ref().map(|token| {
        if token.starts_with(GITLAB_TOKEN) {
            ("private-token".to_owned(), token.clone())
        } else {
            ("authorization".to_owned(), format!("Bearer {token}"))
        }
    });
    let resource = Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", settings.service),
            KeyValue::new("service.version", settings.version.clone()),
            KeyValue::new("service.instance.id", settings.instance.clone()),
        ])
        .build();
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(collector)
        .with_headers(token.into_iter().collect())
        .with_endpoint(settings.endpoint.clone())
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(EXPORT_TIMEOUT)
        .build()?;
    exporter.set_resource(&resource);
    Ok((exporter, resource))
}

/// Whether this process makes spans.
#[must_use]
pub fn are_on() -> bool {
    TRACER.get().is_some()
}

/// The span outside of this process that one begins below; of none where traces are off.
#[derive(Debug, Clone, Default)]
pub struct TraceParent(Option<Box<SpanContext>>);

impl TraceParent {
    /// What headers of HTTP name.
    #[must_use]
    pub fn of_headers(headers: &HeaderMap) -> Self {
        Self::of(&Headers(headers))
    }

    /// What the metadata of a call name.
    #[must_use]
    pub fn of_metadata(meta: &Meta) -> Self {
        Self::of(&Metadata(meta))
    }

    fn of(carrier: &dyn Extractor) -> Self {
        if !are_on() {
            return Self(None);
        }
        let context = PROPAGATOR.extract_with_context(&Context::new(), carrier);
        let named = context.span().span_context().clone();
        Self(named.is_valid().then(|| Box::new(named)))
    }
}

/// The side of a call that a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Somebody called this process.
    Server,
    /// This process calls another.
    Client,
    /// Neither.
    Internal,
}

/// A span of a sampled request; nothing of any other. Dropping it ends it.
#[derive(Debug, Default)]
pub struct TraceSpan(Option<Box<Span>>);

impl TraceSpan {
    /// The span of a request that enters here, and began so long ago: below the client's, or the first of a trace.
    #[must_use]
    pub fn enter(name: &'static str, parent: &TraceParent, age: Duration) -> Self {
        begin(name, Side::Server, parent.0.as_deref(), age)
    }

    /// A span below one of another process, if that sampled the request.
    #[must_use]
    pub fn follow(name: &'static str, side: Side, parent: &TraceParent) -> Self {
        match parent.0.as_deref().filter(|parent| parent.is_sampled()) {
            Some(parent) => begin(name, side, Some(parent), Duration::ZERO),
            None => Self(None),
        }
    }

    /// A span below this one.
    #[must_use]
    pub fn child(&self, name: &'static str) -> Self {
        match &self.0 {
            Some(span) => begin(
                name,
                Side::Internal,
                Some(span.span_context()),
                Duration::ZERO,
            ),
            None => Self(None),
        }
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.0.is_some()
    }

    /// The id of its trace, in hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> Option<String> {
        let span = self.0.as_ref()?;
        Some(span.span_context().trace_id().to_string())
    }

    /// Says something of it; names are those of OpenTelemetry's conventions where these have one.
    pub fn set(&mut self, key: &'static str, value: impl Into<opentelemetry::Value>) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// It did not do what it was for.
    pub fn fail(&mut self, reason: &str) {
        if let Some(span) = &mut self.0 {
            span.set_status(Status::error(reason.to_owned()));
        }
    }

    /// Names it in headers, in place of what they named.
    pub fn propagate(&self, headers: &mut HeaderMap) {
        self.inject(&mut HeadersMut(headers));
    }

    /// Names it in the metadata of a call, in place of what they named.
    pub fn propagate_in_metadata(&self, meta: &mut Meta) {
        self.inject(&mut MetadataMut(meta));
    }

    fn inject(&self, carrier: &mut dyn Injector) {
        if let Some(span) = &self.0 {
            let context = span.span_context().clone();
            let context = Context::new().with_remote_span_context(context);
            PROPAGATOR.inject_context(&context, carrier);
        }
    }
}

fn begin(name: &'static str, side: Side, parent: Option<&SpanContext>, age: Duration) -> TraceSpan {
    let Some(tracer) = TRACER.get() else {
        return TraceSpan(None);
    };
    let context = match parent {
        Some(parent) => Context::new().with_remote_span_context(parent.clone()),
        None => Context::new(),
    };
    let kind = match side {
        Side::Server => SpanKind::Server,
        Side::Client => SpanKind::Client,
        Side::Internal => SpanKind::Internal,
    };
    let now = SystemTime::now();
    let builder = SpanBuilder::from_name(name)
        .with_kind(kind)
        .with_start_time(now.checked_sub(age).unwrap_or(now));
    let span = tracer.build_with_context(builder, &context);
    let sampled = span.span_context().is_sampled();
    TraceSpan(sampled.then(|| Box::new(span)))
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct Metadata<'a>(&'a Meta);

impl Extractor for Metadata<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.value.first().map(String::as_str)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        let name = HeaderName::from_bytes(key.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            self.0.remove(&name);
            // An empty state is none; where there is no room for one more it stays out.
            if !value.is_empty() {
                let _ = self.0.try_insert(name, value);
            }
        }
    }
}

struct MetadataMut<'a>(&'a mut Meta);

impl Injector for MetadataMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        self.0.remove(key);
        if !value.is_empty() {
            let values = proto::agent::prototool::Values { value: vec![value] };
            self.0.insert(key.to_owned(), values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    fn headers(value: &'static str) -> HeaderMap {
        let name = HeaderName::from_static("traceparent");
        [(name, HeaderValue::from_static(value))]
            .into_iter()
            .collect()
    }

    // One test, since the tracer belongs to the process.
    #[tokio::test]
    async fn a_trace_goes_on_from_what_the_client_sent_and_nothing_is_added_without_one() {
        let mut passed = headers(SENT);
        let off = TraceSpan::enter("request", &TraceParent::of_headers(&passed), Duration::ZERO);
        off.propagate(&mut passed);
        assert_eq!(passed, headers(SENT));

        let _exporter = start(&Settings {
            endpoint: "http://127.0.0.1:1/v1/traces".into(),
            token: None,
            ca_files: Vec::new(),
            service: "test",
            version: String::new(),
            instance: String::new(),
            sample_ratio: 0.0,
        })
        .unwrap();

        let unsampled = TraceSpan::enter("request", &TraceParent::default(), Duration::ZERO);
        let mut nothing = HeaderMap::new();
        unsampled.propagate(&mut nothing);
        assert!(!unsampled.is_sampled() && nothing.is_empty());

        let refused = TraceParent::of_headers(&headers(UNSAMPLED));
        assert!(!TraceSpan::enter("request", &refused, Duration::ZERO).is_sampled());
        assert!(!TraceSpan::follow("call", Side::Server, &refused).is_sampled());
        assert!(!TraceSpan::follow("call", Side::Server, &TraceParent::default()).is_sampled());

        let span = TraceSpan::enter(
            "request",
            &TraceParent::of_headers(&headers(SENT)),
            Duration::ZERO,
        );
        span.propagate(&mut passed);
        let now = passed["traceparent"].to_str().unwrap();
        assert_eq!(now[..36], SENT[..36]);
        assert_ne!(now, SENT);
        let mut meta = Meta::new();
        span.propagate_in_metadata(&mut meta);
        assert_eq!(meta["traceparent"].value, [now]);
        assert!(!meta.contains_key("tracestate"));
        let below = TraceSpan::follow("call", Side::Client, &TraceParent::of_metadata(&meta));
        assert_eq!(below.trace_id().as_deref(), Some(&SENT[3..35]));
    }
}

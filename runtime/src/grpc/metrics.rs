//! `grpc_server_*`: calls that a server gets, under the names and labels of go-grpc-prometheus, which GitLab's
//! dashboards and objectives are made of.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicI32, Ordering},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tonic::Code;

/// Codes of gRPC.
const CODES: usize = 17;

/// How many messages a call has each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallKind {
    /// One, and one.
    Unary,
    /// One, and many.
    ServerStream,
    /// Many, and many.
    BidiStream,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    grpc_type: &'static str,
    grpc_service: &'static str,
    grpc_method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandledLabels {
    grpc_type: &'static str,
    grpc_service: &'static str,
    grpc_method: &'static str,
    grpc_code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InFlightLabels {
    grpc_method: &'static str,
    grpc_service: &'static str,
}

/// The calls of all servers of a replica. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct ServerMetrics {
    started: Family<Labels, Counter>,
    handled: Family<HandledLabels, Counter>,
    received: Family<Labels, Counter>,
    sent: Family<Labels, Counter>,
    in_flight: Family<InFlightLabels, Gauge>,
}

/// Those of one method. Clones share them.
#[derive(Debug, Clone)]
pub struct MethodMetrics(Arc<Method>);

#[derive(Debug)]
struct Method {
    labels: Labels,
    started: Counter,
    received: Counter,
    sent: Counter,
    in_flight: Gauge,
    handled: Family<HandledLabels, Counter>,
    /// By code, once there was one.
    ended: [OnceLock<Counter>; CODES],
}

/// A call in progress, counted until it is dropped.
#[derive(Debug)]
pub struct CountedCall {
    method: MethodMetrics,
    code: AtomicI32,
}

impl ServerMetrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "grpc_server_started",
            "gRPC calls that began at this server",
            self.started.clone(),
        );
        registry.register(
            "grpc_server_handled",
            "gRPC calls that ended at this server, by their code",
            self.handled.clone(),
        );
        registry.register(
            "grpc_server_msg_received",
            "Messages of gRPC calls that this server received",
            self.received.clone(),
        );
        registry.register(
            "grpc_server_msg_sent",
            "Messages of gRPC calls that this server sent",
            self.sent.clone(),
        );
        registry.register(
            "grpc_server_requests_in_flight",
            "gRPC calls in progress at this server",
            self.in_flight.clone(),
        );
    }

    /// The metrics of a method, by its path `/<package>.<Service>/<Method>`.
    #[must_use]
    pub fn method(&self, path: &'static str, kind: CallKind) -> MethodMetrics {
        let path = path.trim_start_matches('/');
        let (grpc_service, grpc_method) = path.split_once('/').unwrap_or((path, ""));
        let labels = Labels {
            grpc_type: match kind {
                CallKind::Unary => "unary",
                CallKind::ServerStream => "server_stream",
                CallKind::BidiStream => "bidi_stream",
            },
            grpc_service,
            grpc_method,
        };
        let in_flight = InFlightLabels {
            grpc_method,
            grpc_service,
        };
        MethodMetrics(Arc::new(Method {
            started: self.started.get_or_create_owned(&labels),
            received: self.received.get_or_create_owned(&labels),
            sent: self.sent.get_or_create_owned(&labels),
            in_flight: self.in_flight.get_or_create_owned(&in_flight),
            handled: self.handled.clone(),
            ended: Default::default(),
            labels,
        }))
    }
}

impl MethodMetrics {
    /// A call begins.
    #[must_use]
    pub fn begin(&self) -> CountedCall {
        self.0.started.inc();
        self.0.in_flight.inc();
        CountedCall {
            method: self.clone(),
            code: AtomicI32::new(Code::Cancelled as i32),
        }
    }

    fn ended(&self, code: i32) {
        let code = Code::from_i32(code);
        let Some(ended) = self.0.ended.get(code as usize) else {
            return;
        };
        let counter = ended.get_or_init(|| {
            let Labels {
                grpc_type,
                grpc_service,
                grpc_method,
            } = self.0.labels;
            self.0.handled.get_or_create_owned(&HandledLabels {
                grpc_type,
                grpc_service,
                grpc_method,
                grpc_code: name(code),
            })
        });
        counter.inc();
    }
}

impl CountedCall {
    /// A message came.
    pub fn received(&self) {
        self.method.0.received.inc();
    }

    /// A message was sent.
    pub fn sent(&self) {
        self.method.0.sent.inc();
    }

    /// How it ends, if it is not cancelled.
    pub fn ends(&self, code: Code) {
        self.code.store(code as i32, Ordering::Relaxed);
    }
}

impl Drop for CountedCall {
    fn drop(&mut self) {
        self.method.0.in_flight.dec();
        self.method.ended(self.code.load(Ordering::Relaxed));
    }
}

/// A code's name in Go.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_and_labels_are_those_of_go() {
        let metrics = ServerMetrics::default();
        let method = metrics.method("/a.B/C", CallKind::ServerStream);
        let going_on = method.begin();
        going_on.sent();
        let refused = method.begin();
        refused.received();
        refused.ends(Code::Unauthenticated);
        drop(refused);
        drop(method.begin());

        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();

        let labels = "grpc_type=\"server_stream\",grpc_service=\"a.B\",grpc_method=\"C\"";
        for line in [
            format!("grpc_server_started_total{{{labels}}} 3"),
            format!("grpc_server_handled_total{{{labels},grpc_code=\"Unauthenticated\"}} 1"),
            format!("grpc_server_handled_total{{{labels},grpc_code=\"Canceled\"}} 1"),
            format!("grpc_server_msg_received_total{{{labels}}} 1"),
            format!("grpc_server_msg_sent_total{{{labels}}} 1"),
            "grpc_server_requests_in_flight{grpc_method=\"C\",grpc_service=\"a.B\"} 1".to_owned(),
        ] {
            assert!(text.contains(&line), "{line} in {text}");
        }
    }
}

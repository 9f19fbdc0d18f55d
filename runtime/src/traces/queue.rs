//! Spans on their way to the collector: a bounded queue, and the task that empties it.

use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanExporter as _, SpanProcessor},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{COUNTS, EXPORT_TIMEOUT};
use crate::telemetry::Repeats;

/// Spans that wait, at most; further ones are dropped and counted.
const MAX_QUEUED_SPANS: usize = 4096;
/// Spans that are sent together, at most.
const MAX_BATCH_SPANS: usize = 512;
/// How long a span waits for others.
const BATCH_PERIOD: Duration = Duration::from_secs(2);
/// How long the last batch may take when the process ends.
const LAST_EXPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// Takes spans that have ended.
#[derive(Debug)]
pub(super) struct Queue(mpsc::Sender<SpanData>);

/// Sends spans to the collector.
#[derive(Debug)]
pub struct Exporter {
    spans: mpsc::Receiver<SpanData>,
    collector: SpanExporter,
}

pub(super) fn queue(collector: SpanExporter) -> (Queue, Exporter) {
    let (sender, spans) = mpsc::channel(MAX_QUEUED_SPANS);
    (Queue(sender), Exporter { spans, collector })
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.0.try_send(span).is_err() {
            COUNTS.dropped.inc();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Exporter {
    /// Sends spans until `stop`, and then those that are left.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::new();
        while stop
            .run_until_cancelled(self.fill(&mut batch))
            .await
            .is_some()
        {
            self.export(std::mem::take(&mut batch), EXPORT_TIMEOUT)
                .await;
        }
        self.spans.close();
        while let Ok(span) = self.spans.try_recv() {
            batch.push(span);
        }
        if !batch.is_empty() {
            self.export(batch, LAST_EXPORT_TIMEOUT).await;
        }
    }

    /// Waits for spans that come within a period. Cancel-safe: what was taken is in the batch.
    async fn fill(&mut self, batch: &mut Vec<SpanData>) {
        if self.spans.recv_many(batch, MAX_BATCH_SPANS).await == 0 {
            // Never: the tracer has the other end for as long as the process runs.
            return std::future::pending().await;
        }
        let more = async {
            while batch.len() < MAX_BATCH_SPANS {
                let room = MAX_BATCH_SPANS - batch.len();
                self.spans.recv_many(batch, room).await;
            }
        };
        // A batch that is not full when the period is over goes as it is.
        let _ = tokio::time::timeout(BATCH_PERIOD, more).await;
    }

    async fn export(&self, batch: Vec<SpanData>, limit: Duration) {
        static LOST: Repeats = Repeats::sparse("spans not taken by the collector");
        let count = batch.len();
        let exported = tokio::time::timeout(limit, self.collector.export(batch)).await;
        let error = match exported {
            Ok(Ok(())) => {
                COUNTS.exported.inc_by(count as u64);
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {limit:?}"),
        };
        COUNTS.dropped.inc_by(count as u64);
        if LOST.admit() {
            tracing::warn!(
                error,
                spans = count,
                "the collector of traces took no spans; they are lost"
            );
        }
    }
}

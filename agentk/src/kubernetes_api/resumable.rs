//! Upgraded connections that outlive the call that carries them: kas may attach another.
//!
//! A connection belongs to the call that carries it. When that breaks, the connection waits, and nothing is read from
//! the API server meanwhile. The method by which kas attaches another call has the name of this process in its path, so
//! that no call comes to a pod that does not have the connection.

mod connection;
mod held;
mod table;

use futures_util::future::BoxFuture;
use http::Response;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use proto::{
    ProcessMethod,
    agent::{
        grpctool::{ResumeAnswer, ResumeOffer, Segment},
        kubernetes_api::rpc::ImpersonationConfig,
        prototool,
    },
};
use std::{future::poll_fn, pin::pin, task::Poll};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::Status;

use super::{
    batch::Batch,
    head,
    requests::{Part, RequestParts},
    respond, unavailable,
};
use crate::{
    call::{CallError, Inbound, Outbound, TunnelError},
    metrics::Metrics,
    services::Service,
};
use connection::{Connection, Stopped};
use held::Held;
use table::{Carried, Table};

/// Segments that wait for their connection, which takes them at once.
const QUEUE_SEGMENTS: usize = 4;

/// All resumable connections of this process. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Resumables {
    table: Table,
    held: Held,
    metrics: Metrics,
    path: std::sync::Arc<str>,
}

/// A connection that the API server has just upgraded, for which this was offered by this identity.
type Opened = (
    Response<Incoming>,
    AbortOnDropHandle<()>,
    (ResumeOffer, Option<ImpersonationConfig>),
);

impl Resumables {
    /// None yet; those that there are end with `force`.
    pub(crate) fn new(force: CancellationToken, metrics: Metrics) -> Self {
        let process = format!("{:016x}", rand::random::<u64>());
        Self {
            table: Table::new(force, metrics.clone()),
            held: Held::default(),
            metrics,
            path: ProcessMethod::Resume.of(&process).into(),
        }
    }

    /// The method by which they are attached to.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Whether there may be one more.
    pub(super) fn have_room(&self) -> bool {
        self.table.has_room()
    }

    /// Passes the response on and then segments, until the connection is over or the call breaks.
    pub(super) async fn open(
        &self,
        (mut response, driver, (offer, identity)): Opened,
        segments: mpsc::Receiver<Segment>,
        outbound: &mut Outbound,
    ) -> Result<(), CallError> {
        let upgrading = hyper::upgrade::on(&mut response);
        let upgraded = outbound.unless_reset(upgrading).await?;
        let io = TokioIo::new(upgraded.map_err(|error| unavailable(&error))?);
        let counts = (self.held.clone(), self.metrics.clone());
        let connection = Connection::new(io, driver, counts);
        let carried = self.table.open(&offer, identity, connection)?;
        let response = respond::of_response(response.into_parts().0);
        self.carry(carried, response, segments, outbound).await
    }

    async fn carry(
        &self,
        mut carried: Carried,
        response: prototool::HttpResponse,
        mut segments: mpsc::Receiver<Segment>,
        outbound: &mut Outbound,
    ) -> Result<(), CallError> {
        let (connection, wanted) = carried.parts();
        let answer = ResumeAnswer {
            method: self.path().to_owned(),
            received: connection.received(),
        };
        let mut batch = Batch::new();
        batch.resumable_header(outbound, response, Some(answer));
        batch.trailer(outbound);
        batch.flush(outbound).await?;
        let stopped = {
            let mut wanted = pin!(wanted.cancelled_owned());
            let mut stopping = pin!(self.table.stopping());
            poll_fn(|cx| {
                let polled = connection.poll(cx, &mut segments, outbound);
                if polled.is_pending() && stopping.as_mut().poll(cx).is_ready() {
                    // Nobody is to look for it elsewhere.
                    let status = Status::unavailable("agentk is stopping");
                    return Poll::Ready(Stopped::Failed(status));
                }
                if polled.is_pending() {
                    return wanted.as_mut().poll(cx).map(|()| Stopped::Wanted);
                }
                polled
            })
            .await
        };
        match stopped {
            Stopped::Over => {
                carried.end();
                Ok(Batch::new().end(outbound)?)
            }
            Stopped::Failed(status) => {
                carried.end();
                Err(status.into())
            }
            Stopped::Lost(error) => Err(error.into()),
            Stopped::Wanted => {
                let status = Status::aborted("another call carries the connection");
                Err(status.into())
            }
        }
    }
}

/// Serves the calls that are attached to connections.
#[derive(Debug)]
pub(crate) struct Attach(Resumables);

impl Attach {
    pub(crate) fn new(resumables: Resumables) -> Self {
        Self(resumables)
    }

    async fn attach(
        &self,
        inbound: &mut Inbound,
        outbound: &mut Outbound,
    ) -> Result<(), CallError> {
        let mut requests = RequestParts::new(inbound);
        let header = requests.header().await?;
        let identity = head::identity(header.extra)?;
        let offer = header.resume;
        let offer = offer.ok_or_else(|| Status::invalid_argument("a header without an offer"))?;
        let mut carried = self.0.table.attach(&offer, identity.as_ref()).await?;
        if let Err(violation) = carried.parts().0.attach(offer.received) {
            carried.end();
            return Err(Status::invalid_argument(violation.to_string()).into());
        }
        let response = prototool::HttpResponse {
            status_code: 101,
            ..prototool::HttpResponse::default()
        };
        let (sender, segments) = mpsc::channel(QUEUE_SEGMENTS);
        let mut feeding = pin!(feed(&mut requests, sender));
        let mut carrying = pin!(self.0.carry(carried, response, segments, outbound));
        tokio::select! {
            fed = &mut feeding => {
                fed?;
                carrying.await
            }
            done = &mut carrying => done,
        }
    }
}

/// Hands on the segments that come until kas has nothing more to say.
async fn feed(
    requests: &mut RequestParts<'_>,
    segments: mpsc::Sender<Segment>,
) -> Result<(), CallError> {
    while let Some(part) = requests.next().await? {
        match part {
            Part::Segment(segment) => {
                let _ = segments.send(segment).await;
            }
            Part::HalfClose => return Ok(()),
            Part::Trailer => {}
            Part::Header(_) | Part::Data(_) | Part::UpgradeData(_) => {
                return Err(Status::internal("a call that is attached has segments only").into());
            }
        }
    }
    Ok(())
}

impl Service for Attach {
    fn serve<'a>(
        &'a self,
        inbound: &'a mut Inbound,
        outbound: &'a mut Outbound,
    ) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(self.attach(inbound, outbound))
    }
}

/// kas ended the call in order, though the connection is not over.
fn left() -> TunnelError {
    TunnelError::Ended(Status::ok(""))
}

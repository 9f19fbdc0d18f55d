//! Hands on what comes from the tunnel: to the request's body, and to the
//! connection after an upgrade.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use proto::agent::grpctool::Segment;
use tokio::sync::mpsc;
use tonic::Status;

use super::{
    head::{Head, Length},
    requests::{Part, RequestParts},
};
use crate::{
    call::{CallError, TunnelError},
    cluster::{Piece, Upload},
    metrics::Metrics,
};

/// Chunks that wait for the API server.
const QUEUE_CHUNKS: usize = 4;
/// How long the first byte of a body of unknown length is waited for, so that
/// requests that have none are not sent as if they had.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_millis(200);

/// Bytes of a body, where its length is known, that are read before the request is made if its answer is to be kept: what
/// breaks off before was never begun.
const SHORT_BODY_BYTES: u64 = 64 << 10;

/// Where a request's parts come out.
#[derive(Debug)]
pub(super) struct Intake {
    /// The request's body.
    pub(super) body: Upload,
    /// Bytes for the upgraded connection, if an upgrade is asked for.
    pub(super) upgraded: Option<Upgraded>,
    /// Whether the request has come whole, where its answer is to be kept.
    pub(super) whole: Arc<AtomicBool>,
}

/// What comes for an upgraded connection.
#[derive(Debug)]
pub(super) enum Upgraded {
    /// Its bytes.
    Bytes(mpsc::Receiver<Bytes>),
    /// Segments, since it can be resumed.
    Segments(mpsc::Receiver<Segment>),
}

/// Where a request's parts go in.
#[derive(Debug)]
pub(super) struct Feed {
    first: Option<Part>,
    body: Option<mpsc::Sender<Piece>>,
    upgraded: Option<mpsc::Sender<Bytes>>,
    segments: Option<mpsc::Sender<Segment>>,
    whole: Arc<AtomicBool>,
    metrics: Metrics,
}

/// Both ends for a request; an upgraded connection may be `resumable`.
pub(super) async fn channel(
    head: &Head,
    resumable: bool,
    requests: &mut RequestParts<'_>,
    metrics: Metrics,
) -> Result<(Feed, Intake), CallError> {
    let first = match head.length {
        Length::Unknown => match tokio::time::timeout(FIRST_BYTE_TIMEOUT, requests.next()).await {
            Ok(part) => part?,
            Err(_) => None,
        },
        Length::None | Length::Known(_) => None,
    };
    let none = matches!(head.length, Length::None) || matches!(first, Some(Part::Trailer));
    let (feed, body, whole) = if none {
        (None, Upload::empty(), true)
    } else {
        let ahead = match head.length {
            Length::Known(length)
                if head.keep.is_some() && !head.upgrade && length <= SHORT_BODY_BYTES =>
            {
                read_ahead(length, requests, &metrics).await?
            }
            Length::None | Length::Known(_) | Length::Unknown => Vec::new(),
        };
        let whole = matches!(ahead.last(), Some(Piece::End));
        let (feed, pieces) = mpsc::channel(QUEUE_CHUNKS + ahead.len());
        for piece in ahead {
            // There is room for all of them.
            let _ = feed.try_send(piece);
        }
        let upload = Upload::streamed(pieces, head.length.known());
        (Some(feed).filter(|_| !whole), upload, whole)
    };
    let whole = Arc::new(AtomicBool::new(whole));
    let mut feed = Feed {
        first,
        body: feed,
        upgraded: None,
        segments: None,
        whole: whole.clone(),
        metrics,
    };
    let upgraded = match (head.upgrade, resumable) {
        (false, _) => None,
        (true, false) => {
            let (sender, bytes) = mpsc::channel(QUEUE_CHUNKS);
            feed.upgraded = Some(sender);
            Some(Upgraded::Bytes(bytes))
        }
        (true, true) => {
            let (sender, segments) = mpsc::channel(QUEUE_CHUNKS);
            feed.segments = Some(sender);
            Some(Upgraded::Segments(segments))
        }
    };
    let intake = Intake {
        body,
        upgraded,
        whole,
    };
    Ok((feed, intake))
}

/// A short body, and its end unless there is more of it than was said.
async fn read_ahead(
    length: u64,
    requests: &mut RequestParts<'_>,
    metrics: &Metrics,
) -> Result<Vec<Piece>, CallError> {
    let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
    let (mut received, mut end) = (0, None);
    while received <= length {
        match requests.next().await? {
            Some(Part::Data(bytes)) => {
                received += bytes.len() as u64;
                metrics.bytes_received.inc_by(bytes.len() as u64);
                // Together, for they may be many and short.
                match first.is_empty() {
                    true => first = bytes,
                    false => rest.extend_from_slice(&bytes),
                }
            }
            Some(Part::Trailer) => {
                end = Some(Piece::End);
                break;
            }
            Some(_) => return Err(unexpected("UpgradeData").into()),
            None => return Err(TunnelError::Ended(Status::ok("")).into()),
        }
    }
    let pieces = [first, rest.freeze()]
        .into_iter()
        .filter(|it| !it.is_empty());
    Ok(pieces.map(Piece::Data).chain(end).collect())
}

impl Feed {
    /// Hands on all that comes until kas ends the tunnel, and what comes out ends with it. A receiver that is gone does
    /// not matter: the API server has answered already.
    #[allow(
        clippy::manual_async_fn,
        reason = "an async function has room for `self` twice"
    )]
    pub(super) fn run(
        mut self,
        requests: &mut RequestParts<'_>,
    ) -> impl Future<Output = Result<(), CallError>> {
        async move {
            if let Some(part) = self.first.take() {
                self.hand_on(part).await?;
            }
            while let Some(part) = requests.next().await? {
                self.hand_on(part).await?;
            }
            Ok(())
        }
    }

    async fn hand_on(&mut self, part: Part) -> Result<(), CallError> {
        match part {
            Part::Header(_) => unreachable!("the sequence has one header"),
            Part::Data(bytes) => {
                let body = self.body.as_ref().ok_or_else(|| unexpected("Data"))?;
                self.metrics.bytes_received.inc_by(bytes.len() as u64);
                let _ = body.send(Piece::Data(bytes)).await;
            }
            Part::Trailer => {
                if let Some(body) = self.body.take() {
                    let _ = body.send(Piece::End).await;
                    self.whole.store(true, Ordering::Release);
                }
            }
            Part::UpgradeData(bytes) => {
                let upgraded = self
                    .upgraded
                    .as_ref()
                    .ok_or_else(|| unexpected("UpgradeData"))?;
                self.metrics.bytes_received.inc_by(bytes.len() as u64);
                let _ = upgraded.send(bytes).await;
            }
            Part::Segment(segment) => {
                let segments = self.segments.as_ref();
                let segments = segments.ok_or_else(|| unexpected("Segment"))?;
                let _ = segments.send(segment).await;
            }
            Part::HalfClose => (self.upgraded, self.segments) = (None, None),
        }
        Ok(())
    }
}

fn unexpected(what: &str) -> Status {
    Status::internal(format!("unexpected HttpRequest_{what} message received"))
}

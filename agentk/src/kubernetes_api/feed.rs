//! Hands on what comes from the tunnel: to the request's body, and to the
//! connection after an upgrade.

use std::time::Duration;

use bytes::Bytes;
use proto::agent::grpctool::Segment;
use tokio::sync::mpsc;
use tonic::Status;

use super::{
    head::{Head, Length},
    requests::{Part, RequestParts},
};
use crate::{
    call::CallError,
    cluster::{Piece, Upload},
    metrics::Metrics,
};

/// Chunks that wait for the API server.
const QUEUE_CHUNKS: usize = 4;
/// How long the first byte of a body of unknown length is waited for, so that
/// requests that have none are not sent as if they had.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_millis(200);

/// Where a request's parts come out.
#[derive(Debug)]
pub(super) struct Intake {
    /// The request's body.
    pub(super) body: Upload,
    /// Bytes for the upgraded connection, if an upgrade is asked for.
    pub(super) upgraded: Option<Upgraded>,
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
    let (feed, body) = if none {
        (None, Upload::empty())
    } else {
        let (feed, pieces) = mpsc::channel(QUEUE_CHUNKS);
        (Some(feed), Upload::streamed(pieces, head.length.known()))
    };
    let mut feed = Feed {
        first,
        body: feed,
        upgraded: None,
        segments: None,
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
    Ok((feed, Intake { body, upgraded }))
}

impl Feed {
    /// Hands on all that comes until kas ends the tunnel. A receiver that is
    /// gone does not matter: the API server has answered already.
    pub(super) async fn run(mut self, requests: &mut RequestParts<'_>) -> Result<(), CallError> {
        if let Some(part) = self.first.take() {
            self.hand_on(part).await?;
        }
        while let Some(part) = requests.next().await? {
            self.hand_on(part).await?;
        }
        Ok(())
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

//! One keep-alive HTTP/1.1 connection with one request at a time.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Work, pacer::Turn, report::Tally, target::RequestBody};

/// A pause after a failure, so that a target that is down is not stormed.
const RETRY_BACKOFF: Duration = Duration::from_millis(10);

/// What must be polled while a request is made.
type Connection = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;
/// A connection and its requests.
type Connected = (http1::SendRequest<RequestBody>, Connection);

/// A client, with its own connection and its own count.
pub(super) struct Client {
    work: Arc<Work>,
    stop: CancellationToken,
    connected: Option<Connected>,
    tally: Tally,
}

/// A request that did not succeed.
pub(super) struct Failed {
    pub(super) kind: String,
    /// The client's own connection broke: nobody said anything about the request.
    connection: bool,
}

impl Failed {
    pub(super) fn new(kind: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            connection: false,
        }
    }

    fn connection(kind: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            connection: true,
        }
    }
}

impl From<hyper::Error> for Failed {
    fn from(error: hyper::Error) -> Self {
        if error.is_incomplete_message() {
            Self::connection("http: connection closed early")
        } else if error.is_body_write_aborted() || error.is_closed() || error.is_canceled() {
            Self::connection("http: connection lost")
        } else if error.is_parse() {
            Self::new("http: malformed answer")
        } else {
            Self::connection("http: broken")
        }
    }
}

impl Client {
    pub(super) fn new(work: Arc<Work>, stop: CancellationToken) -> Self {
        Self {
            work,
            stop,
            connected: None,
            tally: Tally::default(),
        }
    }

    /// Sends requests until the end; gives what came of them.
    pub(super) async fn run(mut self) -> Tally {
        let (work, stop) = (self.work.clone(), self.stop.clone());
        loop {
            let turn = tokio::select! {
                turn = work.pacer.turn() => turn,
                () = stop.cancelled() => None,
            };
            let Some(turn) = turn else { return self.tally };
            let outcome = self.again_and_again(&work, turn).await;
            let took = turn.due.elapsed().saturating_sub(work.scripted);
            if let Some(series) = &work.series {
                series.over(turn.due, took, outcome.is_ok());
            }
            match outcome {
                Ok(length) => self.tally.succeeded(took, length),
                Err(failed) => {
                    self.tally.failed(&failed.kind, took);
                    self.connected = None;
                    sleep(RETRY_BACKOFF).await;
                }
            }
        }
    }

    /// Makes the request, and again where its connection broke.
    async fn again_and_again(&mut self, work: &Work, turn: Turn) -> Result<u64, Failed> {
        let mut retries = work.retries;
        loop {
            let outcome = timeout(work.timeout, self.request(work, turn)).await;
            let outcome = outcome.unwrap_or_else(|_| Err(Failed::new("timeout")));
            match outcome {
                Err(failed) if failed.connection && retries > 0 => {
                    retries -= 1;
                    self.tally.retried();
                    self.connected = None;
                    sleep(RETRY_BACKOFF).await;
                }
                over => return over,
            }
        }
    }

    async fn request(&mut self, work: &Work, turn: Turn) -> Result<u64, Failed> {
        let (mut send, mut connection) = match self.idle() {
            Some(idle) => idle,
            None => connect(work).await?,
        };
        let result = {
            let mut exchange = std::pin::pin!(exchange(work, &mut send, turn));
            tokio::select! {
                biased;
                result = &mut exchange => result,
                _ = connection.as_mut() => {
                    // What it delivered may still be whole; what it did not take is never answered.
                    drop(connection);
                    return exchange.await;
                }
            }
        };
        self.connected = result.is_ok().then_some((send, connection));
        result
    }

    /// The connection of the last request, if the server has not ended it meanwhile.
    fn idle(&mut self) -> Option<Connected> {
        let (send, mut connection) = self.connected.take()?;
        let ended = connection.as_mut().now_or_never().is_some();
        (!ended && !send.is_closed()).then_some((send, connection))
    }
}

async fn connect(work: &Work) -> Result<Connected, Failed> {
    let io = work.target.connect().await;
    let io = io.map_err(|error| Failed::connection(format!("connect: {}", error.kind())))?;
    let (send, connection) = http1::handshake(TokioIo::new(io)).await?;
    Ok((send, Box::pin(connection.with_upgrades())))
}

async fn exchange(
    work: &Work,
    send: &mut http1::SendRequest<RequestBody>,
    turn: Turn,
) -> Result<u64, Failed> {
    send.ready().await?;
    let response = send.send_request(work.target.request(turn.number)).await?;
    if let Some(exec) = work.exec
        && response.status() == StatusCode::SWITCHING_PROTOCOLS
    {
        return exec.talk(response).await;
    }
    if !response.status().is_success() {
        return Err(Failed::new(format!(
            "status {}",
            response.status().as_u16()
        )));
    }
    read(work, response).await
}

async fn read(work: &Work, response: Response<Incoming>) -> Result<u64, Failed> {
    let mut verifier = work.expected.verifier();
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame?.into_data() {
            let verified = verifier.piece(&piece);
            verified.map_err(|wrong| Failed::new(wrong.kind()))?;
            if let Some(rate) = work.read_rate {
                sleep(Duration::from_secs_f64(piece.len() as f64 / rate)).await;
            }
        }
    }
    verifier.end().map_err(|wrong| Failed::new(wrong.kind()))
}

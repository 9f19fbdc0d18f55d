//! The last words to a client whose upgraded connection is ended, or has broken on its way to the cluster.
//!
//! A WebSocket is closed with the reason. Exec and attach have a channel for a `Status` besides, in WebSocket and in SPDY,
//! which kubectl prints and takes for its exit code: without it a connection that ends looks like success there.

mod errors;
mod spdy;
mod websocket;

use std::{collections::VecDeque, io, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, header};
use runtime::websocket::messages::CloseCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{
    failure::Failure, kubernetes_api::upgrade::link::Link, metrics::FailureStatus,
    sessions::SessionKind,
};
use errors::Errors;
use spdy::Spdy;
use websocket::WebSocket;

/// How long the frame may take that is on its way.
const FRAME_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the client may take to read the last words, and to close its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of a client that are thrown away at once.
const DISCARD_BYTES: usize = 4 << 10;

/// How a client is told, by its protocol.
#[derive(Debug)]
pub(in crate::kubernetes_api) enum Farewell {
    WebSocket(WebSocket),
    Spdy(Box<Spdy>),
}

impl Farewell {
    /// By the headers that answered the handshake; none where the protocol has no place for words.
    pub(in crate::kubernetes_api) fn of(headers: &HeaderMap, kind: SessionKind) -> Option<Self> {
        let upgrade = headers.get(header::UPGRADE)?.to_str().ok()?;
        let executes = matches!(kind, SessionKind::Exec | SessionKind::Attach);
        if upgrade.eq_ignore_ascii_case("websocket") {
            let errors = executes.then(|| Errors::of_websocket(headers));
            Some(Self::WebSocket(WebSocket::new(errors.flatten())))
        } else if upgrade.eq_ignore_ascii_case("SPDY/3.1") && executes {
            let errors = Errors::of_spdy(headers);
            Some(Self::Spdy(Box::new(Spdy::new(errors))))
        } else {
            None
        }
    }

    /// Notes what the client sent.
    pub(super) fn read_sent(&mut self, bytes: &[u8]) {
        match self {
            Self::WebSocket(_) => {}
            Self::Spdy(it) => it.read_sent(bytes),
        }
    }

    /// What the client is sent of these bytes, behind what it is sent already.
    pub(super) fn pass(&mut self, bytes: Bytes, outgoing: &mut VecDeque<Bytes>) {
        match self {
            Self::WebSocket(_) => outgoing.push_back(bytes),
            Self::Spdy(it) => it.pass(bytes, outgoing),
        }
    }

    /// Notes what was written.
    pub(super) fn wrote(&mut self, bytes: &[u8]) {
        match self {
            Self::WebSocket(it) => it.wrote(bytes),
            Self::Spdy(_) => {}
        }
    }

    /// Whether the cluster has said how the command ended, or that nothing follows.
    pub(super) fn is_told(&self) -> bool {
        match self {
            Self::WebSocket(it) => it.is_told(),
            Self::Spdy(it) => it.is_told(),
        }
    }

    /// Whether the cluster has not said how the command ended, though it always does.
    pub(super) fn lacks_status(&self) -> bool {
        match self {
            Self::WebSocket(it) => it.lacks_status(),
            Self::Spdy(it) => it.lacks_status(),
        }
    }

    /// Says why it ends, behind the frame on its way, the rest of which `link` may bring. A client that does not read
    /// is not waited for.
    pub(super) async fn say<IO: AsyncRead + AsyncWrite + Unpin>(
        mut self,
        (failure, code): (&Failure, CloseCode),
        mut link: Option<Link>,
        io: &mut IO,
        unsent: VecDeque<Bytes>,
    ) -> FailureStatus {
        let finished = async {
            match &mut self {
                Self::WebSocket(it) => it.finish_frame(link.as_mut(), io, unsent).await,
                Self::Spdy(it) => it.finish_frame(io, unsent).await,
            }
        };
        let finished = tokio::time::timeout(FRAME_TIMEOUT, finished).await;
        drop(link);
        if !matches!(finished, Ok(Ok(()))) {
            return FailureStatus::NotSent;
        }
        let mut status = FailureStatus::NotSent;
        let saying = async {
            match &self {
                Self::WebSocket(it) => it.say(io, failure, code).await?,
                Self::Spdy(it) => it.say(io, failure).await?,
            }
            status = FailureStatus::Sent;
            io.shutdown().await?;
            // An end with bytes that nobody read would take the last words away.
            let mut discarded = [0; DISCARD_BYTES];
            while io.read(&mut discarded).await? > 0 {}
            io::Result::Ok(())
        };
        // Whoever is gone, or does not read, hears nothing.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, saying).await;
        status
    }
}

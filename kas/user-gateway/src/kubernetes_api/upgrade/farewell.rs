//! The last words to a client whose session is ended, where its protocol has a place for them.
//!
//! A WebSocket is closed with the reason, behind the frame that is on its way. Those of exec and attach have a channel
//! for a `Status` besides, which kubectl prints. SPDY has neither: its connection ends.

use std::{future::poll_fn, io, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Buf, Bytes};
use http::{HeaderMap, header};
use runtime::websocket::{
    messages::{self, CloseCode},
    passing::Passing,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{
    failure::Failure,
    kubernetes_api::exchange::{Exchange, Part},
    sessions::SessionKind,
};

/// How long the frame may take that is on its way.
const FRAME_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the client may take to read the last words, and to close its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The channel of exec and attach that carries how they end.
const ERROR_CHANNEL: u8 = 3;
/// Bytes of a client that are thrown away at once.
const DISCARD_BYTES: usize = 4 << 10;

/// How a WebSocket's client is told.
#[derive(Debug)]
pub(in crate::kubernetes_api) struct Farewell {
    /// How the channel for errors is written, where there is one.
    errors: Option<Errors>,
    passing: Passing,
}

/// The forms of the channel for errors.
#[derive(Debug, Clone, Copy)]
enum Errors {
    /// A `Status` in a binary message.
    Status,
    /// A `Status` in a text of base64.
    StatusInBase64,
    /// The words alone, in a binary message.
    Words,
}

impl Farewell {
    /// By the headers that answered the handshake; none where it is no WebSocket's.
    pub(in crate::kubernetes_api) fn of(headers: &HeaderMap, kind: SessionKind) -> Option<Self> {
        let text = |name| headers.get(name).and_then(|it| it.to_str().ok());
        let is_websocket = text(header::UPGRADE)?.eq_ignore_ascii_case("websocket");
        let errors = match (kind, text(header::SEC_WEBSOCKET_PROTOCOL)) {
            (SessionKind::Exec | SessionKind::Attach, Some(protocol)) => match protocol {
                "v5.channel.k8s.io" | "v4.channel.k8s.io" => Some(Errors::Status),
                "v4.base64.channel.k8s.io" => Some(Errors::StatusInBase64),
                "channel.k8s.io" => Some(Errors::Words),
                _ => None,
            },
            _ => None,
        };
        is_websocket.then(|| Self {
            errors,
            passing: Passing::default(),
        })
    }

    /// Notes what the client was sent.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        self.passing.pass(bytes);
    }

    /// Ends the call, and says why. A client that does not read is not waited for.
    pub(super) async fn say<IO: AsyncRead + AsyncWrite + Unpin>(
        mut self,
        failure: &Failure,
        mut exchange: Box<Exchange>,
        io: &mut IO,
        unsent: Bytes,
    ) {
        let finished = self.finish_frame(&mut exchange, io, unsent);
        let finished = tokio::time::timeout(FRAME_TIMEOUT, finished).await;
        drop(exchange);
        if !matches!(finished, Ok(Ok(()))) {
            return;
        }
        let saying = async {
            if let Some(errors) = self.errors.filter(|_| !self.passing.is_within_message()) {
                errors.write(io, failure).await?;
            }
            messages::close(io, CloseCode::Policy, &failure.message).await?;
            io.shutdown().await?;
            // An end with bytes that nobody read would take the last words away.
            let mut discarded = [0; DISCARD_BYTES];
            while io.read(&mut discarded).await? > 0 {}
            io::Result::Ok(())
        };
        // Whoever is gone, or does not read, hears nothing.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, saying).await;
    }

    /// Passes on the rest of the frame of which the client has a part.
    async fn finish_frame(
        &mut self,
        exchange: &mut Exchange,
        io: &mut (impl AsyncWrite + Unpin),
        mut unsent: Bytes,
    ) -> io::Result<()> {
        while !self.passing.is_between_frames() {
            if unsent.is_empty() {
                unsent = match poll_fn(|cx| exchange.poll_part(cx)).await {
                    Ok(Part::UpgradeData(data)) => data,
                    _ => return Err(io::ErrorKind::UnexpectedEof.into()),
                };
                continue;
            }
            let length = self.passing.pass_in_frame(&unsent);
            io.write_all(&unsent[..length]).await?;
            unsent.advance(length);
        }
        Ok(())
    }
}

impl Errors {
    async fn write(self, io: &mut (impl AsyncWrite + Unpin), failure: &Failure) -> io::Result<()> {
        match self {
            Self::Status => {
                let message = [&[ERROR_CHANNEL], failure.body(false).as_bytes()].concat();
                messages::binary(io, &message).await
            }
            Self::StatusInBase64 => {
                let status = STANDARD.encode(failure.body(false));
                messages::text(io, format!("{ERROR_CHANNEL}{status}").as_bytes()).await
            }
            Self::Words => {
                let message = [&[ERROR_CHANNEL], failure.message.as_bytes()].concat();
                messages::binary(io, &message).await
            }
        }
    }
}

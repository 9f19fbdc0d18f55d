//! The last words on a WebSocket: a message on the channel for errors, if there is one, and a close with the reason.

use std::{collections::VecDeque, future::poll_fn, io};

use bytes::{Buf, Bytes};
use runtime::websocket::{
    messages::{self, CloseCode},
    passing::Passing,
};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::Errors;
use crate::{
    failure::Failure,
    kubernetes_api::{exchange::Part, upgrade::link::Link},
};

/// The channel of exec and attach that carries how they end.
const ERROR_CHANNEL: u8 = 3;
/// The same as a digit.
const ERROR_DIGIT: u8 = b'3';

/// How a WebSocket's client is told.
#[derive(Debug)]
pub(in crate::kubernetes_api) struct WebSocket {
    /// How the channel for errors is written, where there is one.
    errors: Option<Errors>,
    passing: Passing,
}

impl WebSocket {
    pub(super) fn new(errors: Option<Errors>) -> Self {
        let channel = errors.map(|errors| match errors {
            Errors::StatusInBase64 => ERROR_DIGIT,
            Errors::Status | Errors::Words => ERROR_CHANNEL,
        });
        Self {
            errors,
            passing: Passing::watching(channel),
        }
    }

    pub(super) fn wrote(&mut self, bytes: &[u8]) {
        self.passing.pass(bytes);
    }

    pub(super) fn is_told(&self) -> bool {
        self.passing.has_met() || self.passing.is_closed()
    }

    pub(super) fn lacks_status(&self) -> bool {
        self.errors.is_some_and(Errors::tells_success) && !self.is_told()
    }

    /// Passes on the rest of the frame of which the client has a part.
    pub(super) async fn finish_frame(
        &mut self,
        mut link: Option<&mut Link>,
        io: &mut (impl AsyncWrite + Unpin),
        mut unsent: VecDeque<Bytes>,
    ) -> io::Result<()> {
        while !self.passing.is_between_frames() {
            let Some(mut bytes) = unsent.pop_front() else {
                let link = link.as_mut().ok_or(io::ErrorKind::UnexpectedEof)?;
                match poll_fn(|cx| link.poll_part(cx)).await {
                    Ok(Part::UpgradeData(data)) => unsent.push_back(data),
                    _ => return Err(io::ErrorKind::UnexpectedEof.into()),
                }
                continue;
            };
            let length = self.passing.pass_in_frame(&bytes);
            io.write_all(&bytes[..length]).await?;
            bytes.advance(length);
            if !bytes.is_empty() {
                unsent.push_front(bytes);
            }
        }
        Ok(())
    }

    pub(super) async fn say(
        &self,
        io: &mut (impl AsyncWrite + Unpin),
        failure: &Failure,
        code: CloseCode,
    ) -> io::Result<()> {
        if self.passing.is_closed() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let can_say = !self.passing.is_within_message() && !self.passing.has_met();
        if let Some(errors) = self.errors.filter(|_| can_say) {
            let words = errors.of(failure);
            match errors {
                Errors::Status | Errors::Words => {
                    messages::binary(io, &[&[ERROR_CHANNEL], &words[..]].concat()).await?;
                }
                Errors::StatusInBase64 => {
                    messages::text(io, &[&[ERROR_DIGIT], &words[..]].concat()).await?;
                }
            }
        }
        messages::close(io, code, &failure.message).await
    }
}

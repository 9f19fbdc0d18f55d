//! Channels of WebSocket: the first byte of each message says of which it is.

use audit::Stream;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use runtime::websocket::overheard::{Overheard, Part};

use super::{Passed, Sizes, Unreadable};

const INPUT: u8 = 0;
const OUTPUT: u8 = 1;
const ERRORS: u8 = 2;
const RESIZE: u8 = 4;

/// Both directions.
#[derive(Debug)]
pub(in super::super) struct WebSocket {
    client: Direction,
    server: Direction,
    sizes: Sizes,
}

#[derive(Debug)]
struct Direction {
    overheard: Overheard,
    messages: Messages,
}

#[derive(Debug)]
struct Messages {
    /// Whether they are base64 behind a digit.
    base64: bool,
    /// Of which channel the message is.
    channel: Option<u8>,
    /// Digits of base64 that are no whole group.
    digits: Vec<u8>,
}

impl WebSocket {
    pub(super) fn new(base64: bool) -> Self {
        let direction = || Direction {
            overheard: Overheard::default(),
            messages: Messages {
                base64,
                channel: None,
                digits: Vec::new(),
            },
        };
        Self {
            client: direction(),
            server: direction(),
            sizes: Sizes::default(),
        }
    }

    pub(super) fn read_sent(
        &mut self,
        bytes: &[u8],
        each: &mut dyn FnMut(Passed<'_>),
    ) -> Result<(), Unreadable> {
        let sizes = &mut self.sizes;
        self.client.read(bytes, |channel, bytes| {
            match channel {
                INPUT => each(Passed::Bytes(Stream::Input, bytes)),
                RESIZE => sizes.take(bytes, each)?,
                _ => {}
            }
            Ok(())
        })
    }

    pub(super) fn read_answered(
        &mut self,
        bytes: &[u8],
        each: &mut dyn FnMut(Passed<'_>),
    ) -> Result<(), Unreadable> {
        self.server.read(bytes, |channel, bytes| {
            match channel {
                OUTPUT => each(Passed::Bytes(Stream::Output, bytes)),
                ERRORS => each(Passed::Bytes(Stream::Errors, bytes)),
                _ => {}
            }
            Ok(())
        })
    }
}

impl Direction {
    fn read(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(u8, &[u8]) -> Result<(), Unreadable>,
    ) -> Result<(), Unreadable> {
        let (messages, mut taken) = (&mut self.messages, Ok(()));
        self.overheard.read(bytes, |part| {
            if taken.is_ok() {
                taken = messages.take(part, &mut each);
            }
        })?;
        taken
    }
}

impl Messages {
    fn take(
        &mut self,
        part: Part<'_>,
        each: &mut impl FnMut(u8, &[u8]) -> Result<(), Unreadable>,
    ) -> Result<(), Unreadable> {
        if part.first {
            self.channel = None;
            self.digits.clear();
        }
        let mut data = part.data;
        let channel = match (self.channel, data.split_first()) {
            (Some(channel), _) => channel,
            (None, None) => return Ok(()),
            (None, Some((first, rest))) => {
                let channel = match self.base64 {
                    true => first.wrapping_sub(b'0'),
                    false => *first,
                };
                self.channel = Some(channel);
                data = rest;
                channel
            }
        };
        if !self.base64 {
            return each(channel, data);
        }
        self.digits.extend_from_slice(data);
        let whole = self.digits.len() / 4 * 4;
        let decoded = STANDARD.decode(&self.digits[..whole]);
        let decoded = decoded.map_err(|_| Unreadable("a message that is no base64"))?;
        self.digits.drain(..whole);
        if part.last && !self.digits.is_empty() {
            return Err(Unreadable("a message that is no base64"));
        }
        each(channel, &decoded)
    }
}

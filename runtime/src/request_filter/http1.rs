//! Walks the messages of an HTTP/1.1 connection and looks at each head. Pure, but for what it shares
//! with whoever serves the requests.
//!
//! Framing is read as hyper reads it (RFC 9112, section 6). Where hyper will refuse a body it does not
//! matter what is found behind it, since the connection ends.

mod body;
mod head;
mod passage;

use std::net::IpAddr;

use httparse::Status;

use super::target::{self, Refusal};
use crate::{filtered::Step, shares::Share};
use body::Chunk;
use head::{Found, Framing};

pub use passage::{Limits, Passage};

/// The next message of a connection cannot be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the next request of a connection cannot be found")]
pub struct Lost;

/// Where in the messages of a connection the input stands.
#[derive(Debug)]
pub(super) struct Http1 {
    state: State,
    /// What was read of a head that is not whole.
    held: Vec<u8>,
    /// Its share of what may be held, if it is a long one.
    share: Option<Share<IpAddr>>,
    /// Whether the message asks for another protocol behind it.
    upgrades: bool,
    /// Heads that were passed.
    number: u64,
    limits: Limits,
    passage: Passage,
}

#[derive(Debug)]
enum State {
    Head,
    /// So much of a body is to come.
    Body(u64),
    Chunks(Chunk),
    /// Another protocol was asked for; whether bytes came since.
    Asked(bool),
    /// Another protocol.
    Opaque,
    /// A request was refused; nothing behind it is wanted.
    Discard,
}

/// What becomes of a head.
enum Verdict {
    /// It is so long, and passes.
    Passes(usize),
    /// It is so long, and this passes in its place.
    Replaced(usize, Vec<u8>),
    /// More of it must come.
    Partial,
    Refused(Refusal),
}

impl Http1 {
    /// Stands at the beginning, of which `seen` was held back.
    pub(super) fn new(seen: &[u8], limits: Limits, passage: Passage) -> Self {
        Self {
            state: State::Head,
            held: seen.to_vec(),
            share: None,
            upgrades: false,
            number: 0,
            limits,
            passage,
        }
    }

    /// As [`crate::filtered::StreamFilter::step`].
    pub(super) fn step(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<Step, Lost> {
        Ok(match &mut self.state {
            State::Head if self.held.is_empty() => self.fresh(input, output),
            State::Head => self.go_on(input, output),
            State::Body(left) => {
                let all = u64::try_from(input.len()).expect("a length has 64 bits");
                let passed = all.min(*left);
                *left -= passed;
                if *left == 0 {
                    self.end_message();
                }
                Step::Pass(usize::try_from(passed).expect("at most the input"))
            }
            State::Chunks(chunk) => {
                let (passed, is_end) = chunk.walk(input);
                if is_end {
                    self.end_message();
                }
                Step::Pass(passed)
            }
            State::Asked(more) => match self.passage.switched() {
                None => {
                    *more = true;
                    Step::Pass(input.len())
                }
                Some(true) => {
                    self.state = State::Opaque;
                    Step::Pass(input.len())
                }
                // What came may have been a request.
                Some(false) if *more => return Err(Lost),
                Some(false) => {
                    self.state = State::Head;
                    self.fresh(input, output)
                }
            },
            State::Opaque => Step::Pass(input.len()),
            State::Discard => Step::Take(input.len()),
        })
    }

    /// Whether a request was refused and nothing behind it is wanted.
    pub(super) fn discards(&self) -> bool {
        matches!(self.state, State::Discard)
    }

    /// The common case: a head is there as a whole.
    fn fresh(&mut self, input: &[u8], output: &mut Vec<u8>) -> Step {
        match self.judge(input) {
            Verdict::Passes(length) => Step::Pass(length),
            Verdict::Replaced(length, other) => {
                output.extend_from_slice(&other);
                Step::Take(length)
            }
            Verdict::Partial => {
                self.hold(input.to_vec(), output);
                Step::Take(input.len())
            }
            Verdict::Refused(refusal) => {
                self.refuse(refusal, input, output);
                Step::Take(input.len())
            }
        }
    }

    /// More of a head has come.
    fn go_on(&mut self, input: &[u8], output: &mut Vec<u8>) -> Step {
        let before = self.held.len();
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(input);
        let may_be_whole = has_empty_line(&held, before) || before < FIRST_BYTES;
        let verdict = match may_be_whole {
            true => self.judge(&held),
            false if held.len() > self.limits.head_bytes => Verdict::Refused(target::HEAD_TOO_LONG),
            false => Verdict::Partial,
        };
        match verdict {
            Verdict::Passes(length) => {
                output.extend_from_slice(&held[..length]);
                Step::Take(length - before)
            }
            Verdict::Replaced(length, other) => {
                output.extend_from_slice(&other);
                Step::Take(length - before)
            }
            Verdict::Partial => {
                self.hold(held, output);
                Step::Take(input.len())
            }
            Verdict::Refused(refusal) => {
                self.refuse(refusal, &held, output);
                Step::Take(input.len())
            }
        }
    }

    /// Keeps a head that is not whole, if there is room.
    fn hold(&mut self, held: Vec<u8>, output: &mut Vec<u8>) {
        // Of the vector, which grows by doubling.
        let bytes = held.capacity();
        if bytes > ORDINARY_BYTES {
            let taken = match &mut self.share {
                Some(share) => share.grow(bytes.saturating_sub(share.places())),
                None => {
                    let share = self.limits.unfinished.take(self.limits.from, bytes);
                    share.map(|share| self.share = Some(share))
                }
            };
            if taken.is_err() {
                return self.refuse(target::TOO_MANY_LONG_HEADS, &held, output);
            }
        }
        self.held = held;
    }

    fn refuse(&mut self, refusal: Refusal, head: &[u8], output: &mut Vec<u8>) {
        let is_head = head.trim_ascii_start().starts_with(b"HEAD ");
        output.extend_from_slice(&refusal.request(is_head));
        self.state = State::Discard;
        self.share = None;
    }

    /// Looks at what may be a whole head, and goes into its message if it is.
    fn judge(&mut self, bytes: &[u8]) -> Verdict {
        let found = match head::find(bytes, self.limits.lines) {
            Ok(Status::Complete(found)) => found,
            Ok(Status::Partial) if bytes.len() > self.limits.head_bytes => {
                return Verdict::Refused(target::HEAD_TOO_LONG);
            }
            Ok(Status::Partial) => return Verdict::Partial,
            Err(refusal) => return Verdict::Refused(refusal),
        };
        let Found {
            length,
            framing,
            upgrades,
            other,
        } = found;
        if length > self.limits.head_bytes {
            return Verdict::Refused(target::HEAD_TOO_LONG);
        }
        self.number += 1;
        self.share = None;
        self.upgrades = upgrades;
        if upgrades {
            self.passage.ask();
        }
        match framing {
            Framing::Length(0) => self.end_message(),
            Framing::Length(length) => self.state = State::Body(length),
            Framing::Chunked => self.state = State::Chunks(Chunk::default()),
        }
        let Some(other) = other else {
            return Verdict::Passes(length);
        };
        if !other.lines.is_empty() {
            self.passage.park(self.number, other.lines);
        }
        Verdict::Replaced(length, other.head)
    }

    fn end_message(&mut self) {
        self.state = match self.upgrades {
            true => State::Asked(false),
            false => State::Head,
        };
    }
}

/// A head of so many bytes is an ordinary one.
const ORDINARY_BYTES: usize = 16 << 10;
/// The first bytes of a connection come apart, since hyper looks for HTTP/2 in them; what follows is
/// looked at as if it were the beginning.
const FIRST_BYTES: usize = 32;

/// Whether there is an empty line, of which the last byte is not among the first `seen`.
fn has_empty_line(bytes: &[u8], seen: usize) -> bool {
    let recent = &bytes[seen.saturating_sub(3)..];
    recent
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n')
        .any(|(at, _)| {
            let rest = &recent[at + 1..];
            rest.starts_with(b"\n") || rest.starts_with(b"\r\n")
        })
}

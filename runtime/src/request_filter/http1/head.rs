//! A request's head: where it ends, how its body is framed, and what hyper would not take of it. Pure.

use std::mem::MaybeUninit;

use http::{HeaderName, HeaderValue};
use httparse::{Error, Header, Request, Status};

use super::passage::Lines;
use crate::request_filter::target::{
    CODING, HEADER_LINE, LENGTH, MAX_TARGET_BYTES, REQUEST_LINE, Refusal, TARGET_TOO_LONG,
    TOO_MANY_LINES, stand_in,
};

/// Header lines for which hyper has room without allocating.
const HYPER_LINES: usize = 100;
/// Bodies that are longer do not end.
const MAX_LENGTH: u64 = u64::MAX - 2;

/// How the end of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

/// A whole head.
#[derive(Debug)]
pub(super) struct Found {
    /// Bytes of it.
    pub(super) length: usize,
    pub(super) framing: Framing,
    /// Whether another protocol is asked for.
    pub(super) upgrades: bool,
    /// What must take its place.
    pub(super) other: Option<Other>,
}

/// A head that hyper takes, and the lines that it does not have.
#[derive(Debug)]
pub(super) struct Other {
    pub(super) head: Vec<u8>,
    pub(super) lines: Lines,
}

/// Finds the head at the beginning of `bytes`, of no more than `max_lines` header lines.
///
/// # Errors
/// Why it cannot be taken.
pub(super) fn find(bytes: &[u8], max_lines: usize) -> Result<Status<Found>, Refusal> {
    let mut room = [const { MaybeUninit::uninit() }; HYPER_LINES];
    match parse(bytes, &mut room) {
        Err(refusal) if refusal == TOO_MANY_LINES && max_lines > HYPER_LINES => {
            let mut room = vec![MaybeUninit::uninit(); max_lines];
            parse(bytes, &mut room)
        }
        other => other,
    }
}

fn parse<'b>(
    bytes: &'b [u8],
    room: &mut [MaybeUninit<Header<'b>>],
) -> Result<Status<Found>, Refusal> {
    let mut request = Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, room) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(Status::Partial),
        Err(error) => return Err(of_error(error, &request, bytes)),
    };
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(REQUEST_LINE);
    };
    if target.len() > MAX_TARGET_BYTES {
        return Err(TARGET_TOO_LONG);
    }
    let mut lines = Meaning::default();
    for header in &*request.headers {
        lines.see(header, version)?;
    }
    let framing = lines.framing()?;
    let stand_in = stand_in(target.as_bytes());
    let is_long = request.headers.len() > HYPER_LINES;
    let other = match (stand_in, is_long) {
        (None, false) => None,
        (Some(other), false) => Some(with_target(&bytes[..length], target, &other)),
        (other, true) => {
            let other = other.unwrap_or_else(|| target.as_bytes().to_vec());
            Some(shortened(method, &other, version, request.headers)?)
        }
    };
    Ok(Status::Complete(Found {
        length,
        framing,
        upgrades: lines.upgrades || method == "CONNECT",
        other,
    }))
}

fn of_error(error: Error, request: &Request<'_, '_>, bytes: &[u8]) -> Refusal {
    match error {
        Error::TooManyHeaders => TOO_MANY_LINES,
        _ if request.version.is_none() => {
            let line = bytes.trim_ascii_start().split(|byte| *byte == b'\n').next();
            let is_long = line.is_some_and(|line| line.len() > MAX_TARGET_BYTES);
            if is_long {
                TARGET_TOO_LONG
            } else {
                REQUEST_LINE
            }
        }
        Error::HeaderName
        | Error::HeaderValue
        | Error::NewLine
        | Error::Status
        | Error::Token
        | Error::Version => HEADER_LINE,
    }
}

/// What header lines say about the message.
#[derive(Debug, Default)]
struct Meaning {
    length: Option<u64>,
    /// Whether the last coding is `chunked`.
    coding: Option<bool>,
    upgrades: bool,
}

impl Meaning {
    fn see(&mut self, header: &Header<'_>, version: u8) -> Result<(), Refusal> {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        match header.name.len() {
            7 if is("upgrade") => self.upgrades = version == 1,
            14 if is("content-length") => self.see_length(header.value)?,
            17 if is("transfer-encoding") => {
                if version == 0 {
                    return Err(LENGTH);
                }
                let last = header.value.rsplit(|byte| *byte == b',').next();
                let last = last.unwrap_or_default().trim_ascii();
                self.coding = Some(last.eq_ignore_ascii_case(b"chunked"));
            }
            _ => {}
        }
        Ok(())
    }

    fn see_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.coding.is_some() {
            return Ok(());
        }
        let digits = std::str::from_utf8(value).ok();
        let digits = digits.filter(|it| it.bytes().all(|byte| byte.is_ascii_digit()));
        let length = digits.and_then(|it| it.parse().ok());
        let length: u64 = length.filter(|it| *it <= MAX_LENGTH).ok_or(LENGTH)?;
        match self.length.replace(length) {
            Some(other) if other != length => Err(LENGTH),
            Some(_) | None => Ok(()),
        }
    }

    fn framing(&self) -> Result<Framing, Refusal> {
        match self.coding {
            Some(true) => Ok(Framing::Chunked),
            Some(false) => Err(CODING),
            None => Ok(Framing::Length(self.length.unwrap_or(0))),
        }
    }
}

/// The same head with another target of the same length.
fn with_target(head: &[u8], target: &str, other: &[u8]) -> Other {
    let blank = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let line = head.iter().position(|byte| !blank(byte)).unwrap_or(0);
    let space = head[line..].iter().position(|byte| *byte == b' ');
    let start = line + space.map_or(0, |at| at + 1);
    let head = [&head[..start], other, &head[start + target.len()..]].concat();
    Other {
        head,
        lines: Lines::new(),
    }
}

/// The first lines of a head, with those that hyper must see, and the others.
fn shortened(
    method: &str,
    target: &[u8],
    version: u8,
    headers: &[Header<'_>],
) -> Result<Other, Refusal> {
    let must_be_seen = headers.iter().filter(|it| is_for_hyper(it.name)).count();
    let mut room = HYPER_LINES
        .checked_sub(must_be_seen)
        .ok_or(TOO_MANY_LINES)?;
    let mut head = format!("{method} ").into_bytes();
    head.extend_from_slice(target);
    head.extend_from_slice(format!(" HTTP/1.{version}\r\n").as_bytes());
    let mut lines = Lines::new();
    for header in headers {
        let is_for_hyper = is_for_hyper(header.name);
        if is_for_hyper || room > 0 {
            room -= usize::from(!is_for_hyper);
            head.extend_from_slice(header.name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(header.value);
            head.extend_from_slice(b"\r\n");
            continue;
        }
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| HEADER_LINE)?;
        let value = HeaderValue::from_bytes(header.value).map_err(|_| HEADER_LINE)?;
        lines.push((name, value));
    }
    head.extend_from_slice(b"\r\n");
    Ok(Other { head, lines })
}

/// Whether hyper acts upon it.
fn is_for_hyper(name: &str) -> bool {
    [
        "connection",
        "content-length",
        "expect",
        "transfer-encoding",
        "upgrade",
    ]
    .iter()
    .any(|it| it.eq_ignore_ascii_case(name))
}

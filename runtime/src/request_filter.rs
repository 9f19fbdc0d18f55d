//! What users' requests look like before the parsers of HTTP see them.
//!
//! hyper and h2 answer what they do not understand themselves: with an empty 400, 414 or 431, or a
//! stream that is reset, and they cut a target at a `#`. [`RequestFilter`] stands between the byte stream
//! and them. It replaces such a request by one that they take and nobody means ([`refusal`]), so
//! that whoever serves requests can say why it is refused. Of long heads over HTTP/1.1 it takes the
//! lines that are beyond what hyper has room for without allocating, and hands them over beside the
//! request ([`Passage`]).

mod http1;
mod target;
#[cfg(test)]
mod tests;

use http::Version;

use crate::{
    filtered::{Filtered, Step, StreamFilter},
    header_filter::{Field, HeaderFilter},
};

pub use http1::{Limits, Lost, Passage};
pub use target::{Refusal, refusal};

/// How an HTTP/2 connection begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The targets of requests, of which no head is too long. A peer may send frames of 64 KiB.
const PATH: Field = Field {
    name: b":path",
    static_entries: &[4, 5],
    replacement: target::stand_in,
    is_single: true,
    max_bytes: 128 << 10,
    refuses_longer: false,
};

/// A client's byte stream whose requests are all such that hyper takes them.
pub type RequestFilter<S> = Filtered<S, Requests>;

impl<S> RequestFilter<S> {
    /// Filters a connection of either version from its very first byte.
    pub fn of_requests(inner: S, limits: Limits) -> (Self, Passage) {
        let passage = Passage::default();
        let requests = Requests(Protocol::Unknown(Vec::new(), limits, passage.clone()));
        (Self::through(inner, requests), passage)
    }
}

/// Where in the requests of a connection the input stands.
#[derive(Debug)]
pub struct Requests(Protocol);

#[derive(Debug)]
enum Protocol {
    /// What was read so far is the beginning of HTTP/2's preface.
    Unknown(Vec<u8>, Limits, Passage),
    Http1(Box<http1::Http1>),
    Http2(HeaderFilter),
}

impl StreamFilter for Requests {
    type Error = Lost;

    fn step(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<Step, Lost> {
        match &mut self.0 {
            Protocol::Http1(http1) => http1.step(input, output),
            Protocol::Http2(filter) => filter.step(input, output).map_err(|_| Lost),
            Protocol::Unknown(seen, limits, passage) => {
                let held = seen.len();
                seen.push(input[0]);
                let version = match PREFACE.strip_prefix(seen.as_slice()) {
                    None => Version::HTTP_11,
                    Some([]) => Version::HTTP_2,
                    Some(_) => return Ok(Step::Take(1)),
                };
                let seen = &seen[..held];
                if version == Version::HTTP_2 {
                    let mut filter = HeaderFilter::new(&PATH);
                    output.extend_from_slice(seen);
                    // The preface passes as it is.
                    let _ = filter.step(seen, output);
                    let step = filter.step(&input[..1], output).map_err(|_| Lost);
                    self.0 = Protocol::Http2(filter);
                    return step;
                }
                let mut http1 = http1::Http1::new(seen, limits.clone(), passage.clone());
                let step = http1.step(input, output);
                self.0 = Protocol::Http1(Box::new(http1));
                step
            }
        }
    }

    fn discards(&self) -> bool {
        matches!(&self.0, Protocol::Http1(http1) if http1.discards())
    }
}

//! What the head of a request may be: as long as an API server takes it, and nothing that would mean
//! something else on the way.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use runtime::shares::{Limits, Share, Shares};

use crate::{failure::Failure, headers};

/// Lines of a request's head, at most: Impersonate-Group is one for each group.
pub(super) const MAX_HEADER_LINES: usize = 2000;

/// A head of so many bytes is an ordinary one, of which as many are taken as there are requests.
const ORDINARY_BYTES: usize = 16 << 10;
/// Bytes of longer heads whose requests have no answer yet.
const LONG_HEADS_BYTES: Limits = Limits {
    total: 128 << 20,
    each: 4 << 20,
    reserved: 32 << 20,
};
/// Bytes of long heads of HTTP/1.1 that are not whole, by the address they come from: more than one
/// address may be a load balancer's.
const UNFINISHED_HEADS_BYTES: Limits = Limits {
    total: 96 << 20,
    each: 64 << 20,
    reserved: 16 << 20,
};
/// What a header map takes for a line besides its text, as HTTP/2 counts it.
const LINE_BYTES: usize = 32;

/// Bounds the memory of long heads that are not whole.
pub(super) fn unfinished() -> Shares<IpAddr> {
    Shares::new(UNFINISHED_HEADS_BYTES)
}

/// Bounds the memory that long heads take, by connection: they are read before it is known whose
/// they are.
#[derive(Debug)]
pub(super) struct LongHeads(Shares<SocketAddr>);

impl Default for LongHeads {
    fn default() -> Self {
        Self(Shares::new(LONG_HEADS_BYTES))
    }
}

impl LongHeads {
    /// Counts a head of the connection from this address until the request has its answer. Nothing
    /// is counted for an ordinary one.
    ///
    /// # Errors
    /// 429, which passes.
    pub(super) fn hold(
        &self,
        head: &Parts,
        connection: SocketAddr,
    ) -> Result<Option<Share<SocketAddr>>, Failure> {
        let bytes = size(head) + head.headers.len() * LINE_BYTES;
        if bytes <= ORDINARY_BYTES {
            return Ok(None);
        }
        self.0.take(connection, bytes).map(Some).map_err(|_| {
            let message = "too many requests with long heads are in progress";
            Failure::retryable(StatusCode::TOO_MANY_REQUESTS, message)
        })
    }
}

/// Checks a head of at most so many bytes.
///
/// # Errors
/// 431 for one that is too long, 501 for a coding of the body that is not supported, 417 for
/// another expectation than to be asked for the body: what an API server answers. 400 for a value
/// that the way to the agent would change.
pub(super) fn check(head: &Parts, max_bytes: usize) -> Result<(), Failure> {
    check_size(head, max_bytes)?;
    check_codings(&head.headers)?;
    check_expectation(&head.headers)?;
    check_values(&head.headers)
}

/// Bytes of a head on the wire, about.
pub(super) fn size(head: &Parts) -> usize {
    let uri = head.uri.path_and_query().map_or(0, |it| it.as_str().len());
    headers::size(&head.headers) + uri
}

fn check_size(head: &Parts, max_bytes: usize) -> Result<(), Failure> {
    let too_large = |what: String| {
        Err(Failure::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            what,
        ))
    };
    let (size, lines) = (size(head), head.headers.len());
    if size > max_bytes {
        return too_large(format!(
            "the request's head takes {size} bytes, more than the {max_bytes} allowed"
        ));
    }
    if lines > MAX_HEADER_LINES {
        return too_large(format!(
            "the request has {lines} header lines, more than the {MAX_HEADER_LINES} allowed"
        ));
    }
    Ok(())
}

/// The body goes on as it is, without its codings: others than `chunked` would be lost.
fn check_codings(headers: &HeaderMap) -> Result<(), Failure> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let only_chunked = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => is(coding, b"chunked"),
        (Some(_), Some(_)) => false,
    };
    if only_chunked {
        return Ok(());
    }
    let message = "the only Transfer-Encoding that is understood is chunked";
    Err(Failure::new(StatusCode::NOT_IMPLEMENTED, message))
}

fn check_expectation(headers: &HeaderMap) -> Result<(), Failure> {
    let mut all = headers.get_all(header::EXPECT).iter();
    if all.all(|it| it.is_empty() || is(it, b"100-continue")) {
        return Ok(());
    }
    let message = "the only expectation that can be met is 100-continue";
    Err(Failure::new(StatusCode::EXPECTATION_FAILED, message))
}

/// The protocol of tunnels carries values as UTF-8.
fn check_values(headers: &HeaderMap) -> Result<(), Failure> {
    for (name, value) in headers {
        let bytes = value.as_bytes();
        if !bytes.is_ascii() && std::str::from_utf8(bytes).is_err() && !headers::is_for_us(name) {
            let message = format!(
                "Bad request: the value of the header {name} is not UTF-8 and would be changed on the way"
            );
            return Err(Failure::new(StatusCode::BAD_REQUEST, message));
        }
    }
    Ok(())
}

fn is(value: &HeaderValue, expected: &[u8]) -> bool {
    value.as_bytes().trim_ascii().eq_ignore_ascii_case(expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn code(pairs: &[(&str, &str)]) -> Option<u16> {
        let mut request = Request::get("/x?y=1");
        for (name, value) in pairs {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        check(&head, 64 << 10)
            .err()
            .map(|failure| failure.code.as_u16())
    }

    #[test]
    fn a_head_is_limited_in_bytes_and_in_lines() {
        let long = "x".repeat(64 << 10);

        assert_eq!(code(&[("a", "b"); MAX_HEADER_LINES]), None);
        assert_eq!(code(&[("a", "b"); MAX_HEADER_LINES + 1]), Some(431));
        assert_eq!(code(&[("a", &long)]), Some(431));
    }

    #[test]
    fn values_must_be_utf8_where_they_go_to_the_cluster() {
        let latin = HeaderValue::from_bytes(b"caf\xE9").unwrap();
        let of = |name: &'static str, value: &HeaderValue| {
            check_values(&HeaderMap::from_iter([(
                http::HeaderName::from_static(name),
                value.clone(),
            )]))
        };

        let refused = of("x-name", &latin).unwrap_err();
        assert_eq!(refused.code, 400);
        assert!(refused.message.contains("x-name"), "{}", refused.message);
        assert_eq!(of("cookie", &latin), Ok(()));
        let utf8 = HeaderValue::from_bytes("café".as_bytes()).unwrap();
        assert_eq!(of("x-name", &utf8), Ok(()));
    }

    #[test]
    fn long_heads_of_one_connection_are_limited_and_ordinary_ones_are_not() {
        let heads = LongHeads::default();
        let head = |length| {
            let request = Request::get("/x").header("a", "b".repeat(length));
            request.body(()).unwrap().into_parts().0
        };
        let (one, other) = (
            "192.0.2.1:1".parse().unwrap(),
            "192.0.2.1:2".parse().unwrap(),
        );

        let held: Vec<_> = (0..3).map(|_| heads.hold(&head(1 << 20), one)).collect();

        assert!(held.iter().all(Result::is_ok));
        let refused = heads.hold(&head(1 << 20), one).unwrap_err();
        assert_eq!(refused.code.as_u16(), 429);
        assert!(heads.hold(&head(100), one).unwrap().is_none());
        assert!(heads.hold(&head(1 << 20), other).is_ok());
        drop(held);
        assert!(heads.hold(&head(1 << 20), one).is_ok());
    }

    #[test]
    fn no_coding_but_chunked_is_taken() {
        let coded = |values: &[&str]| {
            let pairs: Vec<_> = values.iter().map(|it| ("transfer-encoding", *it)).collect();
            code(&pairs)
        };
        assert_eq!(coded(&["chunked"]), None);
        assert_eq!(coded(&["Chunked"]), None);
        assert_eq!(coded(&["gzip, chunked"]), Some(501));
        assert_eq!(coded(&["gzip", "chunked"]), Some(501));
        assert_eq!(coded(&["chunked", "chunked"]), Some(501));
        assert_eq!(coded(&["identity"]), Some(501));
    }

    #[test]
    fn no_expectation_but_100_continue_is_met() {
        assert_eq!(code(&[("expect", "100-Continue")]), None);
        assert_eq!(code(&[("expect", "")]), None);
        assert_eq!(code(&[("expect", "200-ok")]), Some(417));
        assert_eq!(code(&[("expect", "100-continue, x")]), Some(417));
    }
}

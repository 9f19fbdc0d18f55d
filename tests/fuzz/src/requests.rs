//! Users' requests: heads as they come, and the paths and queries in them.

use std::{collections::HashMap, net::Ipv4Addr};

use http::Uri;
use runtime::{
    request_filter::{Limits, RequestFilter},
    shares::{self, Shares},
};

use crate::{
    Bound, Long, Target, cut, nobody,
    wire::{Connection, read_all},
};

/// Requests of either version, one behind the other.
pub(crate) const HEADS: Target = Target {
    name: "request_heads",
    decode: heads,
    compare: nobody,
    output: Bound::per_byte(3, 256),
    memory: Bound::per_byte(128, 512 << 10),
    long: &[
        Long(b"\xff", b"GET / HTTP/1.1\r\n\r\n", b""),
        Long(b"\xffGET / HTTP/1.1\r\n", b"a:\r\n", b"\r\n"),
        Long(b"\xff", b"\r\n", b"GET / HTTP/1.1\r\n\r\n"),
        Long(b"\xffGET /", b"#", b" HTTP/1.1\r\n\r\n"),
        Long(
            b"\xffPOST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
            b"1\r\nx\r\n",
            b"0\r\n\r\n",
        ),
        Long(
            b"\xffPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\0\0\x06\x01\x05\0\0\0\x01\x04\x04/#/#",
            b"",
        ),
        Long(
            b"\xffPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x02\x01\0\0\0\0\x01\x04\0",
            b"\0\0\0\x09\0\0\0\0\x01",
            b"",
        ),
    ],
};

fn heads(input: &[u8]) -> usize {
    let (piece, data) = cut(input);
    let unfinished = shares::Limits {
        total: 1 << 20,
        each: 512 << 10,
        reserved: 0,
    };
    let limits = Limits {
        head_bytes: 256 << 10,
        lines: 2000,
        unfinished: Shares::new(unfinished),
        from: Ipv4Addr::LOCALHOST.into(),
    };
    let (filter, _) = RequestFilter::of_requests(Connection::new(data, piece), limits);
    read_all(filter, 8 << 10).0.len()
}

/// The target of a request.
pub(crate) const TARGETS: Target = Target {
    name: "request_target",
    decode: target,
    compare: compare_queries,
    // As it was sent, and decoded.
    output: Bound::per_byte(2, 64),
    // Each parameter is in a map, with a list of its values.
    memory: Bound::per_byte(256, 64 << 10),
    long: &[
        Long(b"/", b"%2F", b""),
        Long(b"/", b"a/", b""),
        Long(b"/?", b"a&", b""),
        Long(b"/?", b"a=%20&", b""),
        Long(b"/?", b"=", b""),
    ],
};

fn uri(input: &[u8]) -> Option<Uri> {
    Uri::try_from(input).ok()
}

fn target(input: &[u8]) -> usize {
    let Some(forwarded) = uri(input).and_then(|uri| user_gateway::fuzzing::target(&uri)) else {
        return 0;
    };
    let decoded = forwarded.query.iter().flat_map(|(name, values)| {
        let values = values.iter().map(String::len);
        std::iter::once(name.len()).chain(values)
    });
    forwarded.path.len() + decoded.sum::<usize>() + forwarded.sent.len()
}

/// The parameters are what the parser of browsers' forms makes of them, where encoding them anew changes nothing.
fn compare_queries(input: &[u8]) {
    let Some(uri) = uri(input) else { return };
    let Some(forwarded) = user_gateway::fuzzing::target(&uri) else {
        return;
    };
    let sent: Uri = match forwarded.sent.parse() {
        Ok(sent) => sent,
        Err(error) => panic!("{:?} is no target: {error}", forwarded.sent),
    };
    assert!(
        uri.path() == sent.path() || uri.path().is_empty(),
        "another path"
    );
    if forwarded.changes {
        return;
    }
    let mut expected: HashMap<String, Vec<String>> = HashMap::new();
    let pairs = url::form_urlencoded::parse(sent.query().unwrap_or_default().as_bytes());
    for (name, value) in pairs.into_owned() {
        expected.entry(name).or_default().push(value);
    }
    assert_eq!(forwarded.query, expected);
}

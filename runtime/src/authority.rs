//! Makes the `:authority` of Go's gRPC over WebSocket acceptable to h2.
//!
//! grpc-go derives `:authority` from the whole WebSocket URL and sends, for
//! example, `wss:%2F%2Fkas.example.com%2F-%2Fkubernetes-agent%2F`. That is not
//! a URI authority, so h2 would reset every call. [`AuthorityFilter`] sits
//! between the byte stream and h2: it walks the frames, looks only into header
//! blocks, and replaces such a value by a valid one of the same length. Equal
//! lengths keep the dynamic tables of both sides equal in size, so that later
//! references to the entry stay right.

#[cfg(test)]
mod tests;

use http::uri::Authority;

use crate::{
    filtered::Filtered,
    header_filter::{Field, HeaderFilter},
};

const AUTHORITY: Field = Field {
    name: b":authority",
    static_entries: &[1],
    replacement: acceptable,
    is_single: false,
    max_bytes: 64 << 10,
    refuses_longer: true,
};

/// A byte stream of HTTP/2 in whose reading side every `:authority` is acceptable.
pub(crate) type AuthorityFilter<S> = Filtered<S, HeaderFilter>;

impl<S> AuthorityFilter<S> {
    /// Filters an HTTP/2 connection from its very first byte.
    pub(crate) fn new(inner: S) -> Self {
        Self::through(inner, HeaderFilter::new(&AUTHORITY))
    }
}

fn acceptable(value: &[u8]) -> Option<Vec<u8>> {
    if value.is_empty() || Authority::try_from(value).is_ok() {
        return None;
    }
    let other = value.iter().map(|byte| match byte {
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'.' => *byte,
        _ => b'-',
    });
    Some(other.collect())
}

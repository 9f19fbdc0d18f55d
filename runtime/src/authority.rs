//! Makes the `:authority` of Go's gRPC over WebSocket acceptable to h2.
//!
//! grpc-go derives `:authority` from the whole WebSocket URL and sends, for
//! example, `wss:%2F%2Fkas.example.com%2F-%2Fkubernetes-agent%2F`. That is not
//! a URI authority, so h2 would reset every call. [`Filter`] sits between the
//! byte stream and h2: it walks the frames, looks only into header blocks, and
//! replaces such a value by a valid one of the same length. Equal lengths keep
//! the dynamic tables of both sides equal in size, so that later references
//! to the entry stay right.
//!
//! The same filter finds the `:path` of users' requests for [`crate::request_filter`].

mod filter;
mod hpack;
#[cfg(test)]
mod tests;

use crate::filtered::Filtered;

pub use filter::{Filter, HeadersTooLong, Step};

/// A byte stream of HTTP/2 whose reading side passes through a [`Filter`].
pub type AuthorityFilter<S> = Filtered<S, Filter>;

impl<S> AuthorityFilter<S> {
    /// Filters an HTTP/2 connection from its very first byte.
    pub fn new(inner: S) -> Self {
        Self::through(inner, Filter::new())
    }
}

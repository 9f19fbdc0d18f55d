//! A port of the server.

use runtime::listen::AnyListener;

/// A listener, how its connections are accepted, and how they are treated.
#[derive(Debug)]
pub struct Port<A, S> {
    /// The listener.
    pub listener: AnyListener,
    /// Does the handshakes.
    pub acceptor: A,
    /// How connections are served after them.
    pub settings: S,
}

//! Where something is served.

use runtime::listen::Listener;

/// A listener, how its connections are accepted, and how they are treated.
#[derive(Debug)]
pub struct Port<A, S> {
    /// Where.
    pub listener: Listener,
    /// The handshakes.
    pub acceptor: A,
    /// What comes after them.
    pub settings: S,
}

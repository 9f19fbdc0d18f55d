//! How a call begins: what it needs of a tunnel, and what is sent first.

use std::sync::Arc;

use proto::{frame::Payload, metadata::Meta};

/// The metadata of the id that finds a request in the logs of all replicas and
/// of the agent.
pub const REQUEST_ID: &str = "x-request-id";

/// What a call needs of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Path of the method.
    pub method: Arc<str>,
    /// The agent must support impersonation.
    pub impersonation: bool,
    /// The agent must support connection upgrades.
    pub upgrade: bool,
    /// The caller, as in `user:alice`: requests that wait for one agent are
    /// served in turns by caller.
    pub caller: Arc<str>,
}

/// The beginning of a call: everything that is sent before the first response.
/// Clones share the bytes, so that a call can be begun again elsewhere.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Path of the method, `/package.Service/Method`.
    pub method: Arc<str>,
    /// Metadata for the agent.
    pub meta: Meta,
    /// First messages.
    pub messages: Vec<Payload>,
    /// Whether these are all messages.
    pub close: bool,
    /// Whether the method is idempotent.
    pub safe: bool,
    /// Whether the caller makes the call again elsewhere whenever it breaks, so
    /// that a draining replica may end it.
    pub moves: bool,
}

impl Opening {
    /// The request's id; empty without one.
    #[must_use]
    pub fn request_id(&self) -> &str {
        request_id(&self.meta)
    }
}

/// The request's id among a call's metadata; empty without one.
pub(crate) fn request_id(meta: &Meta) -> &str {
    let values = meta.get(REQUEST_ID);
    values
        .and_then(|values| values.value.first())
        .map_or("", String::as_str)
}

//! The words for how an agent is.

/// The state of a connected agent.
pub(crate) const CONNECTED: &str = "connected";
/// The state of one that is not.
pub(crate) const DISCONNECTED: &str = "disconnected";

/// The state of one that is not connected here, where it is not known who is connected elsewhere.
pub(crate) const UNKNOWN: &str = "unknown";

/// A connected agent with which all is well.
pub(crate) const HEALTHY: &str = "healthy";
/// One with which something is wrong.
pub(crate) const DEGRADED: &str = "degraded";

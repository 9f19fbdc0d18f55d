//! What tunnels need of the registry, and the guard that counts them there.

use std::sync::{Arc, Weak};

use cluster_state::AgentId;

use super::{Offer, Slot};

/// The registry, as tunnels use it. Tunnels outlive their place in it, so they
/// hold it weakly.
pub(crate) trait TunnelPool: std::fmt::Debug + Send + Sync {
    /// Takes in a tunnel that is idle again.
    fn put_back(&self, slot: &Arc<Slot>);

    /// Removes an idle tunnel.
    fn remove(&self, slot: &Arc<Slot>);

    /// A tunnel with this offer has ended.
    fn tunnel_ended(&self, offer: &Offer);

    /// A caller uses one tunnel of the agent less.
    fn released(&self, agent: AgentId, caller: &str);
}

/// Held with a tunnel that is used for a caller: the tunnel counts for that
/// caller until this is dropped.
#[derive(Debug)]
pub(crate) struct UsageGuard {
    pub(crate) agent: AgentId,
    pub(crate) caller: Arc<str>,
    pub(crate) pool: Weak<dyn TunnelPool>,
}

impl Drop for UsageGuard {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.released(self.agent, &self.caller);
        }
    }
}

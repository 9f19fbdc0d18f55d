//! Load balancers that carry each tunnel of an agent on a connection of its own.

use std::{
    net::IpAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use cluster_state::ClusterUid;
use tokio::time::Instant;

use crate::gateway::caller::Caller;

/// How long it counts what a tunnel of a load balancer's connection was found to lead to.
const FRONT_TTL: Duration = Duration::from_secs(60);
/// Addresses of load balancers that are remembered for an agent.
const MAX_FRONTS: usize = 8;

/// The load balancers of one agent that were asked lately.
#[derive(Debug, Default)]
pub(super) struct Fronts(Vec<Front>);

/// What the only tunnel of a connection was found to lead to.
#[derive(Debug)]
struct Front {
    ip: IpAddr,
    cluster: Option<ClusterUid>,
    at: Instant,
    caller: Weak<Caller>,
}

impl Fronts {
    /// What the last tunnel from the caller's address led to, with `None` inside where its cluster hides that.
    pub(super) fn find(&self, caller: &Caller) -> Option<Option<ClusterUid>> {
        let ip = caller.origin.remote_addr.ip();
        let is_front = |it: &&Front| {
            // A connection with a second stream is one of an agent process, or at least one that is asked itself.
            let single = |caller: Arc<Caller>| {
                caller.streams() == 1 && it.at.elapsed() > Duration::from_secs(1)
            };
            it.ip == ip && it.at.elapsed() < FRONT_TTL && it.caller.upgrade().is_none_or(single)
        };
        let found = self.0.iter().rev().find(is_front)?;
        Some(found.cluster.clone())
    }

    /// Remembers what the only tunnel of a connection was found to lead to.
    pub(super) fn remember(&mut self, cluster: Option<ClusterUid>, caller: &Arc<Caller>) {
        self.0.retain(|it| it.at.elapsed() < FRONT_TTL);
        if self.0.len() >= MAX_FRONTS {
            self.0.remove(0);
        }
        self.0.push(Front {
            ip: caller.origin.remote_addr.ip(),
            cluster,
            at: Instant::now(),
            caller: Arc::downgrade(caller),
        });
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

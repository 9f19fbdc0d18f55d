//! Which replicas live, as one reader of their leases sees it. Pure state.
//!
//! A lease carries a beat that grows with every renewal. The reader counts, by
//! its own clock and only while it can read, how long a beat stands still: no
//! other machine's clock matters, and neither does an outage of the store. A
//! replica whose lease expires may only be cut off from the store: it is probed
//! before it counts as dead.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    id::{Owner, ReplicaId, urls},
    member::{Member, MemberState},
    ring::Ring,
    store::{Lease, ReplicaState},
};

/// Dead replicas that are remembered.
const MAX_DEAD: usize = 1000;
/// Foreign owners that are remembered as unreachable.
const MAX_UNREACHABLE_FOREIGN: usize = 64;

/// The other replicas.
#[derive(Debug)]
pub(super) struct Membership {
    me: ReplicaId,
    /// How often leases are renewed and read.
    period: Duration,
    /// A lease whose beat stands still for so long has expired.
    expiry: Duration,
    peers: BTreeMap<ReplicaId, Peer>,
    dead: BTreeMap<ReplicaId, Dead>,
    /// Owners without leases that could not be reached since the leases were read.
    unreachable_foreign: BTreeSet<ReplicaId>,
    read_at: Option<Instant>,
    ring: Ring,
}

#[derive(Debug)]
struct Peer {
    lease: Lease,
    /// How long its beat has stood still.
    silent: Duration,
    unreachable: bool,
    /// Whether a connection to it broke and it was not probed since.
    disconnected: bool,
}

/// When a replica was found dead, and its last beat.
#[derive(Debug)]
struct Dead {
    at: Instant,
    beat: u64,
}

/// The state of a replica, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// It renews its lease.
    Live,
    /// Its lease was not seen yet: it may be new, or is foreign and has none.
    Unknown,
    /// It drains.
    Draining,
    /// It could not be reached lately.
    Unreachable,
    /// It has left or died. Its id is never used again.
    Dead,
}

impl Membership {
    pub(super) fn new(me: ReplicaId, period: Duration, expiry: Duration) -> Self {
        let ring = Ring::new(std::iter::once(&me));
        Self {
            me,
            period,
            expiry,
            peers: BTreeMap::new(),
            dead: BTreeMap::new(),
            unreachable_foreign: BTreeSet::new(),
            read_at: None,
            ring,
        }
    }

    /// Applies the leases that were read; returns those that have expired, whose
    /// replicas are to be probed.
    pub(super) fn observe(&mut self, leases: Vec<Lease>, now: Instant) -> Vec<Lease> {
        // Time in which nothing could be read, or this process stood still,
        // proves nothing about others.
        let elapsed = self.read_at.map_or(Duration::ZERO, |at| now - at);
        let elapsed = elapsed.min(self.period);
        self.read_at = Some(now);
        self.unreachable_foreign.clear();
        for peer in self.peers.values_mut() {
            peer.silent += elapsed;
        }
        let mut gone: Vec<_> = self.peers.keys().cloned().collect();
        for lease in leases {
            gone.retain(|replica| *replica != lease.replica);
            if lease.replica != self.me {
                self.renewed(lease);
            }
        }
        for replica in gone {
            // A replica that drained has left. Any other may have lost its lease
            // with the store's data: it has time to write it again.
            let left = |peer: &mut Peer| peer.lease.state == ReplicaState::Draining;
            if self.peers.get_mut(&replica).is_some_and(left) {
                self.remove(&replica, now);
            }
        }
        self.rebuild_ring();
        let suspects = self.peers.values().filter(|it| it.silent >= self.expiry);
        suspects.map(|peer| peer.lease.clone()).collect()
    }

    /// The replica answered its health probe.
    pub(super) fn mark_reachable(&mut self, replica: &ReplicaId) {
        if let Some(peer) = self.peers.get_mut(replica) {
            peer.unreachable = false;
        }
    }

    /// The replica is dead.
    pub(super) fn mark_dead(&mut self, replica: &ReplicaId, now: Instant) {
        self.remove(replica, now);
        self.rebuild_ring();
    }

    /// Whether a replica was found dead since then: leases that were read before
    /// are outdated.
    pub(super) fn died_since(&self, replica: &ReplicaId, at: Instant) -> bool {
        self.dead.get(replica).is_some_and(|dead| dead.at >= at)
    }

    /// Whether a replica may live without reaching the store: its entries may be
    /// missing there.
    pub(super) fn has_silent(&self) -> bool {
        let limit = 2 * self.period;
        self.peers.values().any(|peer| peer.silent >= limit)
    }

    /// The replica could not be reached; holds until its lease is renewed, or all are read if it has none.
    pub(super) fn mark_unreachable(&mut self, replica: &ReplicaId) {
        if let Some(peer) = self.peers.get_mut(replica) {
            peer.unreachable = true;
        } else if self.unreachable_foreign.len() < MAX_UNREACHABLE_FOREIGN {
            self.unreachable_foreign.insert(replica.clone());
        }
    }

    /// The state of an owner that writes no lease.
    pub(super) fn standing_of_foreign(&self, owner: &Owner) -> Standing {
        if self.unreachable_foreign.contains(&owner.replica) {
            return Standing::Unreachable;
        }
        Standing::Unknown
    }

    /// Whether a replica with a lease is published at this URL.
    pub(super) fn publishes(&self, url: &str) -> bool {
        let mut peers = self.peers.values();
        peers.any(|peer| urls(&peer.lease.url).any(|it| it == url))
    }

    /// The connection to the replica at this URL broke.
    pub(super) fn mark_disconnected(&mut self, url: &str) {
        for peer in self.peers.values_mut() {
            peer.disconnected |= peer.lease.url == url;
        }
    }

    /// The replicas to which a connection broke since the last call.
    pub(super) fn take_disconnected(&mut self) -> Vec<Lease> {
        let disconnected = self.peers.values_mut().filter(|peer| peer.disconnected);
        disconnected
            .map(|peer| {
                peer.disconnected = false;
                peer.lease.clone()
            })
            .collect()
    }

    /// The state of a replica whose entry was read at `read_at`.
    pub(super) fn standing(&self, replica: &ReplicaId, read_at: Instant) -> Standing {
        if self.dead.contains_key(replica) {
            return Standing::Dead;
        }
        match self.peers.get(replica) {
            Some(peer) if peer.unreachable => Standing::Unreachable,
            Some(peer) => match peer.lease.state {
                ReplicaState::Serving => Standing::Live,
                ReplicaState::Draining => Standing::Draining,
            },
            // Leases that were read later than the entry would include it if it lived.
            None if self.has_read_since(read_at) => Standing::Dead,
            None => Standing::Unknown,
        }
    }

    /// Whether the leases were read after this.
    pub(super) fn has_read_since(&self, at: Instant) -> bool {
        self.read_at.is_some_and(|read_at| read_at > at)
    }

    /// The leases of the replicas that may live.
    pub(super) fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.peers.values().map(|peer| &peer.lease)
    }

    /// The other replicas, for people.
    pub(super) fn members(&self) -> impl Iterator<Item = Member> {
        self.peers.values().map(|peer| Member {
            replica: Owner {
                replica: peer.lease.replica.clone(),
                url: peer.lease.url.clone(),
            },
            version: peer.lease.version.clone(),
            state: match peer.lease.state {
                _ if peer.silent >= 2 * self.period => MemberState::Silent,
                _ if peer.unreachable => MemberState::Unreachable,
                ReplicaState::Serving => MemberState::Serving,
                ReplicaState::Draining => MemberState::Draining,
            },
            load: peer.lease.load,
        })
    }

    /// The serving replicas, this one included.
    pub(super) fn ring(&self) -> &Ring {
        &self.ring
    }

    fn renewed(&mut self, lease: Lease) {
        let known = self.peers.get(&lease.replica).map(|peer| peer.lease.beat);
        let last = known.or(self.dead.get(&lease.replica).map(|dead| dead.beat));
        // An old lease proves nothing, whoever wrote it again.
        if last.is_some_and(|last| lease.beat <= last) {
            return;
        }
        // A replica that was only frozen renews its lease again, so it lives.
        self.dead.remove(&lease.replica);
        let peer = Peer {
            lease,
            silent: Duration::ZERO,
            unreachable: false,
            disconnected: false,
        };
        self.peers.insert(peer.lease.replica.clone(), peer);
    }

    fn remove(&mut self, replica: &ReplicaId, now: Instant) {
        let Some(peer) = self.peers.remove(replica) else {
            return;
        };
        let beat = peer.lease.beat;
        let oldest = self.dead.iter().min_by_key(|(_, dead)| dead.at);
        if let Some((oldest, _)) = oldest.filter(|_| self.dead.len() >= MAX_DEAD) {
            let oldest = oldest.clone();
            self.dead.remove(&oldest);
        }
        self.dead.insert(replica.clone(), Dead { at: now, beat });
    }

    fn rebuild_ring(&mut self) {
        let serving = self
            .peers
            .values()
            .filter(|peer| peer.lease.state == ReplicaState::Serving)
            .map(|peer| &peer.lease.replica);
        self.ring = Ring::new(serving.chain(std::iter::once(&self.me)));
    }
}

#[cfg(test)]
mod tests;

//! Which replicas live, as one reader of their leases sees it: pure state.
//!
//! A lease carries a beat that grows with every renewal. The reader counts, by
//! its own clock and only while it can read, how long a beat stands still; no
//! clock of another machine matters, and neither does a store that was away.
//! One whose beat stands still may only be cut off from the store: it is asked
//! itself before it is taken for dead.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::{
    id::ReplicaId,
    ring::Ring,
    store::{Lease, ReplicaState},
};

/// How many dead replicas are remembered.
const GRAVEYARD: usize = 1000;

/// What is known of the other replicas.
#[derive(Debug)]
pub(super) struct Membership {
    me: ReplicaId,
    /// How often leases are renewed and read.
    period: Duration,
    /// One whose beat stands still for so long is suspected to be dead.
    expiry: Duration,
    peers: BTreeMap<ReplicaId, Peer>,
    dead: BTreeMap<ReplicaId, Grave>,
    read_at: Option<Instant>,
    ring: Ring,
}

#[derive(Debug)]
struct Peer {
    lease: Lease,
    silent: Duration,
    unreachable: bool,
    /// Whether a connection to it broke, and it was not asked yet what became of it.
    lost: bool,
}

/// When a replica was found dead, and its last beat.
#[derive(Debug)]
struct Grave {
    at: Instant,
    beat: u64,
}

/// How a replica stands; the better ones come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// It renews its lease.
    Live,
    /// Its lease was not seen yet: it may be new.
    Unknown,
    /// It leaves.
    Draining,
    /// It could not be reached lately.
    Unreachable,
    /// It has left or died; its id never comes back.
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
            read_at: None,
            ring,
        }
    }

    /// Takes in the leases as they were read; gives those whose beats stand
    /// still for so long that it must be found out whether these replicas live.
    pub(super) fn observe(&mut self, leases: Vec<Lease>, now: Instant) -> Vec<Lease> {
        // Time in which nothing could be read, or this process stood still,
        // says nothing about others.
        let elapsed = self.read_at.map_or(Duration::ZERO, |at| now - at);
        let elapsed = elapsed.min(self.period);
        self.read_at = Some(now);
        for peer in self.peers.values_mut() {
            peer.silent += elapsed;
        }
        let mut gone: Vec<_> = self.peers.keys().cloned().collect();
        for lease in leases {
            gone.retain(|replica| *replica != lease.replica);
            if lease.replica != self.me {
                self.heard(lease);
            }
        }
        for replica in gone {
            // One that was draining has left. The lease of another may be lost
            // with all the store had: it has its time to write it again.
            let left = |peer: &mut Peer| peer.lease.state == ReplicaState::Draining;
            if self.peers.get_mut(&replica).is_some_and(left) {
                self.remove(&replica, now);
            }
        }
        self.rebuild_ring();
        let suspects = self.peers.values().filter(|it| it.silent >= self.expiry);
        suspects.map(|peer| peer.lease.clone()).collect()
    }

    /// A suspect lives, as it said itself.
    pub(super) fn reached(&mut self, replica: &ReplicaId) {
        if let Some(peer) = self.peers.get_mut(replica) {
            peer.unreachable = false;
        }
    }

    /// A replica does not live.
    pub(super) fn bury(&mut self, replica: &ReplicaId, now: Instant) {
        self.remove(replica, now);
        self.rebuild_ring();
    }

    /// Whether a replica was found dead since then: what was read of it before
    /// says nothing.
    pub(super) fn buried_since(&self, replica: &ReplicaId, at: Instant) -> bool {
        self.dead.get(replica).is_some_and(|grave| grave.at >= at)
    }

    /// Whether there is a replica that may live and does not reach the store:
    /// what it holds may not be written there.
    pub(super) fn has_mute(&self) -> bool {
        let mute = 2 * self.period;
        self.peers.values().any(|peer| peer.silent >= mute)
    }

    /// A replica could not be reached, until its lease is renewed again.
    pub(super) fn unreachable(&mut self, replica: &ReplicaId) {
        if let Some(peer) = self.peers.get_mut(replica) {
            peer.unreachable = true;
        }
    }

    /// The connection to the replica at this URL broke.
    pub(super) fn lost(&mut self, url: &str) {
        for peer in self.peers.values_mut() {
            peer.lost |= peer.lease.url == url;
        }
    }

    /// Those to whom a connection broke since this was asked last.
    pub(super) fn take_lost(&mut self) -> Vec<Lease> {
        let lost = self.peers.values_mut().filter(|peer| peer.lost);
        lost.map(|peer| {
            peer.lost = false;
            peer.lease.clone()
        })
        .collect()
    }

    /// How a replica stands whose entry was read at `read_at`.
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
            // Leases read later than the entry would show it if it lived.
            None if self.has_read_since(read_at) => Standing::Dead,
            None => Standing::Unknown,
        }
    }

    /// Whether the leases were read later than this.
    pub(super) fn has_read_since(&self, at: Instant) -> bool {
        self.read_at.is_some_and(|read_at| read_at > at)
    }

    /// The leases of the replicas that may live.
    pub(super) fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.peers.values().map(|peer| &peer.lease)
    }

    /// The live replicas, this one included, in a ring.
    pub(super) fn ring(&self) -> &Ring {
        &self.ring
    }

    fn heard(&mut self, lease: Lease) {
        let known = self.peers.get(&lease.replica).map(|peer| peer.lease.beat);
        let last = known.or(self.dead.get(&lease.replica).map(|grave| grave.beat));
        // A lease of before says nothing, whoever wrote it there again.
        if last.is_some_and(|last| lease.beat <= last) {
            return;
        }
        // One that was only frozen goes on: it writes its lease, so it lives.
        self.dead.remove(&lease.replica);
        let peer = Peer {
            lease,
            silent: Duration::ZERO,
            unreachable: false,
            lost: false,
        };
        self.peers.insert(peer.lease.replica.clone(), peer);
    }

    fn remove(&mut self, replica: &ReplicaId, now: Instant) {
        let Some(peer) = self.peers.remove(replica) else {
            return;
        };
        let beat = peer.lease.beat;
        let oldest = self.dead.iter().min_by_key(|(_, grave)| grave.at);
        if let Some((oldest, _)) = oldest.filter(|_| self.dead.len() >= GRAVEYARD) {
            let oldest = oldest.clone();
            self.dead.remove(&oldest);
        }
        self.dead.insert(replica.clone(), Grave { at: now, beat });
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

//! All that a table knows, and what follows from it: pure state.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Numbers, Settings,
    budget::Budget,
    ledger::{Ledger, Pace},
    membership::{Membership, Standing},
    records::{Known, Records},
    roll::Roll,
};
use crate::id::{AgentId, Owner, ReplicaId};

const A_SECOND: Duration = Duration::from_secs(1);

/// What one replica knows of the table.
#[derive(Debug)]
pub(super) struct State {
    pub(super) ledger: Ledger,
    pub(super) roll: Roll,
    pub(super) membership: Membership,
    pub(super) records: Records,
    pub(super) budget: Budget,
    pub(super) draining: bool,
    /// Whether there are entries of replicas taken for dead that may be newer
    /// than that.
    pub(super) suspects: bool,
    /// Grows with each renewal of the own lease.
    pub(super) beat: u64,
    /// Whether the own lease was ever written.
    pub(super) registered: bool,
    /// Whether the store failed the last time it was used.
    pub(super) away: bool,
    /// It is not waited for until then.
    pub(super) slow_until: Instant,
    doubt: Duration,
    doubted_until: Instant,
}

impl State {
    pub(super) fn new(me: &ReplicaId, settings: &Settings, now: Instant) -> Self {
        let pace = Pace {
            debounce: settings.debounce,
            refresh: settings.refresh,
        };
        Self {
            ledger: Ledger::new(pace),
            roll: Roll::new(settings.debounce),
            membership: Membership::new(me.clone(), settings.renew_every, settings.expiry),
            records: Records::default(),
            budget: Budget::new(settings.operations_per_second, settings.burst, now),
            draining: false,
            suspects: false,
            beat: 0,
            registered: false,
            away: true,
            slow_until: now,
            doubt: settings.doubt,
            doubted_until: now,
        }
    }

    /// The store may have lost what others wrote.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.doubted_until = now + self.doubt;
    }

    /// Whether the store's word on absent agents counts.
    pub(super) fn certain(&self, now: Instant) -> bool {
        !self.away && now >= self.doubted_until && !self.membership.has_mute()
    }

    /// Whether its word on this agent counts.
    pub(super) fn certain_of(&self, agent: AgentId, now: Instant) -> bool {
        self.certain(now) && !self.records.is_doubtful(agent)
    }

    /// The replicas to ask for the agent, best first.
    pub(super) fn owners(
        &mut self,
        agent: AgentId,
        known: &Known,
        me: &Owner,
        now: Instant,
    ) -> Vec<Owner> {
        let recorded = known.record.iter().flat_map(|record| &record.owners);
        // An earlier run of this replica may have had its URL.
        let mut ranked: Vec<_> = recorded
            .filter(|owner| owner.replica != me.replica && owner.url != me.url)
            .map(|owner| {
                let standing = self.membership.standing(&owner.replica, known.read_at);
                (standing, owner.clone())
            })
            .collect();
        let certain = self.certain_of(agent, now) && known.fresh;
        for (_, dead) in ranked.iter().filter(|(it, _)| *it == Standing::Dead) {
            // One that came back writes its lease first, then its entries: only
            // leases read later than an entry tell that it is a dead one's.
            if !self.membership.has_read_since(known.read_at) {
                self.suspects = true;
            } else if certain {
                self.ledger.bury(agent, dead.replica.clone());
            }
        }
        ranked.retain(|(standing, _)| *standing != Standing::Dead);
        self.sort(agent, &mut ranked);
        if !certain {
            let mut others = self.others(&ranked, known.read_at);
            self.sort(agent, &mut others);
            ranked.append(&mut others);
        }
        ranked.into_iter().map(|(_, owner)| owner).collect()
    }

    /// How long ago any other replica held the agent.
    /// By the clock of that one and of this, unless this one knew the agent then.
    pub(super) fn last_seen(
        &self,
        known: &Known,
        me: &Owner,
        now: Instant,
        unix: u64,
    ) -> Option<Duration> {
        let record = known.record.as_ref()?;
        let held = record
            .owners
            .iter()
            .filter(|owner| owner.replica != me.replica)
            .map(|owner| self.membership.standing(&owner.replica, known.read_at))
            .min();
        match held {
            Some(Standing::Live | Standing::Unknown | Standing::Draining) => Some(Duration::ZERO),
            // It went with its replica, so it comes back soon.
            Some(Standing::Unreachable | Standing::Dead) => Some(A_SECOND),
            None => {
                let at = record.last_seen?;
                let ago = Duration::from_secs(unix.saturating_sub(at));
                let known = known.held_at.map(|at| now.saturating_duration_since(at));
                // Zero is for those that are connected.
                Some(known.map_or(ago, |known| known.min(ago)).max(A_SECOND))
            }
        }
    }

    pub(super) fn numbers(&mut self, now: Instant) -> Numbers {
        Numbers {
            replicas: self.membership.leases().count() + 1,
            records: self.records.len(),
            pending: self.ledger.pending(),
            budget: self.budget.left(now),
            certain: self.certain(now),
        }
    }

    /// All that may live and are not among `ranked`.
    fn others(&self, ranked: &[(Standing, Owner)], read_at: Instant) -> Vec<(Standing, Owner)> {
        let named = |id: &ReplicaId| ranked.iter().any(|(_, owner)| owner.replica == *id);
        self.membership
            .leases()
            .filter(|lease| !named(&lease.replica))
            .map(|lease| {
                let standing = self.membership.standing(&lease.replica, read_at);
                let owner = Owner {
                    replica: lease.replica.clone(),
                    url: lease.url.clone(),
                };
                (standing, owner)
            })
            .collect()
    }

    fn sort(&self, agent: AgentId, owners: &mut [(Standing, Owner)]) {
        if owners.len() < 2 {
            return;
        }
        let order = self.membership.ring().order(agent);
        owners.sort_by_key(|(standing, owner)| {
            let place = order.iter().position(|id| *id == owner.replica);
            (
                *standing,
                place.unwrap_or(usize::MAX),
                owner.replica.clone(),
            )
        });
    }
}

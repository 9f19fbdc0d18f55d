//! All state of a table, and the decisions that follow from it. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    TableSettings, TableStats,
    budget::Budget,
    membership::{Membership, Standing},
    presence_outbox::PresenceOutbox,
    record_cache::{CachedRecord, RecordCache},
    route_outbox::{RouteOutbox, Timing},
};
use crate::{
    id::{AgentId, Owner, ReplicaId, urls},
    store::{Load, Record},
};

/// The least last-seen time of an agent that is not connected: zero means connected.
const MIN_LAST_SEEN: Duration = Duration::from_secs(1);

/// The state of one replica's table.
#[derive(Debug)]
pub(super) struct State {
    pub(super) routes: RouteOutbox,
    pub(super) presence: PresenceOutbox,
    pub(super) membership: Membership,
    pub(super) records: RecordCache,
    pub(super) budget: Budget,
    pub(super) draining: bool,
    /// What this replica carries, once that was told.
    pub(super) load: Option<Load>,
    /// Whether an owner counts as dead by leases that are older than its entry:
    /// the leases are to be read again.
    pub(super) has_suspects: bool,
    /// Renewals of this replica's lease.
    pub(super) beat: u64,
    /// Whether this replica's lease was ever written.
    pub(super) registered: bool,
    /// Whether the last renewal failed.
    pub(super) unavailable: bool,
    /// Requests do not wait for the store until then.
    pub(super) do_not_wait_until: Instant,
    recovery_grace: Duration,
    grace_until: Instant,
}

impl State {
    pub(super) fn new(me: &ReplicaId, settings: &TableSettings, now: Instant) -> Self {
        let timing = Timing {
            debounce: settings.debounce,
            refresh_interval: settings.refresh_interval,
        };
        Self {
            routes: RouteOutbox::new(timing),
            presence: PresenceOutbox::new(settings.debounce, settings.presence_refresh_interval),
            membership: Membership::new(me.clone(), settings.renew_interval, settings.lease_expiry),
            records: RecordCache::default(),
            budget: Budget::new(settings.operations_per_second, settings.burst, now),
            draining: false,
            load: None,
            has_suspects: false,
            beat: 0,
            registered: false,
            unavailable: true,
            do_not_wait_until: now,
            recovery_grace: settings.recovery_grace,
            grace_until: now,
        }
    }

    /// Entries may be missing from the store: the table is not authoritative
    /// until replicas have had time to write them again.
    pub(super) fn start_recovery_grace(&mut self, now: Instant) {
        self.grace_until = now + self.recovery_grace;
    }

    /// Whether an agent that is not in the store is really absent.
    pub(super) fn is_authoritative(&self, now: Instant) -> bool {
        !self.unavailable && now >= self.grace_until && !self.membership.has_silent()
    }

    /// The same for this agent.
    pub(super) fn is_authoritative_for(&self, agent: AgentId, now: Instant) -> bool {
        self.is_authoritative(now) && !self.records.is_incomplete(agent)
    }

    /// The replicas to ask for the agent, best first.
    pub(super) fn owners(
        &mut self,
        agent: AgentId,
        known: &CachedRecord,
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
        if let Some(record) = &known.record {
            let foreign = self.foreign(record, me);
            ranked.extend(foreign.map(|(standing, owner)| (standing, owner.clone())));
        }
        let authoritative = self.is_authoritative_for(agent, now) && known.fresh;
        for (_, dead) in ranked.iter().filter(|(it, _)| *it == Standing::Dead) {
            // A replica that comes back writes its lease first, then its entries:
            // only leases that were read later than an entry prove that its
            // replica is dead.
            if !self.membership.has_read_since(known.read_at) {
                self.has_suspects = true;
            } else if authoritative {
                self.routes.remove_dead(agent, dead.replica.clone());
            }
        }
        ranked.retain(|(standing, _)| *standing != Standing::Dead);
        self.sort(agent, &mut ranked);
        if !authoritative {
            let mut others = self.others(&ranked, known.read_at);
            self.sort(agent, &mut others);
            ranked.append(&mut others);
        }
        ranked.into_iter().map(|(_, owner)| owner).collect()
    }

    /// Time since any other replica held the agent: by this replica's clock if
    /// it had the record then, else by both replicas' clocks.
    pub(super) fn last_seen(
        &self,
        known: &CachedRecord,
        me: &Owner,
        now: Instant,
        unix: u64,
    ) -> Option<Duration> {
        let record = known.record.as_ref()?;
        let held = record
            .owners
            .iter()
            .filter(|owner| owner.replica != me.replica)
            .map(|owner| self.membership.standing(&owner.replica, known.read_at));
        let foreign = self.foreign(record, me).map(|(standing, _)| standing);
        let held = held.chain(foreign).min();
        match held {
            Some(Standing::Live | Standing::Unknown | Standing::Draining) => Some(Duration::ZERO),
            // It was cut off with its replica, so it reconnects soon.
            Some(Standing::Unreachable | Standing::Dead) => Some(MIN_LAST_SEEN),
            None => {
                let at = record.last_seen?;
                let ago = Duration::from_secs(unix.saturating_sub(at));
                let known = known.held_at.map(|at| now.saturating_duration_since(at));
                Some(known.map_or(ago, |known| known.min(ago)).max(MIN_LAST_SEEN))
            }
        }
    }

    pub(super) fn stats(&mut self, now: Instant) -> TableStats {
        TableStats {
            replicas: self.membership.leases().count() + 1,
            records: self.records.len(),
            pending: self.routes.pending(),
            budget: self.budget.left(now),
            authoritative: self.is_authoritative(now),
        }
    }

    /// The owners that write no leases. An entry at the URL of a replica that does is of what ran there before.
    fn foreign<'a>(
        &'a self,
        record: &'a Record,
        me: &'a Owner,
    ) -> impl Iterator<Item = (Standing, &'a Owner)> {
        let foreign = record.foreign.iter();
        foreign
            .filter(|it| urls(&me.url).all(|url| url != it.url))
            .filter(|it| !self.membership.publishes(&it.url))
            .map(|it| (self.membership.standing_of_foreign(it), it))
    }

    /// The replicas that may live and are not among `ranked`.
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

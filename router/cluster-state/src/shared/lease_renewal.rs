//! Renews this replica's lease, reads the others', and finds out which replicas
//! are dead.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::{Inner, State};
use crate::{
    id::{Owner, ReplicaId},
    probe::Liveness,
    store::{Lease, Renewal, ReplicaState},
};

/// The least time between renewals outside the interval.
const EARLY_RENEWAL_PAUSE: Duration = Duration::from_millis(100);
/// How long a health probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// Replicas that are probed at once, at most.
const MAX_CONCURRENT_PROBES: usize = 32;

/// Renews at the interval, and earlier when notified, for ever.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut ticks = interval(inner.settings.renew_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Biased: a notification that comes with a tick needs no pause.
        tokio::select! {
            biased;
            _ = ticks.tick() => {}
            () = inner.renew.notified() => tokio::time::sleep(EARLY_RENEWAL_PAUSE).await,
        }
        tokio::join!(renew(&inner), probe_disconnected(&inner));
    }
}

/// A process that has ended is known by its closed port, long before its lease
/// expires.
async fn probe_disconnected(inner: &Inner) {
    let disconnected = inner.lock().membership.take_disconnected();
    let judge = async |lease| {
        let owner = owner(lease);
        if probe(inner, &owner).await == Liveness::Gone {
            let why = "replica is dead: its connection broke and it does not listen any more";
            remove_dead(inner, &owner.replica, why).await;
        }
    };
    stream::iter(disconnected)
        .for_each_concurrent(MAX_CONCURRENT_PROBES, judge)
        .await;
}

async fn renew(inner: &Inner) {
    let lease = next_lease(inner);
    let began = Instant::now();
    match inner.in_time(inner.store.renew(&lease)).await {
        Ok(renewal) => {
            let suspects = take_in(inner, renewal, began);
            stream::iter(suspects)
                .for_each_concurrent(MAX_CONCURRENT_PROBES, |it| judge_suspect(inner, it))
                .await;
        }
        Err(error) => {
            let mut state = inner.lock();
            if !std::mem::replace(&mut state.unavailable, true) {
                tracing::warn!(%error, "routing store unavailable; serving local and cached agents only");
                // Requests on hold ask all replicas now.
                state.records.wake_all();
            }
        }
    }
}

fn next_lease(inner: &Inner) -> Lease {
    let mut state = inner.lock();
    state.beat += 1;
    Lease {
        replica: inner.me.replica.clone(),
        url: inner.me.url.clone(),
        state: if state.draining {
            ReplicaState::Draining
        } else {
            ReplicaState::Serving
        },
        version: inner.version.clone(),
        beat: state.beat,
        load: state.load,
    }
}

/// Applies what a renewal has read; returns the replicas whose leases have
/// expired. The leases were read after it `began`: those of replicas that were
/// found dead meanwhile are outdated.
fn take_in(inner: &Inner, mut renewal: Renewal, began: Instant) -> Vec<Lease> {
    let now = Instant::now();
    let mut state = inner.lock();
    let lost = !renewal.existed && state.registered;
    let was_unavailable = std::mem::replace(&mut state.unavailable, false);
    if lost {
        tracing::warn!(
            "this replica's lease is missing from the routing store; announcing all agents again"
        );
    }
    if lost || (was_unavailable && state.registered) {
        state.start_recovery_grace(now);
        state.records.invalidate_all(now);
        inner.write_all_again(&mut state, now);
    }
    state.registered = true;
    let (before, authoritative) = (ids(&state), state.is_authoritative(now));
    let membership = &mut state.membership;
    let outdated = |lease: &Lease| membership.died_since(&lease.replica, began);
    renewal.leases.retain(|lease| !outdated(lease));
    let suspects = membership.observe(renewal.leases, now);
    // A replica that is new or back may hold what a request waits for, and so
    // may those that are asked while the table is not authoritative.
    let has_new = !ids(&state).is_subset(&before);
    if has_new || was_unavailable || authoritative != state.is_authoritative(now) {
        state.records.wake_all();
    }
    state.records.evict_unused(now);
    suspects
}

fn ids(state: &State) -> BTreeSet<ReplicaId> {
    let leases = state.membership.leases();
    leases.map(|lease| lease.replica.clone()).collect()
}

/// Probes a replica whose lease has expired. It is dead unless it answers.
async fn judge_suspect(inner: &Inner, suspect: Lease) {
    let owner = owner(suspect);
    match probe(inner, &owner).await {
        Liveness::Alive => {
            let mut state = inner.lock();
            state.membership.mark_reachable(&owner.replica);
            tracing::debug!(
                replica = %owner.replica,
                "replica answers its health probe but does not renew its lease"
            );
        }
        Liveness::Gone | Liveness::Unknown => {
            let why = "replica is dead: lease expired and the health probe failed";
            remove_dead(inner, &owner.replica, why).await;
        }
    }
}

fn owner(lease: Lease) -> Owner {
    Owner {
        replica: lease.replica,
        url: lease.url,
    }
}

async fn probe(inner: &Inner, owner: &Owner) -> Liveness {
    let probed = timeout(PROBE_TIMEOUT, inner.probe.probe(owner)).await;
    probed.unwrap_or(Liveness::Unknown)
}

/// The lease goes before any entry does, so that a replica that was only frozen
/// finds it missing and announces its agents again.
async fn remove_dead(inner: &Inner, dead: &ReplicaId, why: &str) {
    tracing::info!(replica = %dead, "{why}");
    {
        let mut state = inner.lock();
        state.membership.mark_dead(dead, Instant::now());
        state.records.wake_all();
    }
    let ended = timeout(
        inner.settings.operation_timeout,
        inner.store.end_lease(dead),
    );
    if let Ok(Err(error)) = ended.await {
        tracing::debug!(replica = %dead, %error, "removing a dead replica's lease failed");
    }
}

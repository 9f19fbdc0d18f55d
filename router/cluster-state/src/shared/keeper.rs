//! Renews this replica's lease, and reads the others'.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::{Inner, State, Word};
use crate::{
    id::{Owner, ReplicaId},
    store::{Lease, Renewal, ReplicaState},
};

/// The least time between renewals that somebody asked for.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a suspect may take to say that it lives.
const ASKED: Duration = Duration::from_secs(3);

/// Replicas that are asked at once, at most.
const ASKED_AT_ONCE: usize = 32;

/// Renews in time, and sooner when asked, for ever.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut ticks = interval(inner.settings.renew_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = ticks.tick() => {}
            () = inner.renew.notified() => tokio::time::sleep(PAUSE).await,
        }
        tokio::join!(renew(&inner), look_after_lost(&inner));
    }
}

/// A process that ended is known by its port, long before its lease ends.
async fn look_after_lost(inner: &Inner) {
    let lost = inner.lock().membership.take_lost();
    let look = async |lease| {
        let owner = owner(lease);
        if word(inner, &owner).await == Word::Ended {
            bury(inner, &owner.replica).await;
        }
    };
    stream::iter(lost)
        .for_each_concurrent(ASKED_AT_ONCE, look)
        .await;
}

async fn renew(inner: &Inner) {
    let lease = next_lease(inner);
    let began = Instant::now();
    match inner.in_time(inner.store.renew(&lease)).await {
        Ok(renewal) => {
            let suspects = take_in(inner, renewal, began);
            stream::iter(suspects)
                .for_each_concurrent(ASKED_AT_ONCE, |it| judge(inner, it))
                .await;
        }
        Err(error) => {
            let mut state = inner.lock();
            if !std::mem::replace(&mut state.away, true) {
                tracing::warn!(%error, "the routing store is away; known and local agents stay reachable");
                // Those who hold ask all replicas now.
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
    }
}

/// Gives the replicas that are suspected to be dead. The leases were read after
/// it `began`; those of replicas that were buried meanwhile are old.
fn take_in(inner: &Inner, mut renewal: Renewal, began: Instant) -> Vec<Lease> {
    let now = Instant::now();
    let mut state = inner.lock();
    let lost = !renewal.existed && state.registered;
    let was_away = std::mem::replace(&mut state.away, false);
    if lost {
        tracing::warn!(
            "the routing store has lost this replica's lease; all agents are announced again"
        );
    }
    if lost || (was_away && state.registered) {
        state.doubt(now);
        state.records.outdate_all(now);
        inner.retell(&mut state, now);
    }
    state.registered = true;
    let (before, certain) = (ids(&state), state.certain(now));
    let membership = &mut state.membership;
    let old = |lease: &Lease| membership.buried_since(&lease.replica, began);
    renewal.leases.retain(|lease| !old(lease));
    let suspects = membership.observe(renewal.leases, now);
    // One that has come, or come back, may hold what somebody waits for, and so
    // may those that are asked when there is doubt.
    let come = !ids(&state).is_subset(&before);
    if come || was_away || certain != state.certain(now) {
        state.records.wake_all();
    }
    state.records.sweep(now);
    suspects
}

fn ids(state: &State) -> BTreeSet<ReplicaId> {
    let leases = state.membership.leases();
    leases.map(|lease| lease.replica.clone()).collect()
}

/// Asks a suspect whether it lives. Its lease ends if it does not say so.
async fn judge(inner: &Inner, suspect: Lease) {
    let owner = owner(suspect);
    match word(inner, &owner).await {
        Word::Lives => {
            let mut state = inner.lock();
            state.membership.reached(&owner.replica);
            tracing::debug!(replica = %owner.replica, "a replica lives, but does not renew its lease");
        }
        Word::Ended | Word::Silence => bury(inner, &owner.replica).await,
    }
}

fn owner(lease: Lease) -> Owner {
    Owner {
        replica: lease.replica,
        url: lease.url,
    }
}

async fn word(inner: &Inner, owner: &Owner) -> Word {
    let asked = timeout(ASKED, inner.vouch.ask(owner)).await;
    asked.unwrap_or(Word::Silence)
}

/// The lease goes before any entry does, so that a replica that was only frozen
/// finds out that it has to announce its agents again.
async fn bury(inner: &Inner, dead: &ReplicaId) {
    tracing::info!(replica = %dead, "a replica has stopped renewing its lease, or broke off, and does not answer; it is taken for dead");
    {
        let mut state = inner.lock();
        state.membership.bury(dead, Instant::now());
        state.records.wake_all();
    }
    let ended = timeout(inner.settings.operation, inner.store.end_lease(dead)).await;
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "a dead replica's lease could not be removed");
    }
}

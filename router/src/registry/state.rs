//! One agent in the registry: what is idle, who waits, what is alive.

use std::sync::Arc;

use tokio::{sync::oneshot, time::Instant};

use super::{Presence, callers::Callers, queue::FairQueue};
use crate::{
    refusal::Refusal,
    search::Need,
    tunnel::{Offer, Slot, Tunnel},
};

/// One agent's idle tunnels and waiting requests.
#[derive(Debug, Default)]
pub(super) struct Agent {
    idle: Vec<Arc<Slot>>,
    queue: FairQueue<Waiter>,
    callers: Callers,
    alive: usize,
    last_seen: Option<Instant>,
}

/// A request that waits for a tunnel.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) need: Need,
    pub(super) sender: oneshot::Sender<Tunnel>,
}

/// Whether one more request may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) of_agent: usize,
    pub(super) of_caller: usize,
}

impl Agent {
    /// Reserves the tunnel that became idle last: it is the likeliest to live. Counted for the
    /// caller, if it may have one more.
    pub(super) fn take(&mut self, need: &Need) -> Option<Tunnel> {
        if !self.callers.may_take(&need.caller, self.alive) {
            return None;
        }
        for index in (0..self.idle.len()).rev() {
            if !self.idle[index].offer.satisfies(need) {
                continue;
            }
            if let Some(tunnel) = self.idle[index].reserve() {
                self.idle.remove(index);
                self.callers.took(&need.caller);
                return Some(tunnel);
            }
        }
        None
    }

    pub(super) fn keep(&mut self, slot: Arc<Slot>) {
        self.idle.push(slot);
    }

    pub(super) fn forget(&mut self, slot: &Arc<Slot>) -> bool {
        let found = self.idle.iter().position(|kept| Arc::ptr_eq(kept, slot));
        found.map(|index| self.idle.swap_remove(index)).is_some()
    }

    pub(super) fn wait(&mut self, need: Need, sender: oneshot::Sender<Tunnel>) {
        let caller = need.caller.clone();
        self.queue.push(&caller, Waiter { need, sender });
    }

    /// Whether one more request of this caller may wait.
    pub(super) fn has_room(&mut self, caller: &str, limits: Limits) -> bool {
        let room = |queue: &FairQueue<Waiter>| {
            queue.len() < limits.of_agent && queue.len_of(caller) < limits.of_caller
        };
        if !room(&self.queue) {
            self.queue.retain(|waiter| !waiter.sender.is_closed());
        }
        room(&self.queue)
    }

    /// Whose turn it is among those whom a tunnel with this offer would serve. The tunnel is counted
    /// for that caller.
    pub(super) fn next_waiter(&mut self, offer: &Offer) -> Option<Waiter> {
        loop {
            let may = |caller: &str| self.callers.may_take(caller, self.alive);
            let waiter = (self.queue).take(may, |waiter| offer.satisfies(&waiter.need))?;
            if !waiter.sender.is_closed() {
                self.callers.took(&waiter.need.caller);
                return Some(waiter);
            }
        }
    }

    /// A tunnel is not in use any more that was counted for a caller.
    pub(super) fn gave_back(&mut self, caller: &str) {
        self.callers.gave_back(caller);
    }

    /// Whose turn it is, with an idle tunnel for it: one that was kept for callers who use none may
    /// be had by others when tunnels are given back.
    pub(super) fn next_pair(&mut self) -> Option<(Waiter, Tunnel)> {
        if self.queue.len() == 0 {
            return None;
        }
        for index in (0..self.idle.len()).rev() {
            let offer = self.idle[index].offer.clone();
            let may = |caller: &str| self.callers.may_take(caller, self.alive);
            if !(self.queue).has(may, |waiter| offer.satisfies(&waiter.need)) {
                continue;
            }
            let Some(tunnel) = self.idle[index].reserve() else {
                continue;
            };
            if let Some(waiter) = self.next_waiter(&offer) {
                self.idle.remove(index);
                return Some((waiter, tunnel));
            }
            tunnel.unreserve();
        }
        None
    }

    /// Why none of the idle tunnels serves the call: what the best of them lacks. `None` without any.
    fn unfit(&self, need: &Need) -> Option<Refusal> {
        let mut lacks = self.idle.iter().map(|slot| slot.offer.unfit(need));
        let first = lacks.next()??;
        lacks.try_fold(first, |best, lack| Some(best.max(lack?)))
    }

    /// Why none of the tunnels serves the call, for want of a fit one or of a share.
    pub(super) fn refusal(&self, need: &Need) -> Option<Refusal> {
        let share = self.callers.used_up(&need.caller, self.alive);
        let share = share.map(|limit| Refusal::ShareUsed { limit });
        self.unfit(need).or(share)
    }

    /// Counts a tunnel; says whether it is the agent's first.
    pub(super) fn born(&mut self) -> bool {
        self.alive += 1;
        self.last_seen = None;
        self.alive == 1
    }

    /// Counts a tunnel out; says whether it was the agent's last.
    pub(super) fn died(&mut self, now: Instant) -> bool {
        self.alive = self.alive.saturating_sub(1);
        if self.alive == 0 {
            self.last_seen = Some(now);
        }
        self.alive == 0
    }

    pub(super) fn presence(&self) -> Presence {
        Presence {
            idle: self.idle.len(),
            alive: self.alive,
            last_seen: self.last_seen,
        }
    }
}

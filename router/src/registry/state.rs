//! One agent in the registry: idle tunnels, queued requests, counts. Pure state.

use std::sync::Arc;

use tokio::{sync::oneshot, time::Instant};

use super::{AgentTunnels, callers::Callers, queue::FairQueue};
use crate::{
    opening::Need,
    refusal::Refusal,
    tunnel::{Offer, Slot, Tunnel},
};

/// One agent's idle tunnels and waiting requests.
#[derive(Debug, Default)]
pub(super) struct Agent {
    idle: Vec<Arc<Slot>>,
    queue: FairQueue<Waiter>,
    callers: Callers,
    alive: usize,
    /// What the tunnels are good for, those in use among them, and how many there are of each.
    offers: Vec<(Offer, usize)>,
    last_seen: Option<Instant>,
}

/// A request that waits for a tunnel.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) need: Need,
    pub(super) sender: oneshot::Sender<Tunnel>,
}

/// Limits of an agent's queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) of_agent: usize,
    pub(super) of_caller: usize,
}

impl Agent {
    /// Reserves the tunnel that became idle last, which is the likeliest to be alive, if the caller may use one
    /// more, and counts it for the caller.
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

    pub(super) fn remove(&mut self, slot: &Arc<Slot>) -> bool {
        let found = self.idle.iter().position(|kept| Arc::ptr_eq(kept, slot));
        found.map(|index| self.idle.swap_remove(index)).is_some()
    }

    pub(super) fn wait(&mut self, need: Need, sender: oneshot::Sender<Tunnel>) {
        let caller = need.caller.clone();
        self.queue.push(&caller, Waiter { need, sender });
    }

    /// Queues a request again that got no tunnel after all, in the place that it had.
    pub(super) fn wait_on(&mut self, waiter: Waiter) {
        let caller = waiter.need.caller.clone();
        self.queue.restore(&caller, waiter);
    }

    /// Whether one more request of this caller may be queued.
    pub(super) fn has_room(&mut self, caller: &str, limits: Limits) -> bool {
        let room = |queue: &FairQueue<Waiter>| {
            queue.len() < limits.of_agent && queue.len_of(caller) < limits.of_caller
        };
        if !room(&self.queue) {
            self.queue.retain(|waiter| !waiter.sender.is_closed());
        }
        room(&self.queue)
    }

    /// The next request that a tunnel with this offer can serve. The tunnel is counted for its caller.
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

    /// A caller uses one tunnel less.
    pub(super) fn released(&mut self, caller: &str) {
        self.callers.released(caller);
    }

    /// The next request with an idle tunnel for it: a tunnel that was reserved for callers without one may become
    /// available to others when tunnels are released.
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

    /// What the best of the tunnels lacks for the call, those in use among them: the agent opens another one for each.
    /// `None` if one lacks nothing, or without any.
    fn unfit(&self, need: &Need) -> Option<Refusal> {
        let mut lacks = self.offers.iter().map(|(offer, _)| offer.unfit(need));
        let first = lacks.next()??;
        lacks.try_fold(first, |best, lack| Some(best.max(lack?)))
    }

    /// Why none of the tunnels can serve the call: it lacks a capability, or the caller's share is used up.
    pub(super) fn refusal(&self, need: &Need) -> Option<Refusal> {
        let share = self.callers.used_up(&need.caller, self.alive);
        let share = share.map(|limit| Refusal::ShareUsed { limit });
        self.unfit(need).or(share)
    }

    /// Counts a tunnel; returns whether it is the agent's first.
    pub(super) fn tunnel_opened(&mut self, offer: &Offer) -> bool {
        self.alive += 1;
        match self.offers.iter_mut().find(|(it, _)| it.is_like(offer)) {
            Some((_, count)) => *count += 1,
            None => self.offers.push((offer.clone(), 1)),
        }
        self.last_seen = None;
        self.alive == 1
    }

    /// Discounts a tunnel; returns whether it was the agent's last.
    pub(super) fn tunnel_ended(&mut self, offer: &Offer, now: Instant) -> bool {
        self.alive = self.alive.saturating_sub(1);
        if let Some(index) = self.offers.iter().position(|(it, _)| it.is_like(offer)) {
            self.offers[index].1 -= 1;
            if self.offers[index].1 == 0 {
                self.offers.swap_remove(index);
            }
        }
        if self.alive == 0 {
            self.last_seen = Some(now);
        }
        self.alive == 0
    }

    pub(super) fn tunnels(&self) -> AgentTunnels {
        AgentTunnels {
            idle: self.idle.len(),
            alive: self.alive,
            last_seen: self.last_seen,
        }
    }
}

//! How a connection comes to its end: at its age, when the replica drains, and when no valid token is left on it.
//!
//! GOAWAY comes first. In the same step all idle tunnels but one of each agent end, so that the agent opens others
//! elsewhere at once; the last one ends when it has, and then calls in progress have their time.

use std::time::Duration;

use control_plane::TokenHash;
use router::AgentId;
use tokio::time::Instant;

use super::{
    super::{draining, idle_tunnel::IdleTunnel},
    Connection,
    work::Work,
};
use crate::tracker::End;

/// How long the other end is given to read why its connection is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The phase of a connection. Each has a timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// No valid token was shown yet; the timer ends the wait for one.
    Unauthenticated,
    /// In use; the timer is its age.
    Active,
    /// The replica drains; the timer is its turn for GOAWAY.
    Queued,
    /// GOAWAY was sent; each agent's last idle tunnel ends when the agent has others.
    Moving,
    /// No tunnel is idle; the timer is the time that calls in progress have.
    Finishing,
}

impl Connection {
    /// Waits for the connection's turn to get GOAWAY from a replica that drains.
    pub(super) fn queue_goaway(&mut self) {
        let unused = self.callers.is_empty() && self.runners.in_progress == 0;
        if unused && self.dialled.is_none() {
            return self.close();
        }
        self.phase = Phase::Queued;
        self.set_timer(self.gateway.drain_turn());
    }

    /// Asks the agents to leave. Their idle tunnels end in order, so that they open others at once, elsewhere; one
    /// of each is kept for calls until then.
    pub(super) fn send_goaway(&mut self, drains: bool) {
        self.origin.ends(End::LEFT);
        if let Some(open) = &self.open {
            open.leaves();
        }
        self.http2.graceful_shutdown();
        self.streams_end.cancel();
        let (ends, kept) = draining::choose(self.idle.iter().map(IdleTunnel::agent));
        for (idle, _) in self.idle.iter_mut().zip(ends).filter(|(_, end)| *end) {
            idle.retire();
        }
        self.phase = Phase::Moving;
        self.moving = kept.len();
        // Each agent's move has a deadline of its own, which comes first.
        self.set_timer(2 * self.gateway.settings.drain.last_tunnel_timeout);
        for tunnel in kept {
            let moved = draining::moved(self.gateway.clone(), tunnel, drains);
            self.work.push(Work::Move(tunnel.agent, Box::pin(moved)));
        }
        if self.moving == 0 {
            self.finish();
        }
    }

    /// Ends the idle tunnels of an agent that has others.
    pub(super) fn agent_moved(&mut self, agent: AgentId) {
        for idle in self.idle.iter_mut().filter(|idle| idle.agent() == agent) {
            idle.retire();
        }
        self.moving = self.moving.saturating_sub(1);
        if self.moving == 0 && self.phase == Phase::Moving {
            self.finish();
        }
    }

    /// Ends all idle tunnels, and gives calls in progress their time.
    pub(super) fn finish(&mut self) {
        for idle in &mut self.idle {
            idle.retire();
        }
        self.phase = Phase::Finishing;
        self.holds_tunnels = None;
        self.set_timer(self.gateway.settings.max_connection_age / 2);
    }

    pub(super) fn set_timer(&mut self, time: Duration) {
        self.timer.as_mut().reset(Instant::now() + time);
    }

    /// Asks the control plane again about all tokens, now that it has changed.
    pub(super) fn reauthenticate(&mut self) {
        if self.reauthenticating.is_some() {
            self.reauthenticating = Some(true);
            return;
        }
        self.reauthenticating = Some(false);
        let (gateway, tokens) = (self.gateway.clone(), self.callers.tokens());
        let from = self.origin.clone();
        self.work.push(Work::Reauthenticate(Box::pin(async move {
            gateway.authenticator.revoked(tokens, &from).await
        })));
    }

    pub(super) fn reauthenticated(&mut self, revoked: &[TokenHash]) {
        for token in revoked {
            self.revoke(token);
        }
        if self.reauthenticating.take() == Some(true) {
            self.reauthenticate();
        }
    }

    /// Ends everything of a caller whose token is not valid any more, and nothing of others. The connection is
    /// closed when no caller is left.
    pub(super) fn revoke(&mut self, token: &TokenHash) {
        let Some(caller) = self.callers.revoke(token) else {
            return;
        };
        tracing::info!(
            agent.id = caller.agent.0,
            "agent token is no longer valid; ending the agent's tunnels and calls"
        );
        if self.callers.is_empty() {
            self.close();
        }
    }

    /// Closes the connection: calls in progress are cut as soon as the other end has had time to read why.
    pub(super) fn close(&mut self) {
        self.send_goaway(false);
        self.finish();
        self.set_timer(CLOSE_TIMEOUT);
    }
}

//! How a connection comes to its end: when it is old, when the replica drains, and when nobody on it is known
//! any more.

use std::time::Duration;

use router::AgentId;
use tokio::time::Instant;

use super::{
    super::{idle::Idle, leaving},
    Connection,
    work::Work,
};
use control_plane::TokenHash;

/// How long an agent is given to hear that its token is good no more.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Where the connection stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nobody has shown a good token yet; the timer fires when that takes too long.
    Unknown,
    /// It is used; the timer fires when it is old.
    Used,
    /// The replica drains; the timer fires when its turn comes.
    InLine,
    /// The agent was asked to leave; what is idle goes when it is elsewhere.
    Moving,
    /// Nothing is idle; the timer fires when calls in progress have had their time.
    Finishing,
}

impl Connection {
    /// Waits for the connection's turn to leave a replica that drains.
    pub(super) fn queue(&mut self) {
        if self.callers.is_empty() && self.dialled.is_none() {
            return self.end();
        }
        self.phase = Phase::InLine;
        let turn = Instant::now() + self.api.turn();
        self.timer.as_mut().reset(turn);
    }

    /// Asks the agent to leave. Its idle tunnels end in order, so that it opens
    /// others at once, elsewhere; one stays for calls until then.
    pub(super) fn leave(&mut self, drains: bool) {
        self.http2.graceful_shutdown();
        self.leaving.cancel();
        let (ends, staying) = leaving::choose(self.idle.iter().map(Idle::agent));
        for (idle, _) in self.idle.iter_mut().zip(ends).filter(|(_, end)| *end) {
            idle.retire();
        }
        self.phase = Phase::Moving;
        self.moving = staying.len();
        // Whoever watches an agent's move has a deadline of its own.
        self.postpone(2 * self.api.settings.leaving.elsewhere);
        for staying in staying {
            let moved = leaving::moved(self.api.clone(), staying, drains);
            self.work.push(Work::Move(staying.agent, Box::pin(moved)));
        }
        if self.moving == 0 {
            self.finish();
        }
    }

    /// Ends what is idle of an agent that is elsewhere.
    pub(super) fn moved(&mut self, agent: AgentId) {
        for idle in self.idle.iter_mut().filter(|idle| idle.agent() == agent) {
            idle.retire();
        }
        self.moving = self.moving.saturating_sub(1);
        if self.moving == 0 && self.phase == Phase::Moving {
            self.finish();
        }
    }

    /// Ends what is idle, and gives calls in progress their time.
    pub(super) fn finish(&mut self) {
        for idle in &mut self.idle {
            idle.retire();
        }
        self.phase = Phase::Finishing;
        self.staying = None;
        self.postpone(self.api.settings.max_connection_age / 2);
    }

    pub(super) fn postpone(&mut self, time: Duration) {
        self.timer.as_mut().reset(Instant::now() + time);
    }

    /// Asks again who may be here, now that the control plane has changed.
    pub(super) fn recheck(&mut self) {
        if self.rechecking.is_some() {
            self.rechecking = Some(true);
            return;
        }
        self.rechecking = Some(false);
        let (api, shown, from) = (
            self.api.clone(),
            self.callers.shown(),
            self.remote_addr.ip(),
        );
        self.work.push(Work::Recheck(Box::pin(async move {
            api.authenticator.revoked(shown, from).await
        })));
    }

    pub(super) fn rechecked(&mut self, revoked: &[TokenHash]) {
        for token in revoked {
            self.revoke(token);
        }
        if self.rechecking.take() == Some(true) {
            self.recheck();
        }
    }

    /// Lets nobody stay whose token is good no more: what they have is ended, and nothing of others. The
    /// connection ends when nobody is left.
    pub(super) fn revoke(&mut self, token: &TokenHash) {
        let Some(caller) = self.callers.revoke(token) else {
            return;
        };
        tracing::info!(
            agent.id = caller.agent.0,
            "the token of a connected agent was revoked; its calls are ended"
        );
        if self.callers.is_empty() {
            self.end();
        }
    }

    /// Ends the connection: calls in progress are cut as soon as the other end was told.
    pub(super) fn end(&mut self) {
        self.leave(false);
        self.finish();
        self.postpone(LAST_WORD);
    }
}

//! Calls of runners, and of agents that join, which have no agent's token: what they may have on a connection, and
//! what they make of it.

use std::{sync::Arc, time::Duration};

use runtime::{backoff::jittered, grpc::AUTHENTICATION_TIMEOUT};
use tracing::Instrument as _;

use super::{
    super::service::{Method, RunnerCall, ServedRunner},
    Connection,
    lifecycle::Phase,
    work::Work,
};

/// How long a connection waits for the answer to its first call, which GitLab holds until there is a job.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);
/// Calls with tokens that are not good which a connection without a good one may make.
const BAD_CALLS_MAX: u32 = 8;

/// What runners do on a connection.
#[derive(Debug, Default)]
pub(super) struct Runners {
    pub(super) in_progress: usize,
    bad: u32,
}

impl Connection {
    pub(super) fn serve_runner(
        &mut self,
        method: &Arc<Method>,
        serve: &(dyn Fn(RunnerCall) -> ServedRunner + Send + Sync),
        call: RunnerCall,
    ) {
        tracing::debug!(method = method.name(), "a call without an agent's token");
        self.runners.in_progress += 1;
        if self.phase == Phase::Unauthenticated && self.runners.bad < BAD_CALLS_MAX {
            self.set_timer(ANSWER_TIMEOUT);
        }
        let served = serve(call).instrument(self.span.clone());
        self.work.push(Work::RunnerCall(served));
    }

    /// A runner's call has ended; `good` says whether its token was.
    pub(super) fn runner_served(&mut self, good: bool) {
        self.runners.in_progress = self.runners.in_progress.saturating_sub(1);
        if self.phase != Phase::Unauthenticated {
            return;
        }
        if good {
            self.phase = Phase::Active;
            self.set_timer(jittered(self.gateway.settings.max_connection_age));
            return;
        }
        self.runners.bad += 1;
        if self.runners.bad < BAD_CALLS_MAX {
            self.set_timer(AUTHENTICATION_TIMEOUT);
        } else {
            self.close();
        }
    }
}

//! The task that keeps the configurations of one repository up to date.

use std::{sync::Arc, time::Duration};

use runtime::backoff::{Backoff, jittered};
use tokio::time::Instant;

use super::{
    super::GitLab,
    PollSharing,
    refresh::Refresher,
    subscribers::{Subscribers, Trigger},
};
use crate::gitaly::GitalyError;

/// Pauses after failures, as GitLab's kas makes them.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(60), 2.0);

/// Polls as long as there are agents.
pub(super) async fn poll(
    subscribers: Arc<Subscribers>,
    gitlab: GitLab,
    sharing: Option<PollSharing>,
) {
    let period = gitlab.0.repositories.settings.period;
    let project = subscribers.project;
    let mut refresher = Refresher::new(gitlab.clone(), subscribers.clone(), sharing);
    let (mut backoff, mut failing) = (BACKOFF, false);
    let mut next_poll = Instant::now();
    loop {
        let trigger = subscribers.triggered(next_poll).await;
        // Whoever subscribes while nothing can be read is served by the next attempt.
        if failing && trigger <= Trigger::Posted {
            continue;
        }
        let refreshed = refresher.refresh(trigger).await;
        if gitlab.0.repositories.ended(&subscribers) {
            return refresher.leave().await;
        }
        match refreshed {
            Ok(false) => {}
            Ok(true) => {
                log_recovery(failing, project);
                failing = false;
                backoff.reset();
                next_poll = Instant::now() + jittered(period);
            }
            Err(error) => {
                log_failure(failing, &error, project);
                failing = true;
                next_poll = Instant::now() + backoff.next(rand::random()).min(period);
            }
        }
    }
}

/// Logs a failure once at level ERROR, until polling succeeds again.
fn log_failure(failing: bool, error: &GitalyError, project_id: i64) {
    if failing {
        tracing::debug!(%error, project_id, "configuration project still cannot be read");
    } else {
        tracing::error!(%error, project_id, "configuration project cannot be read; its agents keep their last configuration");
    }
}

fn log_recovery(failing: bool, project_id: i64) {
    if failing {
        tracing::info!(project_id, "configuration project can be read again");
    }
}

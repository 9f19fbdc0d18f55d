//! Whether the callers of open sessions may still have them: asked when the control plane has changed, and from time
//! to time, since one that is asked over a network does not tell.

use std::{sync::Arc, time::Duration};

use control_plane::Access;
use futures_util::{StreamExt, stream};
use http::StatusCode;
use proto::agent::kubernetes_api::rpc::{ExtraKeyVal, ImpersonationConfig};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{EndReason, Ground, Open, Sessions};
use crate::failure::Failure;

/// How often all are asked about though nothing is known to have changed. Answers that the control plane remembers
/// count then too.
const RECHECK_INTERVAL: Duration = Duration::from_secs(60);
/// Sessions that are asked about at the same time.
const AT_ONCE: usize = 16;

impl Sessions {
    /// Ends the sessions of those who may not have them any more, until `stop`; `revision` is the control plane's.
    pub async fn recheck(self, mut revision: watch::Receiver<u64>, stop: CancellationToken) {
        let mut ticks = interval(RECHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = revision.changed() => self.all(),
                () = self.0.late.notified() => self.late(),
                _ = ticks.tick() => self.all(),
            };
            let checked = stream::iter(asked).for_each_concurrent(AT_ONCE, |open| {
                let sessions = self.clone();
                async move { sessions.check(&open).await }
            });
            stop.run_until_cancelled(checked).await;
        }
    }

    /// All sessions; those that are opened on an older decision are late from now on.
    fn all(&self) -> Vec<Arc<Open>> {
        let mut list = self.list();
        list.checked = Some(Instant::now());
        list.late.clear();
        let open = list.open.values();
        open.filter(|it| it.ground.is_some()).cloned().collect()
    }

    fn late(&self) -> Vec<Arc<Open>> {
        std::mem::take(&mut self.list().late)
    }

    async fn check(&self, open: &Open) {
        let Some(ground) = &open.ground else {
            return;
        };
        let refused = match ground.ask().await {
            Ok(()) => return,
            // Nobody can say: that is no refusal.
            Err(failure) if failure.retry_after.is_some() => return,
            Err(failure) => failure,
        };
        let reason = refused.message.clone();
        if self.end_with(open, EndReason::Revoked, refused) {
            let info = &open.info;
            tracing::info!(
                session = %info.id,
                kind = info.kind.as_str(),
                who = &*info.caller,
                agent.id = info.agent.0,
                request_id = info.request_id,
                reason,
                "ended a session whose caller may not have it any more"
            );
        }
    }
}

impl Ground {
    /// Asks whether the session may go on.
    ///
    /// # Errors
    /// The refusal; a retryable one when the control plane is unavailable for longer than its grace for outages.
    pub(crate) async fn ask(&self) -> Result<(), Failure> {
        let access = self.authority.ask().await?;
        if self.holds(&access) {
            return Ok(());
        }
        let words = "Forbidden: the access on which the session was opened has changed";
        Err(Failure::new(StatusCode::FORBIDDEN, words))
    }

    /// Whether all that the session acts with is allowed still. More may be allowed meanwhile.
    fn holds(&self, now: &Access) -> bool {
        let goes_on = match (&self.acts_as, &now.impersonation) {
            (None, None) => true,
            (Some(opened), Some(now)) => is_part_of(opened, now),
            (None, Some(_)) | (Some(_), None) => false,
        };
        goes_on && self.identity == now.identity
    }
}

fn is_part_of(opened: &ImpersonationConfig, now: &ImpersonationConfig) -> bool {
    let has_extra = |it: &ExtraKeyVal| {
        let mut same = now.extra.iter().filter(|other| other.key == it.key);
        let has = |value| same.clone().any(|other| other.val.contains(value));
        it.val.iter().all(has) && same.next().is_some()
    };
    opened.username == now.username
        && opened.uid == now.uid
        && opened.groups.iter().all(|it| now.groups.contains(it))
        && opened.extra.iter().all(has_extra)
}

//! Agents that are refused, as events: each replica tells what it has refused itself.

use std::{sync::Arc, time::Duration};

use control_plane::ControlPlane;
use proto::events::rpc::Batch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    Events,
    fleet::{MAX_CHANGES_PER_BATCH, about},
};
use crate::tracker::Tracker;

/// How often it is looked what was refused.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Tells what is refused, until `stop`.
pub(super) async fn watch(
    events: Events,
    tracker: Arc<Tracker>,
    control_plane: Arc<dyn ControlPlane>,
    stop: CancellationToken,
) {
    tracker.refusals().want();
    let replica = tracker.replica().to_string();
    let mut ticks = interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let refused = tracker.refusals().take(Instant::now());
        for refused in refused.chunks(MAX_CHANGES_PER_BATCH) {
            let mut batch = Batch::default();
            for refusal in refused {
                let mut told = about("agent.refused", Some(refusal.agent), &*control_plane).await;
                told.reason.clone_from(&refusal.reason);
                told.count = refusal.count;
                told.remote_addr.clone_from(&refusal.remote_addr);
                told.replica.clone_from(&replica);
                batch.changes.push(told);
            }
            events.publish(batch).await;
        }
    }
}

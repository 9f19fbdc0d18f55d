//! When a call that broke is made again. Pure.

use std::time::Duration;

use super::exchange::Interrupted;

/// How often a call is made again.
pub(super) const MAX_REPLAYS: u32 = 5;
/// The pause before the second replay; later ones are longer. What cuts one connection of an
/// agent cuts its others too, which may take a moment to show.
const REPLAY_BACKOFF: Duration = Duration::from_millis(25);

/// Whether a call is made again that failed like this, and was made again so often. What the cluster's API has not taken
/// its agent has tried several times: it is tried once more, since another of the agent's pods may reach the API. An
/// answer that has `begun` may break off at the agent too.
pub(super) fn is_allowed(error: &Interrupted, (safe, begun): (bool, bool), replays: u32) -> bool {
    if error.is_not_taken() {
        return replays == 0;
    }
    let harmless = safe || error.is_before_the_agent();
    let mendable = error.is_about_the_path() || (begun && error.is_mendable());
    harmless && mendable && replays < MAX_REPLAYS
}

/// How long to wait before a call is made again that was made again so often: first not at all.
pub(super) fn pause(replays: u32) -> Duration {
    REPLAY_BACKOFF * ((1 << replays.min(MAX_REPLAYS)) - 1)
}

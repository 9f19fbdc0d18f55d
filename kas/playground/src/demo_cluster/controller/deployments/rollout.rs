//! How far a rollout may go at a time.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::super::kinds;
use super::super::super::object::{number, text};
use super::super::super::patch::Format;
use super::super::super::store::{Key, Store};
use super::super::super::verbs::{self, Part, WriteContext};
use super::super::{Step, events};

/// The sizes that the sets get next.
#[derive(Debug)]
pub(super) struct Rollout {
    sizes: Vec<(Arc<Value>, i64)>,
}

impl Rollout {
    /// Decides on the next step from the old sets and the current one.
    pub(super) fn new(deployment: &Value, current: &Arc<Value>, old: &[Arc<Value>]) -> Self {
        let wanted = number(deployment, "/spec/replicas");
        let size = |set: &Value| number(set, "/spec/replicas");
        let total = size(current) + old.iter().map(|set| size(set)).sum::<i64>();
        let recreate = text(deployment, "/spec/strategy/type") == "Recreate";
        let (surge, missing) = if recreate {
            (0, wanted)
        } else {
            bounds(deployment, wanted)
        };
        let room = (wanted + surge - total).max(0);
        let grown = if size(current) > wanted {
            wanted
        } else {
            wanted.min(size(current) + room)
        };
        let unready = size(current) - number(current, "/status/availableReplicas");
        let mut spare = (total - (wanted - missing) - unready.max(0)).max(0);
        let mut sizes = vec![(Arc::clone(current), grown)];
        for set in old {
            let gone = size(set).min(spare);
            spare -= gone;
            sizes.push((Arc::clone(set), size(set) - gone));
        }
        Self { sizes }
    }

    /// Gives the sets their sizes.
    pub(super) fn apply(self, store: &mut Store, deployment: &Value, now: Timestamp) -> Step {
        for (set, size) in self.sizes {
            let before = number(&set, "/spec/replicas");
            if before == size {
                continue;
            }
            let key = Key::of(kinds::named("replicasets"), &set);
            let scale = json!({"spec": {"replicas": size}});
            let merge = Format::Merge;
            verbs::patch(
                store,
                &key,
                Part::Main,
                merge,
                &scale,
                WriteContext::at(now),
            )?;
            let way = if size > before { "up" } else { "down" };
            let message = format!(
                "Scaled {way} replica set {} from {before} to {size}",
                key.name
            );
            events::record(store, deployment, "ScalingReplicaSet", &message, now);
        }
        Ok(())
    }
}

/// How many pods more and fewer than wanted a rollout may have.
pub(super) fn bounds(deployment: &Value, wanted: i64) -> (i64, i64) {
    let part = |field: &str, up: bool| {
        let value = &deployment["spec"]["strategy"]["rollingUpdate"][field];
        let percent = value.as_str().and_then(|text| text.strip_suffix('%'));
        let percent = percent.and_then(|text| text.parse::<i64>().ok());
        let share = percent.map(|percent| wanted.saturating_mul(percent.clamp(0, 1000)));
        let rounded = share.map(|share| if up { (share + 99) / 100 } else { share / 100 });
        rounded.or(value.as_i64()).unwrap_or(0).max(0)
    };
    let (surge, missing) = (part("maxSurge", true), part("maxUnavailable", false));
    if surge == 0 && missing == 0 {
        return (0, 1);
    }
    (surge, missing.min(wanted))
}

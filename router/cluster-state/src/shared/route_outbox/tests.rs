//! What is written, and when; and that the store holds the truth in the end.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const TIMING: Timing = Timing {
    debounce: Duration::from_secs(1),
    refresh_interval: Duration::from_secs(1000),
};
const A: AgentId = AgentId(1);

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_comes_back_soon_writes_nothing() {
    let start = Instant::now();
    let mut routes = RouteOutbox::new(TIMING);
    routes.announce(A, start);
    let changes = routes.take(10, start, 0);
    routes.written(&changes, start);

    routes.retract(A, start, 5);
    routes.announce(A, start + seconds(1) / 2);

    assert_eq!(changes, [RouteChange::Announce(A)]);
    assert_eq!(routes.take(10, start + seconds(10), 0), []);
    assert_eq!(routes.pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_has_gone_is_retracted_with_the_time_it_left() {
    let start = Instant::now();
    let mut routes = RouteOutbox::new(TIMING);
    routes.announce(A, start);
    let changes = routes.take(10, start, 0);
    routes.written(&changes, start);

    routes.retract(A, start, 5);

    assert_eq!(routes.take(10, start, 9), [], "not yet");
    assert_eq!(routes.next_due(start), Some(start + seconds(1)));
    let changes = routes.take(10, start + seconds(1), 9);
    assert_eq!(changes, [RouteChange::Retract(A, 5)]);
    routes.written(&changes, start + seconds(1));
    let forgotten = start + seconds(1) + RETRACTION_TTL;
    assert_eq!(routes.next_due(start), Some(forgotten));
    assert_eq!(routes.take(10, forgotten, 9), []);
    assert_eq!(routes.next_due(forgotten), None);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_lost_a_retraction_gets_it_again() {
    let start = Instant::now();
    let mut routes = RouteOutbox::new(TIMING);
    routes.announce(A, start);
    let changes = routes.take(10, start, 0);
    routes.written(&changes, start);
    routes.retract(A, start, 5);
    let now = start + seconds(1);
    let changes = routes.take(10, now, 0);
    routes.written(&changes, now);

    routes.write_all_again(now + seconds(3));

    let changes = routes.take(10, now + seconds(3), 0);
    assert_eq!(changes, [RouteChange::Retract(A, 5)]);
}

#[tokio::test(start_paused = true)]
async fn entries_are_written_again_before_they_expire_however_the_agent_comes_and_goes() {
    let start = Instant::now();
    let mut routes = RouteOutbox::new(TIMING);
    routes.announce(A, start);
    let changes = routes.take(10, start, 0);
    routes.written(&changes, start);
    for n in 1..1100 {
        let now = start + seconds(n);
        routes.retract(A, now, 0);
        routes.announce(A, now);
        let changes = routes.take(10, now, 0);
        routes.written(&changes, now);
        if changes == [RouteChange::Announce(A)] {
            return;
        }
    }
    panic!("it was never written again");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_lost_everything_gets_what_is_held() {
    let start = Instant::now();
    let mut routes = RouteOutbox::new(TIMING);
    for id in 1..=3 {
        routes.announce(AgentId(id), start);
    }
    let changes = routes.take(10, start, 0);
    routes.written(&changes, start);
    routes.retract(A, start, 0);

    routes.write_all_again(start);

    let changes = routes.take(10, start, 0);
    assert_eq!(
        changes,
        [
            RouteChange::Announce(AgentId(2)),
            RouteChange::Announce(AgentId(3))
        ]
    );
}

#[derive(Debug, Clone)]
enum Step {
    Announce(i64),
    Retract(i64),
    Write {
        taken: usize,
        applied: bool,
        confirmed: bool,
    },
    Lose,
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..4i64).prop_map(Step::Announce),
        (0..4i64).prop_map(Step::Retract),
        (0..4usize, any::<bool>(), any::<bool>()).prop_map(|(taken, applied, confirmed)| {
            // What is confirmed was applied; what is not may have been.
            Step::Write {
                taken,
                applied: applied || confirmed,
                confirmed,
            }
        }),
        Just(Step::Lose),
        (0..3000u64).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 0..60)
}

/// Applies changes as a store would.
fn apply(store: &mut BTreeMap<AgentId, bool>, changes: &[RouteChange]) {
    for change in changes {
        match change {
            RouteChange::Announce(agent) => store.insert(*agent, true),
            RouteChange::Retract(agent, _) => store.insert(*agent, false),
            RouteChange::RemoveDead(..) => None,
        };
    }
}

proptest! {
    #[test]
    fn in_the_end_the_store_holds_the_truth(steps in steps()) {
        let mut now = Instant::now();
        let mut routes = RouteOutbox::new(TIMING);
        let mut store = BTreeMap::new();
        let mut held = BTreeMap::new();

        for step in steps {
            match step {
                Step::Announce(id) => {
                    held.insert(AgentId(id), true);
                    routes.announce(AgentId(id), now);
                }
                Step::Retract(id) => {
                    held.insert(AgentId(id), false);
                    routes.retract(AgentId(id), now, 0);
                }
                Step::Write { taken, applied, confirmed } => {
                    let changes = routes.take(taken, now, 0);
                    if applied {
                        apply(&mut store, &changes);
                    }
                    if confirmed {
                        routes.written(&changes, now);
                    } else {
                        routes.failed(&changes, now);
                    }
                }
                Step::Lose => {
                    store.clear();
                    routes.write_all_again(now);
                }
                Step::Pass(millis) => now += Duration::from_millis(millis),
            }
        }
        now += TIMING.debounce;
        let changes = routes.take(usize::MAX, now, 0);
        apply(&mut store, &changes);
        routes.written(&changes, now);

        let owned = |agents: &BTreeMap<AgentId, bool>| {
            agents.iter().filter(|(_, held)| **held).map(|(id, _)| *id).collect::<Vec<_>>()
        };
        prop_assert_eq!(owned(&store), owned(&held));
        prop_assert_eq!(routes.pending(), 0);
        let quiet = routes.next_due(now).is_none_or(|due| due > now);
        prop_assert!(quiet, "nothing more to write");
    }
}

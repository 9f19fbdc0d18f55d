//! What is told, and when; and that in the end the store knows the truth.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const PACE: Pace = Pace {
    debounce: Duration::from_secs(1),
    refresh: Duration::from_secs(1000),
};
const A: AgentId = AgentId(1);

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_comes_back_soon_writes_nothing() {
    let start = Instant::now();
    let mut ledger = Ledger::new(PACE);
    ledger.announce(A, start);
    let told = ledger.take(10, start, 0);
    ledger.written(&told, start);

    ledger.retract(A, start, 5);
    ledger.announce(A, start + seconds(1) / 2);

    assert_eq!(told, [Change::Own(A)]);
    assert_eq!(ledger.take(10, start + seconds(10), 0), []);
    assert_eq!(ledger.pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_has_gone_is_retracted_with_the_time_it_left() {
    let start = Instant::now();
    let mut ledger = Ledger::new(PACE);
    ledger.announce(A, start);
    let told = ledger.take(10, start, 0);
    ledger.written(&told, start);

    ledger.retract(A, start, 5);

    assert_eq!(ledger.take(10, start, 9), [], "not yet");
    assert_eq!(ledger.next_due(start), Some(start + seconds(1)));
    let told = ledger.take(10, start + seconds(1), 9);
    assert_eq!(told, [Change::Disown(A, 5)]);
    ledger.written(&told, start + seconds(1));
    let forgotten = start + seconds(1) + MINDFUL;
    assert_eq!(ledger.next_due(start), Some(forgotten));
    assert_eq!(ledger.take(10, forgotten, 9), []);
    assert_eq!(ledger.next_due(forgotten), None);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_forgot_that_an_agent_has_gone_is_told_again() {
    let start = Instant::now();
    let mut ledger = Ledger::new(PACE);
    ledger.announce(A, start);
    let told = ledger.take(10, start, 0);
    ledger.written(&told, start);
    ledger.retract(A, start, 5);
    let now = start + seconds(1);
    let told = ledger.take(10, now, 0);
    ledger.written(&told, now);

    ledger.retell(now + seconds(3));

    let told = ledger.take(10, now + seconds(3), 0);
    assert_eq!(told, [Change::Disown(A, 5)]);
}

#[tokio::test(start_paused = true)]
async fn entries_are_written_again_before_they_expire_however_the_agent_comes_and_goes() {
    let start = Instant::now();
    let mut ledger = Ledger::new(PACE);
    ledger.announce(A, start);
    let told = ledger.take(10, start, 0);
    ledger.written(&told, start);
    for n in 1..1100 {
        let now = start + seconds(n);
        ledger.retract(A, now, 0);
        ledger.announce(A, now);
        let told = ledger.take(10, now, 0);
        ledger.written(&told, now);
        if told == [Change::Own(A)] {
            return;
        }
    }
    panic!("it was never written again");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_lost_everything_is_told_what_is_held() {
    let start = Instant::now();
    let mut ledger = Ledger::new(PACE);
    for id in 1..=3 {
        ledger.announce(AgentId(id), start);
    }
    let told = ledger.take(10, start, 0);
    ledger.written(&told, start);
    ledger.retract(A, start, 0);

    ledger.retell(start);

    let told = ledger.take(10, start, 0);
    assert_eq!(told, [Change::Own(AgentId(2)), Change::Own(AgentId(3))]);
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
fn apply(store: &mut BTreeMap<AgentId, bool>, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Own(agent) => store.insert(*agent, true),
            Change::Disown(agent, _) => store.insert(*agent, false),
            Change::Bury(..) => None,
        };
    }
}

proptest! {
    #[test]
    fn in_the_end_the_store_knows_the_truth(steps in steps()) {
        let mut now = Instant::now();
        let mut ledger = Ledger::new(PACE);
        let mut store = BTreeMap::new();
        let mut held = BTreeMap::new();

        for step in steps {
            match step {
                Step::Announce(id) => {
                    held.insert(AgentId(id), true);
                    ledger.announce(AgentId(id), now);
                }
                Step::Retract(id) => {
                    held.insert(AgentId(id), false);
                    ledger.retract(AgentId(id), now, 0);
                }
                Step::Write { taken, applied, confirmed } => {
                    let changes = ledger.take(taken, now, 0);
                    if applied {
                        apply(&mut store, &changes);
                    }
                    if confirmed {
                        ledger.written(&changes, now);
                    } else {
                        ledger.failed(&changes, now);
                    }
                }
                Step::Lose => {
                    store.clear();
                    ledger.retell(now);
                }
                Step::Pass(millis) => now += Duration::from_millis(millis),
            }
        }
        now += PACE.debounce;
        let changes = ledger.take(usize::MAX, now, 0);
        apply(&mut store, &changes);
        ledger.written(&changes, now);

        let owned = |agents: &BTreeMap<AgentId, bool>| {
            agents.iter().filter(|(_, held)| **held).map(|(id, _)| *id).collect::<Vec<_>>()
        };
        prop_assert_eq!(owned(&store), owned(&held));
        prop_assert_eq!(ledger.pending(), 0);
        let quiet = ledger.next_due(now).is_none_or(|due| due > now);
        prop_assert!(quiet, "nothing more to say");
    }
}

//! What is told, and when; and that in the end the store knows the truth.

use proptest::prelude::*;

use super::*;

const DELAY: Duration = Duration::from_secs(1);
const A: AgentId = AgentId(1);

fn presence(text: &str) -> Option<Presence> {
    Some(Presence {
        group: 1,
        text: text.into(),
    })
}

#[tokio::test(start_paused = true)]
async fn what_comes_at_once_is_told_once_and_what_returns_soon_not_at_all() {
    let start = Instant::now();
    let mut roll = Roll::new(DELAY);
    roll.tell(A, presence("one"), start);
    roll.tell(A, presence("two"), start + DELAY / 2);
    assert_eq!(roll.take(10, 10, start), [], "not yet");

    let told = roll.take(10, 10, start + DELAY);
    roll.written(&told);

    let first = Telling {
        agent: A,
        new: presence("two"),
        old: Before::Known(None),
    };
    assert_eq!(told, [first]);
    roll.tell(A, None, start + DELAY);
    roll.tell(A, presence("two"), start + DELAY);
    assert_eq!(roll.next_due(), None);
}

#[tokio::test(start_paused = true)]
async fn those_that_come_one_after_the_other_are_told_together() {
    let start = Instant::now();
    let mut roll = Roll::new(DELAY);
    for (number, id) in (0..10).zip(1..) {
        roll.tell(AgentId(id), presence("here"), start + DELAY * number / 20);
    }

    let writes = [1, 2].map(|number| roll.take(10, 10, start + DELAY * number).len());

    assert_eq!(writes, [6, 4], "of ten within half the delay");
}

#[tokio::test(start_paused = true)]
async fn one_command_tells_of_all_unless_the_store_may_know_anything() {
    let start = Instant::now();
    let mut roll = Roll::new(DELAY);
    for id in 1..=5 {
        roll.tell(AgentId(id), presence("here"), start);
    }
    let now = start + DELAY;

    assert_eq!(roll.commands_due(10, now), 1);
    let told = roll.take(10, 1, now);
    assert_eq!(told.len(), 5);
    roll.written(&told);
    roll.retell(now);

    assert_eq!(roll.commands_due(10, now), 5);
    assert_eq!(roll.take(10, 2, now).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_gone_is_untold_and_forgotten() {
    let start = Instant::now();
    let mut roll = Roll::new(DELAY);
    roll.tell(A, presence("one"), start);
    roll.tell(A, None, start);
    assert_eq!(roll.next_due(), None, "it was never told");
    roll.tell(A, presence("one"), start);
    let told = roll.take(10, 10, start + DELAY);
    roll.written(&told);

    roll.tell(A, None, start + DELAY);
    let untold = roll.take(10, 10, start + DELAY * 2);
    roll.written(&untold);

    assert_eq!(untold[0].old, Before::Known(presence("one")));
    assert!(roll.agents.is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Tell(i64, Option<u8>),
    Write(bool),
    Lose,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3_i64, proptest::option::of(0..3_u8)).prop_map(|(agent, text)| Step::Tell(agent, text)),
        any::<bool>().prop_map(Step::Write),
        Just(Step::Lose),
    ]
}

/// A store that believes what it is told of before.
fn apply(store: &mut HashMap<AgentId, Vec<Presence>>, telling: &Telling) {
    let entry = store.entry(telling.agent).or_default();
    match &telling.old {
        Before::Unknown => entry.clear(),
        Before::Known(old) => entry.retain(|it| Some(it) != old.as_ref()),
    }
    entry.extend(telling.new.clone());
}

proptest! {
    #[test]
    fn in_the_end_the_store_knows_what_is_wanted(steps in proptest::collection::vec(step(), 0..40)) {
        let mut now = Instant::now();
        let mut roll = Roll::new(DELAY);
        let mut wanted = HashMap::new();
        let mut store = HashMap::new();
        for step in steps {
            now += DELAY;
            match step {
                Step::Tell(agent, text) => {
                    let told = text.and_then(|text| presence(&text.to_string()));
                    wanted.insert(AgentId(agent), told.clone());
                    roll.tell(AgentId(agent), told, now);
                }
                Step::Write(taken) => {
                    let told = roll.take(2, 2, now);
                    told.iter().for_each(|it| apply(&mut store, it));
                    if taken {
                        roll.written(&told);
                    } else {
                        roll.failed(&told, now);
                    }
                }
                Step::Lose => {
                    store.clear();
                    roll.retell(now);
                }
            }
        }
        loop {
            now += DELAY;
            let told = roll.take(10, 10, now);
            if told.is_empty() {
                break;
            }
            told.iter().for_each(|it| apply(&mut store, it));
            roll.written(&told);
        }
        prop_assert_eq!(roll.next_due(), None);
        for (agent, wanted) in wanted {
            let stored = store.remove(&agent).unwrap_or_default();
            prop_assert_eq!(stored, wanted.into_iter().collect::<Vec<_>>());
        }
    }
}

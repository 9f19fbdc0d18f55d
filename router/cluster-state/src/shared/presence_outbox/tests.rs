//! What is written, and when; and that the store holds the truth in the end.

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
async fn what_comes_at_once_is_written_once_and_what_returns_soon_not_at_all() {
    let start = Instant::now();
    let mut presences = PresenceOutbox::new(DELAY, None);
    presences.set(A, presence("one"), start);
    presences.set(A, presence("two"), start + DELAY / 2);
    assert_eq!(presences.take(10, 10, start), [], "not yet");

    let updates = presences.take(10, 10, start + DELAY);
    presences.written(&updates, start + DELAY);

    let first = PresenceUpdate {
        agent: A,
        new: presence("two"),
        old: StoredPresence::Known(None),
    };
    assert_eq!(updates, [first]);
    presences.set(A, None, start + DELAY);
    presences.set(A, presence("two"), start + DELAY);
    assert_eq!(presences.next_due(), None);
}

#[tokio::test(start_paused = true)]
async fn changes_in_close_succession_are_written_together() {
    let start = Instant::now();
    let mut presences = PresenceOutbox::new(DELAY, None);
    for (number, id) in (0..10).zip(1..) {
        presences.set(AgentId(id), presence("here"), start + DELAY * number / 20);
    }

    let writes = [1, 2].map(|number| presences.take(10, 10, start + DELAY * number).len());

    assert_eq!(writes, [6, 4], "of ten within half the delay");
}

#[tokio::test(start_paused = true)]
async fn one_command_writes_all_unless_the_stored_presence_is_unknown() {
    let start = Instant::now();
    let mut presences = PresenceOutbox::new(DELAY, None);
    for id in 1..=5 {
        presences.set(AgentId(id), presence("here"), start);
    }
    let now = start + DELAY;

    assert_eq!(presences.commands_due(10, now), 1);
    let updates = presences.take(10, 1, now);
    assert_eq!(updates.len(), 5);
    presences.written(&updates, now);
    presences.write_all_again(now);

    assert_eq!(presences.commands_due(10, now), 5);
    assert_eq!(presences.take(10, 2, now).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_gone_is_removed_and_forgotten() {
    let start = Instant::now();
    let mut presences = PresenceOutbox::new(DELAY, None);
    presences.set(A, presence("one"), start);
    presences.set(A, None, start);
    assert_eq!(presences.next_due(), None, "it was never written");
    presences.set(A, presence("one"), start);
    let updates = presences.take(10, 10, start + DELAY);
    presences.written(&updates, start + DELAY);

    presences.set(A, None, start + DELAY);
    let removed = presences.take(10, 10, start + DELAY * 2);
    presences.written(&removed, start + DELAY);

    assert_eq!(removed[0].old, StoredPresence::Known(presence("one")));
    assert!(presences.agents.is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Set(i64, Option<u8>),
    Write(bool),
    Lose,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3_i64, proptest::option::of(0..3_u8)).prop_map(|(agent, text)| Step::Set(agent, text)),
        any::<bool>().prop_map(Step::Write),
        Just(Step::Lose),
    ]
}

/// A store that trusts what an update says about the old content.
fn apply(store: &mut HashMap<AgentId, Vec<Presence>>, update: &PresenceUpdate) {
    let entry = store.entry(update.agent).or_default();
    match &update.old {
        StoredPresence::Unknown => entry.clear(),
        StoredPresence::Known(old) => entry.retain(|it| Some(it) != old.as_ref()),
    }
    entry.extend(update.new.clone());
}

#[tokio::test(start_paused = true)]
async fn what_stays_is_written_again_where_the_store_lets_it_expire() {
    let mut now = Instant::now();
    let refresh = 10 * DELAY;
    let mut presences = PresenceOutbox::new(DELAY, Some(refresh));
    presences.set(A, presence("one"), now);
    for old in [None, presence("one"), presence("one")] {
        now = presences.next_due().unwrap();
        let updates = presences.take(10, 10, now);
        let again = PresenceUpdate {
            agent: A,
            new: presence("one"),
            old: StoredPresence::Known(old),
        };
        assert_eq!(updates, [again]);
        presences.written(&updates, now);
        assert_eq!(presences.next_due(), Some(now + refresh));
    }

    // Neither a change that was undone nor one that comes soon puts it off.
    presences.set(A, presence("two"), now + DELAY);
    assert_eq!(presences.next_due(), Some(now + 2 * DELAY));
    presences.set(A, presence("one"), now + DELAY);
    assert_eq!(presences.next_due(), Some(now + refresh));
    presences.set(A, None, now + DELAY);
    now = presences.next_due().unwrap();
    let updates = presences.take(10, 10, now);
    presences.written(&updates, now);
    assert_eq!(presences.next_due(), None, "what is gone is not");
}

proptest! {
    #[test]
    fn in_the_end_the_store_holds_what_is_current(steps in proptest::collection::vec(step(), 0..40)) {
        let mut now = Instant::now();
        let mut presences = PresenceOutbox::new(DELAY, None);
        let mut wanted = HashMap::new();
        let mut store = HashMap::new();
        for step in steps {
            now += DELAY;
            match step {
                Step::Set(agent, text) => {
                    let presence = text.and_then(|text| self::presence(&text.to_string()));
                    wanted.insert(AgentId(agent), presence.clone());
                    presences.set(AgentId(agent), presence, now);
                }
                Step::Write(taken) => {
                    let updates = presences.take(2, 2, now);
                    updates.iter().for_each(|it| apply(&mut store, it));
                    if taken {
                        presences.written(&updates, now);
                    } else {
                        presences.failed(&updates, now);
                    }
                }
                Step::Lose => {
                    store.clear();
                    presences.write_all_again(now);
                }
            }
        }
        loop {
            now += DELAY;
            let updates = presences.take(10, 10, now);
            if updates.is_empty() {
                break;
            }
            updates.iter().for_each(|it| apply(&mut store, it));
            presences.written(&updates, now);
        }
        prop_assert_eq!(presences.next_due(), None);
        for (agent, wanted) in wanted {
            let stored = store.remove(&agent).unwrap_or_default();
            prop_assert_eq!(stored, wanted.into_iter().collect::<Vec<_>>());
        }
    }
}

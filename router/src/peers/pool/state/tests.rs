use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const ZERO: Duration = Duration::ZERO;

fn used(take: Take<()>) -> LinkId {
    let Take::Use { id, .. } = take else {
        panic!("{take:?}");
    };
    id
}

fn with_links(count: usize) -> State<()> {
    let mut state = State::new(ZERO);
    for _ in 0..count {
        state.dialled((), ZERO);
    }
    state
}

#[test]
fn a_call_takes_the_least_loaded_connection() {
    let mut state = with_links(2);

    let (first, second) = (used(state.take(ZERO)), used(state.take(ZERO)));
    state.release(second, ZERO);

    assert_ne!(first, second);
    assert_eq!(used(state.take(ZERO)), second);
}

#[test]
fn another_connection_is_dialled_once_all_are_full_and_no_more_than_a_few() {
    let mut state = with_links(1);
    let mut dials = 0;

    for _ in 0..10 * MOST * FULL {
        let Take::Use { dial, .. } = state.take(ZERO) else {
            panic!("there is a connection");
        };
        if dial {
            dials += 1;
            assert!(matches!(state.take(ZERO), Take::Use { dial: false, .. }));
            state.dialled((), ZERO);
        }
    }

    assert_eq!(dials, MOST - 1);
}

#[test]
fn a_peer_that_failed_is_left_alone_longer_each_time_and_then_dialled_again() {
    let (mut state, mut now, mut pauses) = (State::<()>::new(ZERO), ZERO, Vec::new());

    for _ in 0..8 {
        assert_eq!(state.take(now), Take::Dial);
        state.failed("refused", 1.0, now);
        let Take::Refuse { reason, pause } = state.take(now) else {
            panic!("it has just failed");
        };
        assert_eq!(&*reason, "refused");
        pauses.push(pause);
        now += pause;
    }

    assert!(pauses.is_sorted());
    assert_eq!((pauses[0], pauses[7]), (PAUSE, LONGEST_PAUSE));
}

#[test]
fn a_peer_that_closes_connections_at_once_is_left_alone() {
    let mut state = State::new(ZERO);
    assert_eq!(state.take(ZERO), Take::Dial);
    let link = state.dialled((), ZERO);

    state.leave(link, None, 0.5, YOUNG / 2);

    assert!(matches!(state.take(YOUNG / 2), Take::Refuse { .. }));
}

#[test]
fn a_connection_that_served_is_replaced_at_once() {
    let mut state = with_links(1);
    state.answered(0);

    state.leave(0, None, 0.5, ZERO);

    assert_eq!(state.take(ZERO), Take::Dial);
}

#[test]
fn idle_connections_go_first_those_beside_others_then_the_last() {
    let mut state = with_links(2);

    assert!(!state.retire(0, SURPLUS - Duration::from_millis(1)));
    assert!(state.retire(0, SURPLUS));
    assert!(!state.retire(1, SURPLUS));
    assert!(state.retire(1, FORGET));
    assert!(state.is_forgettable(FORGET));
}

#[derive(Debug, Clone)]
enum Step {
    Take(usize),
    Release(usize),
    Answered(usize),
    Dialled,
    Failed,
    Leave(usize, bool),
    Retire(usize),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..2 * FULL).prop_map(Step::Take),
        4 => (1..2 * FULL).prop_map(Step::Release),
        1 => (0..MOST).prop_map(Step::Answered),
        3 => Just(Step::Dialled),
        2 => Just(Step::Failed),
        2 => (0..MOST, any::<bool>()).prop_map(|(at, fault)| Step::Leave(at, fault)),
        3 => (0..MOST).prop_map(Step::Retire),
        3 => (0..40_000_u64).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..200)
}

/// What must be true, told without the machine's own means.
#[derive(Debug, Default)]
struct Model {
    now: Duration,
    streams: BTreeMap<LinkId, usize>,
    leases: Vec<LinkId>,
    dialling: bool,
    failed: Option<Duration>,
}

impl Model {
    fn take(&mut self, took: Take<()>) {
        let fewest = self.streams.values().min().copied();
        let left_alone = self.failed.is_some_and(|at| self.now < at + LONGEST_PAUSE);
        match took {
            Take::Use { id, dial, .. } => {
                assert_eq!(self.streams.get(&id).copied(), fewest);
                if dial {
                    assert!(fewest >= Some(FULL) && self.streams.len() < MOST && !self.dialling);
                }
                self.dialling |= dial;
                *self.streams.entry(id).or_default() += 1;
                self.leases.push(id);
            }
            Take::Dial => {
                assert!(fewest.is_none() && !self.dialling);
                self.dialling = true;
            }
            Take::Wait => assert!(fewest.is_none() && self.dialling),
            Take::Refuse { pause, .. } => {
                assert!(fewest.is_none() && !self.dialling && left_alone);
                assert!(pause <= LONGEST_PAUSE);
            }
        }
    }

    fn link(&self, at: usize) -> Option<LinkId> {
        self.streams.keys().nth(at).copied()
    }
}

fn run(state: &mut State<()>, model: &mut Model, step: Step) {
    match step {
        Step::Take(times) => (0..times).for_each(|_| model.take(state.take(model.now))),
        Step::Release(times) => {
            for id in model.leases.drain(..times.min(model.leases.len())) {
                state.release(id, model.now);
                if let Some(streams) = model.streams.get_mut(&id) {
                    *streams -= 1;
                }
            }
        }
        Step::Answered(at) => {
            if let Some(id) = model.link(at) {
                state.answered(id);
            }
        }
        Step::Dialled if model.dialling => {
            model.dialling = false;
            let id = state.dialled((), model.now);
            assert!(model.streams.insert(id, 0).is_none(), "a name is new");
        }
        Step::Failed if model.dialling => {
            (model.dialling, model.failed) = (false, Some(model.now));
            state.failed("refused", 0.5, model.now);
        }
        Step::Leave(at, fault) => {
            if let Some(id) = model.link(at) {
                state.leave(id, fault.then_some("silent"), 0.5, model.now);
                model.streams.remove(&id);
                model.failed = Some(model.now);
            }
        }
        Step::Retire(at) => {
            if let Some(id) = model.link(at)
                && state.retire(id, model.now)
            {
                assert_eq!(model.streams.remove(&id), Some(0), "nobody uses it");
            }
        }
        Step::Pass(milliseconds) => model.now += Duration::from_millis(milliseconds),
        Step::Dialled | Step::Failed => {}
    }
}

proptest! {
    #[test]
    fn whatever_happens_calls_get_the_best_connection_there_is(steps in steps()) {
        let (mut state, mut model) = (State::new(ZERO), Model::default());

        for step in steps {
            run(&mut state, &mut model, step);
        }

        // In the end all is given back, and nothing stays.
        run(&mut state, &mut model, Step::Release(usize::MAX));
        run(&mut state, &mut model, Step::Failed);
        model.now += FORGET;
        for _ in 0..MOST {
            run(&mut state, &mut model, Step::Retire(0));
        }
        prop_assert!(state.is_forgettable(model.now));
        prop_assert_eq!(state.take(model.now), Take::Dial);
    }
}

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const ZERO: Duration = Duration::ZERO;

fn used(take: Checkout<()>) -> ConnectionId {
    let Checkout::Use { id, .. } = take else {
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

    let (first, second) = (used(state.check_out(ZERO)), used(state.check_out(ZERO)));
    state.release(second, ZERO);

    assert_ne!(first, second);
    assert_eq!(used(state.check_out(ZERO)), second);
}

#[test]
fn another_connection_is_dialled_once_all_are_full_and_no_more_than_a_few() {
    let mut state = with_links(1);
    let mut dials = 0;

    for _ in 0..10 * MAX_CONNECTIONS * MAX_STREAMS {
        let Checkout::Use { dial, .. } = state.check_out(ZERO) else {
            panic!("there is a connection");
        };
        if dial {
            dials += 1;
            assert!(matches!(
                state.check_out(ZERO),
                Checkout::Use { dial: false, .. }
            ));
            state.dialled((), ZERO);
        }
    }

    assert_eq!(dials, MAX_CONNECTIONS - 1);
}

#[test]
fn a_peer_that_failed_is_left_alone_longer_each_time_and_then_dialled_again() {
    let (mut state, mut now, mut pauses) = (State::<()>::new(ZERO), ZERO, Vec::new());

    for _ in 0..8 {
        assert_eq!(state.check_out(now), Checkout::Dial);
        state.failed("refused", 1.0, now);
        let Checkout::Refuse { reason, pause } = state.check_out(now) else {
            panic!("it has just failed");
        };
        assert_eq!(&*reason, "refused");
        pauses.push(pause);
        now += pause;
    }

    assert!(pauses.is_sorted());
    assert_eq!((pauses[0], pauses[7]), (DIAL_BACKOFF_MIN, DIAL_BACKOFF_MAX));
}

#[test]
fn a_peer_that_closes_connections_at_once_is_left_alone() {
    let mut state = State::new(ZERO);
    assert_eq!(state.check_out(ZERO), Checkout::Dial);
    let link = state.dialled((), ZERO);

    state.remove(link, None, 0.5, MIN_LIFETIME / 2);

    assert!(matches!(
        state.check_out(MIN_LIFETIME / 2),
        Checkout::Refuse { .. }
    ));
}

#[test]
fn a_connection_that_served_is_replaced_at_once() {
    let mut state = with_links(1);
    state.answered(0);

    state.remove(0, None, 0.5, ZERO);

    assert_eq!(state.check_out(ZERO), Checkout::Dial);
}

#[test]
fn idle_connections_go_first_those_beside_others_then_the_last() {
    let mut state = with_links(2);

    assert!(!state.retire(0, SURPLUS_IDLE_TIMEOUT - Duration::from_millis(1)));
    assert!(state.retire(0, SURPLUS_IDLE_TIMEOUT));
    assert!(!state.retire(1, SURPLUS_IDLE_TIMEOUT));
    assert!(state.retire(1, PEER_IDLE_TIMEOUT));
    assert!(state.is_forgettable(PEER_IDLE_TIMEOUT));
}

#[derive(Debug, Clone)]
enum Step {
    Checkout(usize),
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
        4 => (1..2 * MAX_STREAMS).prop_map(Step::Checkout),
        4 => (1..2 * MAX_STREAMS).prop_map(Step::Release),
        1 => (0..MAX_CONNECTIONS).prop_map(Step::Answered),
        3 => Just(Step::Dialled),
        2 => Just(Step::Failed),
        2 => (0..MAX_CONNECTIONS, any::<bool>()).prop_map(|(at, fault)| Step::Leave(at, fault)),
        3 => (0..MAX_CONNECTIONS).prop_map(Step::Retire),
        3 => (0..40_000_u64).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..200)
}

/// What must be true, told without the machine's own means.
#[derive(Debug, Default)]
struct Model {
    now: Duration,
    streams: BTreeMap<ConnectionId, usize>,
    leases: Vec<ConnectionId>,
    dialling: bool,
    failed: Option<Duration>,
}

impl Model {
    fn check_out(&mut self, took: Checkout<()>) {
        let fewest = self.streams.values().min().copied();
        let left_alone = self
            .failed
            .is_some_and(|at| self.now < at + DIAL_BACKOFF_MAX);
        match took {
            Checkout::Use { id, dial, .. } => {
                assert_eq!(self.streams.get(&id).copied(), fewest);
                if dial {
                    assert!(
                        fewest >= Some(MAX_STREAMS)
                            && self.streams.len() < MAX_CONNECTIONS
                            && !self.dialling
                    );
                }
                self.dialling |= dial;
                *self.streams.entry(id).or_default() += 1;
                self.leases.push(id);
            }
            Checkout::Dial => {
                assert!(fewest.is_none() && !self.dialling);
                self.dialling = true;
            }
            Checkout::Wait => assert!(fewest.is_none() && self.dialling),
            Checkout::Refuse { pause, .. } => {
                assert!(fewest.is_none() && !self.dialling && left_alone);
                assert!(pause <= DIAL_BACKOFF_MAX);
            }
        }
    }

    fn link(&self, at: usize) -> Option<ConnectionId> {
        self.streams.keys().nth(at).copied()
    }
}

fn run(state: &mut State<()>, model: &mut Model, step: Step) {
    match step {
        Step::Checkout(times) => {
            (0..times).for_each(|_| model.check_out(state.check_out(model.now)))
        }
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
                state.remove(id, fault.then_some("silent"), 0.5, model.now);
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
        model.now += PEER_IDLE_TIMEOUT;
        for _ in 0..MAX_CONNECTIONS {
            run(&mut state, &mut model, Step::Retire(0));
        }
        prop_assert!(state.is_forgettable(model.now));
        prop_assert_eq!(state.check_out(model.now), Checkout::Dial);
    }
}

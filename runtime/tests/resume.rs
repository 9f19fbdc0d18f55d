//! Two ends, the calls between them, and what each must have received.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::VecDeque;

use bytes::Bytes;
use proptest::prelude::*;
use proto::agent::grpctool::Segment;
use runtime::resume::{Endpoint, Received, Violation, WINDOW_BYTES};

/// More than what a piece counts besides its bytes.
const SLACK_BYTES: usize = 1 << 10;
/// Pieces are copied up to a third of this.
const PIECE_BYTES: usize = 12 << 10;

/// What may happen.
#[derive(Debug, Clone)]
enum Step {
    /// An end (the first or the second) has bytes to send.
    Send(bool, usize),
    Finish(bool),
    /// An end puts segments of so many bytes on the wire.
    Transmit(bool, usize),
    /// What is first on the wire arrives at an end.
    Deliver(bool),
    /// An end passes on what it has received.
    Take(bool),
    Acknowledge(bool),
    /// The call breaks: all that is on the wire is lost.
    Cut,
    /// Another call is attached; it is broken at once where its answer does not arrive.
    Attach {
        answered: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let most = PIECE_BYTES;
    let step = prop_oneof![
        4 => (any::<bool>(), 0..most).prop_map(|(end, length)| Step::Send(end, length)),
        1 => (any::<bool>(), Just(WINDOW_BYTES)).prop_map(|(end, length)| Step::Send(end, length)),
        1 => any::<bool>().prop_map(Step::Finish),
        6 => (any::<bool>(), 1..most).prop_map(|(end, most)| Step::Transmit(end, most)),
        6 => any::<bool>().prop_map(Step::Deliver),
        4 => any::<bool>().prop_map(Step::Take),
        2 => any::<bool>().prop_map(Step::Acknowledge),
        2 => Just(Step::Cut),
        2 => any::<bool>().prop_map(|answered| Step::Attach { answered }),
    ];
    prop::collection::vec(step, 0..300)
}

#[derive(Default)]
struct Side {
    endpoint: Endpoint,
    /// All bytes that it was given to send, and whether these are all.
    given: Vec<u8>,
    finished: bool,
    /// What it has passed on.
    passed: Vec<u8>,
    saw_end: bool,
    /// On the wire towards it.
    wire: VecDeque<Segment>,
}

#[derive(Default)]
struct World {
    sides: [Side; 2],
    attached: bool,
    /// Has each piece begin with another byte.
    counter: u8,
}

impl World {
    fn side(&mut self, second: bool) -> &mut Side {
        &mut self.sides[usize::from(second)]
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send(end, length) => {
                let first = self.counter;
                let side = self.side(end);
                if side.finished {
                    return;
                }
                let length = length.min(side.endpoint.room());
                let bytes: Vec<u8> = (0..length)
                    .map(|at| first.wrapping_add(at.to_le_bytes()[0]))
                    .collect();
                side.given.extend(&bytes);
                side.endpoint.send(bytes.into());
                self.counter = first.wrapping_add(17);
            }
            Step::Finish(end) => {
                let side = self.side(end);
                side.finished = true;
                side.endpoint.finish();
                assert_eq!(side.endpoint.room(), 0);
            }
            Step::Transmit(end, most) if self.attached => {
                while let Some(length) = self.side(end).endpoint.next_length(most) {
                    let segment = self.side(end).endpoint.next_segment(most).unwrap();
                    assert!(proto::segment::payload(segment.clone()).len() <= length);
                    assert!(segment.data.len() <= most);
                    self.side(!end).wire.push_back(segment);
                }
            }
            Step::Deliver(end) => {
                let side = self.side(end);
                if let Some(segment) = side.wire.pop_front() {
                    side.endpoint.receive(segment).unwrap();
                }
            }
            Step::Take(end) => {
                let me = usize::from(end);
                let side = &mut self.sides[me];
                match side.endpoint.take() {
                    Some(Received::Data(data)) => {
                        assert!(!side.saw_end);
                        let from = side.passed.len();
                        side.passed.extend(&data);
                        let (passed, given) = (&self.sides[me].passed, &self.sides[1 - me].given);
                        assert!(
                            passed[from..] == given[from..passed.len()],
                            "in order, once"
                        );
                    }
                    Some(Received::End) => {
                        assert!(!std::mem::replace(&mut side.saw_end, true));
                    }
                    None => {}
                }
            }
            Step::Acknowledge(end) => self.side(end).endpoint.acknowledge(),
            Step::Cut => self.cut(),
            Step::Attach { answered } => {
                // A new call may come before the old one is known to be broken.
                self.cut();
                let asked = self.sides[0].endpoint.received();
                self.sides[1].endpoint.attach(asked).unwrap();
                if answered {
                    let answer = self.sides[1].endpoint.received();
                    self.sides[0].endpoint.attach(answer).unwrap();
                    self.attached = true;
                }
            }
            Step::Transmit(..) => {}
        }
        self.check();
    }

    fn cut(&mut self) {
        self.attached = false;
        for side in &mut self.sides {
            side.wire.clear();
        }
    }

    fn check(&self) {
        for (number, side) in self.sides.iter().enumerate() {
            let other = &self.sides[1 - number];
            assert!(other.given.starts_with(&side.passed), "in order, once");
            assert!(
                !side.saw_end || side.passed == other.given,
                "the end is last"
            );
            let most = WINDOW_BYTES + SLACK_BYTES;
            assert!(side.endpoint.unacknowledged() <= most);
            assert!(side.endpoint.weight() <= most + 2 * WINDOW_BYTES);
        }
    }
}

fn settle(world: &mut World) {
    world.step(Step::Attach { answered: true });
    for end in [false, true] {
        world.step(Step::Finish(end));
    }
    // Each round passes on a window, of which there is one.
    for _ in 0..1000 {
        for end in [false, true] {
            world.step(Step::Acknowledge(end));
            world.step(Step::Transmit(end, 32 << 10));
            while !world.side(end).wire.is_empty() {
                world.step(Step::Deliver(end));
            }
            world.step(Step::Take(end));
        }
        let done = |side: &Side| side.saw_end && side.endpoint.is_finished();
        if world.sides.iter().all(done) {
            return;
        }
        for end in [false, true] {
            for _ in 0..100 {
                world.step(Step::Take(end));
            }
        }
    }
    panic!("it does not come to its end");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn each_end_receives_what_was_sent_in_order_once_and_to_the_end(steps in steps()) {
        let mut world = World { attached: true, ..World::default() };
        for step in steps {
            world.step(step);
        }

        settle(&mut world);

        let [first, second] = &world.sides;
        prop_assert!(first.passed == second.given && second.passed == first.given);
        for side in &world.sides {
            prop_assert_eq!(side.endpoint.weight(), 0, "nothing is kept");
        }
    }

    #[test]
    fn whatever_comes_is_taken_or_refused(
        segments in prop::collection::vec((0..500_u64, 0..500_u64, any::<bool>(), 0..500_usize), 0..30),
        received in 0..100_u64,
    ) {
        let mut end = Endpoint::default();
        end.send(Bytes::from(vec![1; 50]));
        let _ = end.next_segment(40);
        let _ = end.attach(received);
        for (offset, acknowledged, last, length) in segments {
            let data = Bytes::from(vec![2; length]);
            let segment = Segment { offset, acknowledged, end: last, over: false, data };
            let _ = end.receive(segment);
            let _ = end.next_segment(1);
            let _ = end.take();
        }
        prop_assert!(end.weight() <= 3 * WINDOW_BYTES);
    }
}

fn segment(offset: u64, data: &'static [u8]) -> Segment {
    Segment {
        offset,
        data: Bytes::from_static(data),
        ..Segment::default()
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let mut end = Endpoint::default();
    assert_eq!(end.receive(segment(1, b"x")), Err(Violation::Gap));
    let acknowledged = Segment {
        acknowledged: 1,
        ..segment(0, b"")
    };
    assert_eq!(end.receive(acknowledged), Err(Violation::Position));
    assert_eq!(end.attach(1), Err(Violation::Position));

    let last = Segment {
        end: true,
        ..segment(0, b"x")
    };
    end.receive(last.clone()).unwrap();
    end.receive(last).unwrap();
    assert_eq!(end.receive(segment(1, b"y")), Err(Violation::BehindEnd));

    let mut end = Endpoint::default();
    let flood = (0..)
        .map(|at| end.receive(segment(at, b"x")))
        .find_map(Result::err);
    assert_eq!(flood, Some(Violation::Overrun));
}

#[test]
fn what_is_quiet_holds_no_more_than_was_said() {
    let mut end = Endpoint::default();
    let buffer = Bytes::from(vec![0; 32 << 10]);
    end.send(buffer.slice(..1));

    assert!(end.weight() < SLACK_BYTES);
    assert_eq!(end.next_segment(100).unwrap().data.len(), 1);
    assert!(end.next_segment(100).is_none());
    end.receive(Segment {
        acknowledged: 1,
        ..segment(0, b"")
    })
    .unwrap();

    assert_eq!(end.weight(), 0);
    assert!(!end.owes_acknowledgement());
}

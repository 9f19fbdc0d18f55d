//! Faults that once did harm, each in a scenario of its own.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::{
    agent::Kind,
    faults::{Fault, Planned},
    request::Request,
    run::Scenario,
};

/// A request to each of four agents every half second, through any of three replicas.
fn under_load(faults: &[Planned]) -> Scenario {
    let mut rng = StdRng::seed_from_u64(1);
    let agents = [(Kind::Go, 2), (Kind::Ours, 2)].repeat(2);
    let requests = (0..480)
        .map(|number| Request {
            number,
            at: Duration::from_millis(500 * (number as u64 / 4)),
            agent: number as i64 % 4 + 1,
            safe: number % 3 == 0,
            hold: Duration::from_secs(5),
            work: 5,
            stalls: false,
            leaves: None,
            random: rng.random(),
        })
        .collect();
    Scenario {
        seed: 1,
        replicas: 3,
        agents,
        slowest: 3,
        faults: faults.to_vec(),
        requests,
    }
}

fn harmless(faults: &[(u64, Fault)]) {
    let planned: Vec<_> = faults
        .iter()
        .map(|(at, fault)| (Duration::from_millis(*at), *fault))
        .collect();
    let violations = under_load(&planned).run().violations;
    assert_eq!(violations, Vec::<String>::new());
}

#[test]
fn what_a_slow_store_did_not_answer_in_time_says_nothing_about_who_is_absent() {
    // Before the first request: nothing was read yet.
    harmless(&[(0, Fault::StoreSlow(767, 30_000))]);
}

#[test]
fn entries_written_by_a_replica_that_comes_back_are_not_buried_for_good() {
    for number in 0..3 {
        for millis in [14_000, 16_000, 18_000] {
            harmless(&[(10_000, Fault::StoreCut(number, millis))]);
        }
    }
}

#[test]
fn a_record_that_changes_while_it_is_read_is_read_again_within_the_budget_only() {
    assert_eq!(Scenario::draw(1214).run().violations, Vec::<String>::new());
}

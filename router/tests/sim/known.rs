//! Seeds that once did harm.

use crate::run::Scenario;

fn harmless(seeds: &[u64]) {
    for seed in seeds {
        let violations = Scenario::draw(*seed).run().violations;
        assert_eq!(violations, Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn what_a_slow_store_did_not_answer_in_time_says_nothing_about_who_is_absent() {
    harmless(&[36, 97]);
}

#[test]
fn entries_written_by_a_replica_that_comes_back_are_not_buried_for_good() {
    harmless(&[65, 72, 214, 249]);
}

#[test]
fn a_record_that_changes_while_it_is_read_is_read_again_within_the_budget_only() {
    harmless(&[1214]);
}

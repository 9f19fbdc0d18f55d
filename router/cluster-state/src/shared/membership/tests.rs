//! Which replicas are dead, by the reader's own clock.

use super::*;

const PERIOD: Duration = Duration::from_secs(5);
const EXPIRY: Duration = Duration::from_secs(15);

fn id(name: &str) -> ReplicaId {
    ReplicaId::new(name)
}

fn lease(name: &str, beat: u64) -> Lease {
    Lease {
        replica: id(name),
        url: String::new(),
        state: ReplicaState::Serving,
        version: String::new(),
        beat,
        load: None,
    }
}

fn members() -> (Membership, Instant) {
    (Membership::new(id("me"), PERIOD, EXPIRY), Instant::now())
}

#[tokio::test(start_paused = true)]
async fn a_beat_that_stands_still_is_suspected_after_the_expiry_and_dead_if_its_probe_fails() {
    let (mut members, start) = members();
    members.observe(vec![lease("a", 1), lease("me", 1)], start);

    for n in 1..3 {
        let now = start + PERIOD * n;
        assert_eq!(members.observe(vec![lease("a", 1)], now), []);
        assert_eq!(members.standing(&id("a"), now), Standing::Live);
    }
    let now = start + PERIOD * 3;

    assert_eq!(members.observe(vec![lease("a", 1)], now), [lease("a", 1)]);
    assert_eq!(members.standing(&id("a"), now), Standing::Live);
    members.mark_dead(&id("a"), now);
    assert_eq!(members.standing(&id("a"), now), Standing::Dead);
    assert_eq!(members.observe(vec![lease("a", 1)], now + PERIOD), []);
    assert_eq!(
        members.standing(&id("a"), now),
        Standing::Dead,
        "an old lease does not revive it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_frozen_replica_that_goes_on_lives() {
    let (mut members, start) = members();
    for n in 0..=3 {
        members.observe(vec![lease("a", 1)], start + PERIOD * n);
    }
    let now = start + PERIOD * 4;
    members.mark_dead(&id("a"), now);

    members.observe(vec![lease("a", 2)], now);

    assert_eq!(members.standing(&id("a"), now), Standing::Live);
}

#[tokio::test(start_paused = true)]
async fn one_that_answers_its_probe_lives_and_is_known_to_be_silent() {
    let (mut members, start) = members();
    members.observe(vec![lease("a", 1)], start);
    members.mark_unreachable(&id("a"));
    for n in 1..10 {
        let now = start + PERIOD * n;
        for suspect in members.observe(vec![lease("a", 1)], now) {
            members.mark_reachable(&suspect.replica);
        }
        assert_eq!(members.has_silent(), n >= 2, "after {n} periods");
    }
    let now = start + PERIOD * 10;
    assert_eq!(members.standing(&id("a"), now), Standing::Live);

    members.observe(vec![lease("a", 2)], now);

    assert!(!members.has_silent());
}

#[tokio::test(start_paused = true)]
async fn time_in_which_nothing_could_be_read_does_not_count() {
    let (mut members, start) = members();
    members.observe(vec![lease("a", 1)], start);

    let later = start + Duration::from_secs(1800);

    assert_eq!(members.observe(vec![lease("a", 1)], later), []);
    assert_eq!(members.standing(&id("a"), later), Standing::Live);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_has_its_time_to_be_written_again_but_one_that_drained_has_left() {
    let (mut members, start) = members();
    let draining = Lease {
        state: ReplicaState::Draining,
        ..lease("b", 1)
    };
    members.observe(vec![lease("a", 1), draining], start);
    assert_eq!(members.standing(&id("b"), start), Standing::Draining);

    let now = start + PERIOD;
    members.observe(Vec::new(), now);

    assert_eq!(members.standing(&id("a"), now), Standing::Live);
    assert_eq!(members.standing(&id("b"), now), Standing::Dead);
    members.observe(Vec::new(), now + PERIOD);
    let suspects = members.observe(Vec::new(), now + PERIOD * 2);
    assert_eq!(suspects, [lease("a", 1)]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_of_nobody_is_unknown_until_the_leases_were_read_after_it() {
    let (mut members, start) = members();
    members.observe(Vec::new(), start);
    let read_at = start + Duration::from_secs(1);

    assert_eq!(members.standing(&id("new"), read_at), Standing::Unknown);
    members.observe(Vec::new(), read_at + PERIOD);
    assert_eq!(members.standing(&id("new"), read_at), Standing::Dead);
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_replica_is_so_until_it_renews_its_lease() {
    let (mut members, start) = members();
    members.observe(vec![lease("a", 1)], start);

    members.mark_unreachable(&id("a"));

    assert_eq!(members.standing(&id("a"), start), Standing::Unreachable);
    members.observe(vec![lease("a", 1)], start + PERIOD);
    assert_eq!(members.standing(&id("a"), start), Standing::Unreachable);
    members.observe(vec![lease("a", 2)], start + PERIOD * 2);
    assert_eq!(members.standing(&id("a"), start), Standing::Live);
}

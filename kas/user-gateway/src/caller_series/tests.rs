use std::time::Duration;

use prometheus_client::registry::Registry;

use super::*;
use crate::metrics::Metrics;

const MAX: usize = 8;

/// The series without a list of requests.
fn series() -> CallerSeries {
    CallerSeries::new(MAX, &InProgressList::default())
}

impl CallerSeries {
    fn had(&self, caller: &str, requests: u64) {
        let took = Duration::from_millis(requests);
        let mut state = self.state();
        let traffic = Traffic { requests, took };
        let rest = state.pool(caller).add(caller.into(), traffic);
        state.rest.add(rest);
    }

    fn minute(&self) {
        self.end_minute(&InProgressList::default());
    }

    fn named(&self) -> Vec<String> {
        let state = self.state();
        let pools = [&state.users, &state.others];
        let names = pools.iter().flat_map(|pool| pool.named.keys());
        let mut names: Vec<_> = names.map(ToString::to_string).collect();
        names.sort_unstable();
        names
    }

    fn has(&self, caller: &str) -> bool {
        self.named().iter().any(|it| it == caller)
    }
}

#[test]
fn callers_that_are_made_up_push_nobody_out() {
    let series = series();
    for caller in ["user:a", "user:b", "user:c", "user:d"] {
        series.had(caller, 10);
    }
    let before = series.named();

    for minute in 0..50 {
        for caller in ["user:a", "user:b", "user:c", "user:d"] {
            series.had(caller, 10);
        }
        for made_up in 0..200 {
            series.had(&format!("user:made-up-{minute}-{made_up}"), 5);
        }
        series.minute();
    }

    assert_eq!(series.named(), before);
    assert_eq!(series.state().rest.requests, 50 * 200 * 5);
}

#[test]
fn jobs_take_no_series_from_users_however_many_requests_they_make() {
    let series = series();
    series.had("user:a", 1);
    for minute in 0..10 {
        for job in 0..20 {
            series.had(&format!("ci_job:{minute}{job}"), 1000);
        }
        series.minute();
    }

    assert!(series.has("user:a"));
    assert_eq!(series.named().len(), 1 + MAX / 2);
}

#[test]
fn a_much_busier_caller_gets_the_series_of_the_least_busy_one() {
    let series = series();
    for (caller, requests) in [("a", 100), ("b", 200), ("c", 300), ("d", 400)] {
        series.had(&format!("user:{caller}"), requests);
    }
    series.had("user:little-more", 150);
    series.minute();
    assert!(series.has("user:a"), "twice as many are not there yet");

    series.had("user:busy", 500);
    series.had("user:busier", 600);
    series.minute();
    let first = series.named();
    series.had("user:busy", 500);
    series.had("user:busier", 600);
    series.minute();

    assert!(!series.has("user:a"));
    let of_one = ["user:b", "user:busier", "user:c", "user:d"];
    assert_eq!(first, of_one, "one in a minute");
    assert!(series.has("user:busy"), "{:?}", series.named());
}

#[test]
fn who_makes_no_requests_for_an_hour_gives_room_and_what_is_remembered_is_bounded() {
    let series = series();
    for caller in 0..3 * MAX_WAITING {
        series.had(&format!("user:{caller}"), 1 + caller as u64);
    }
    series.minute();
    let waiting = series.state().users.waiting.len();
    for _ in 0..IDLE_MINUTES {
        series.minute();
    }
    series.had("user:new", 1);

    assert!(waiting <= MAX_WAITING, "{waiting}");
    assert!(series.has("user:new"), "{:?}", series.named());
    for _ in 0..600 {
        series.minute();
    }
    assert!(series.state().users.waiting.is_empty());
}

#[test]
fn a_part_of_the_list_always_has_room_for_those_with_a_series() {
    let series = series();
    series.had("user:a", 1);
    let mut part = series.state().fresh();
    let second = Duration::from_secs(1);
    for made_up in 0..2 * MAX_NEW_IN_PART {
        part.add(&format!("ci_job:{made_up}").into(), second);
    }
    part.add(&"user:a".into(), second);

    assert_eq!(part.by["user:a"].requests, 1);
    assert_eq!(part.by.len(), 1 + MAX_NEW_IN_PART);
    assert_eq!(part.rest.requests, MAX_NEW_IN_PART as u64);
}

fn told(metrics: &Metrics) -> String {
    let (mut registry, mut text) = (Registry::default(), String::new());
    metrics.register(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text
}

#[test]
fn callers_are_told_with_their_names_cut_and_those_without_a_series_as_other() {
    let (metrics, off) = (Metrics::new(2), Metrics::new(0));
    let long = format!("user:{}", "é".repeat(200));
    for metrics in [&metrics, &off] {
        let series: &CallerSeries = metrics.as_ref();
        series.had(&long, 3);
        series.had("user:b\"\n", 2);
        series.had("ci_job:7", 1);
    }

    let text = told(&metrics);
    let of_none = told(&off);

    let cut = &long[..long.floor_char_boundary(MAX_NAME_BYTES)];
    for line in [
        &format!("k8s_api_proxy_caller_requests_total{{caller=\"{cut}\"}} 3"),
        "k8s_api_proxy_caller_requests_total{caller=\"ci_job:7\"} 1",
        "k8s_api_proxy_caller_requests_total{caller=\"other\"} 2",
        "k8s_api_proxy_caller_request_seconds_total{caller=\"other\"} 0.002",
        "caller_series_omitted 1",
    ] {
        assert!(text.lines().any(|it| it == line), "no {line} in {text}");
    }
    assert!(!of_none.contains("caller="), "{of_none}");
}

//! What a run came to, in one sentence: what failed, when, and what happened then. Pure.

use super::{errors, plot::number};
use crate::{
    record::{Mark, Record},
    scenario::Verdict,
    traffic::Point,
};

/// Seconds after a fault in which what goes wrong is laid to it.
const AFTERMATH_SECONDS: f64 = 10.0;

/// Objectives by how much they tell; what comes first is the headline.
const TELLING: [&str; 6] = [
    "failed",
    "failed_percent",
    "longest_stall_ms",
    "p99_ms",
    "p50_ms",
    "incomplete_seconds",
];

/// The sentence.
pub(super) fn headline(record: &Record) -> String {
    let missed: Vec<_> = record.verdicts.iter().filter(|it| !it.reached).collect();
    let rank = |it: &&Verdict| {
        let place = TELLING.iter().position(|known| *known == name(it));
        place.unwrap_or(TELLING.len())
    };
    let first = missed.iter().copied().min_by_key(rank);
    let what = match (&record.ended_early, first) {
        (Some(why), _) => format!(
            "The run ended early, after {} s: {why}",
            number(record.seconds)
        ),
        (None, Some(verdict)) => what(record, verdict),
        (None, None) => return good(record),
    };
    let when = moment(record, first.map_or("failed", name));
    let when = when.map_or(String::new(), |at| {
        format!(", {}", circumstances(record, at))
    });
    let others = missed.len().saturating_sub(1);
    let others = match others {
        0 => String::new(),
        1 => "; one more objective was missed".to_owned(),
        _ => format!("; {others} more objectives were missed"),
    };
    format!("{what}{when}{}{others}.", reason(record))
}

fn good(record: &Record) -> String {
    let (answered, failed) = totals(record);
    let requests = match (answered + failed, failed) {
        (0, _) => String::new(),
        (_, 0) => format!(": {answered} requests were answered, none failed"),
        _ => format!(
            ": {answered} requests were answered, {failed} failed{}",
            reason(record)
        ),
    };
    match record.verdicts.len() {
        0 => format!("No objectives were set{requests}."),
        1 => format!("The objective was reached{requests}."),
        count => format!("All {count} objectives were reached{requests}."),
    }
}

/// Requests that count, answered and failed.
fn totals(record: &Record) -> (u64, u64) {
    let counted = record.streams.iter().filter(|it| !it.warm_up);
    counted.fold((0, 0), |(answered, failed), it| {
        (answered + it.total.requests, failed + it.total.errors())
    })
}

/// The name of the figure that an objective is about.
fn name(verdict: &Verdict) -> &str {
    verdict.objective.split(' ').next().unwrap_or_default()
}

fn what(record: &Record, verdict: &Verdict) -> String {
    let limit = number(verdict.limit);
    let Some(measured) = verdict.measured.map(number) else {
        return format!(
            "Nothing was measured for the objective {}",
            verdict.objective
        );
    };
    let (answered, failed) = totals(record);
    match name(verdict) {
        "failed" => format!(
            "{measured} of {} requests failed, where {limit} may",
            answered + failed
        ),
        "failed_percent" => format!("{measured} % of requests failed, where {limit} % may"),
        "longest_stall_ms" => format!("A request took {measured} ms, where {limit} ms is the most"),
        "p99_ms" => format!(
            "One in a hundred requests took {measured} ms or more, where {limit} ms is the most"
        ),
        "p50_ms" => {
            format!("Half of the requests took {measured} ms or more, where {limit} ms is the most")
        }
        "incomplete_seconds" => {
            format!("For {measured} s some agent was not connected, where {limit} s is the most")
        }
        _ => format!("{} was missed, with {measured}", verdict.objective),
    }
}

/// When the worst of it was: the first failure, or the slowest second.
fn moment<'a>(record: &'a Record, figure: &str) -> Option<&'a Point> {
    let counted = record.streams.iter().filter(|it| !it.warm_up);
    let points = counted.flat_map(|it| &it.points);
    let worst = |of: fn(&Point) -> f64| points.clone().max_by(|a, b| of(a).total_cmp(&of(b)));
    match figure {
        "failed" | "failed_percent" => {
            let failed = points.clone().filter(|it| it.failed > 0);
            failed.min_by(|a, b| a.at.total_cmp(&b.at))
        }
        "longest_stall_ms" => worst(|it| it.longest),
        "p99_ms" => worst(|it| it.p99),
        "p50_ms" => worst(|it| it.p50),
        _ => None,
    }
}

fn circumstances(record: &Record, point: &Point) -> String {
    let at = point.at;
    // Requests that were due then were over only so much later; a second is as exact as it is known.
    let over = at + point.longest / 1e3 + 1.0;
    let phase = record.phases.iter().rfind(|it| it.from <= at);
    let phase = phase.map_or(String::new(), |it| format!(" in the phase “{}”", it.name));
    let since = |mark: &Mark| at - mark.to;
    let marks = record.marks.iter();
    let near = marks.filter(|it| it.from <= over && since(it) <= AFTERMATH_SECONDS);
    let cause = near.min_by(|a, b| since(a).max(0.0).total_cmp(&since(b).max(0.0)));
    let cause = match cause {
        None if record.marks.is_empty() => String::new(),
        None => ", when no fault was near".to_owned(),
        Some(mark) if since(mark) <= 1.0 => format!(", during “{}”", mark.what),
        Some(mark) => format!(", {} s after “{}”", number(since(mark).round()), mark.what),
    };
    format!("at {} s{phase}{cause}", number(at))
}

/// What requests that failed said most often.
fn reason(record: &Record) -> String {
    let errors = errors(record);
    let most = errors.iter().max_by_key(|(_, count)| **count);
    most.map_or(String::new(), |(what, count)| {
        format!(" (most often: {what}, {count} times)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{record::Span, record::Stream, traffic};

    fn verdict(objective: &str, measured: f64, reached: bool) -> Verdict {
        Verdict {
            objective: objective.to_owned(),
            limit: 0.0,
            measured: Some(measured),
            reached,
        }
    }

    fn run() -> Record {
        let point = |at, failed, longest| Point {
            at,
            answered: 50,
            failed,
            p50: 1.0,
            p90: 2.0,
            p99: 3.0,
            longest,
        };
        let total = traffic::Report {
            seconds: 60.0,
            requests: 2997,
            requests_per_second: 50.0,
            mebibytes_per_second: 1.0,
            latency_ms: traffic::Latency {
                p50: 1.0,
                p90: 2.0,
                p99: 3.0,
                max: 4.0,
            },
            longest_ms: 900.0,
            retried: 0,
            errors: [("connection reset".to_owned(), 3)].into(),
        };
        Record {
            seconds: 65.0,
            phases: vec![Span {
                name: "drops".to_owned(),
                from: 5.0,
                to: 65.0,
                warm_up: false,
                idle: false,
            }],
            marks: vec![Mark {
                what: "cut of agents".to_owned(),
                from: 15.0,
                to: 45.0,
            }],
            streams: vec![Stream {
                phase: "drops".to_owned(),
                kind: traffic::Kind::Short,
                warm_up: false,
                total,
                points: vec![
                    point(10.0, 0, 900.0),
                    point(20.0, 2, 5.0),
                    point(50.0, 1, 5.0),
                ],
            }],
            verdicts: vec![
                verdict("p99_ms ≤ 0", 3.0, false),
                verdict("failed ≤ 0", 3.0, false),
            ],
            ..Record::default()
        }
    }

    #[test]
    fn it_says_what_failed_when_and_during_what() {
        assert_eq!(
            headline(&run()),
            "3 of 3000 requests failed, where 0 may, at 20 s in the phase “drops”, during “cut of agents” \
             (most often: short, connection reset, 3 times); one more objective was missed."
        );
    }

    #[test]
    fn what_comes_soon_after_a_fault_is_laid_to_it_and_what_comes_before_is_not() {
        let record = run();
        let points = &record.streams[0].points;

        assert!(circumstances(&record, &points[2]).ends_with("5 s after “cut of agents”"));
        assert!(circumstances(&record, &points[0]).ends_with("when no fault was near"));
    }

    #[test]
    fn a_run_that_passed_says_so_in_numbers() {
        let mut record = run();
        record.verdicts.iter_mut().for_each(|it| it.reached = true);
        record.streams[0].total.errors.clear();

        assert_eq!(
            headline(&record),
            "All 2 objectives were reached: 2997 requests were answered, none failed."
        );
    }

    #[test]
    fn a_run_that_ended_early_says_why() {
        let record = Record {
            ended_early: Some("ended by SIGINT".to_owned()),
            seconds: 12.0,
            ..Record::default()
        };

        assert_eq!(
            headline(&record),
            "The run ended early, after 12 s: ended by SIGINT."
        );
    }
}

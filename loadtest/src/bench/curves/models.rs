//! The curves of one product or of both, with the models that they are expected to follow. Pure.

use super::{Curves, Idle, Throughput};
use crate::report::{Curve, Model};

/// The clients that throughput over replicas is told for.
const CLIENTS: usize = 64;

/// What is drawn for those who were measured.
pub(in crate::bench) fn drawn(measured: &[(&str, &Curves)]) -> Vec<Curve> {
    let lines = |of: &dyn Fn(&Curves) -> Vec<(f64, f64)>| {
        let lines = measured.iter();
        lines
            .map(|(who, curves)| ((*who).to_owned(), of(curves)))
            .collect()
    };
    vec![
        Curve {
            title: "Resident memory of one replica".into(),
            unit: "MiB",
            across: "idle agents",
            model: Model::Linear,
            lines: lines(&|it| idle(it, |it| it.mebibytes)),
        },
        Curve {
            title: "CPU of one replica at rest".into(),
            unit: "ms a minute",
            across: "idle agents",
            model: Model::Linear,
            lines: lines(&|it| idle(it, |it| it.cpu_ms_per_minute)),
        },
        Curve {
            title: "Throughput of one replica".into(),
            unit: "requests/s",
            across: "clients",
            model: Model::Saturating,
            lines: lines(&|it| over_clients(it, 1)),
        },
        Curve {
            title: "Throughput of three replicas".into(),
            unit: "requests/s",
            across: "clients",
            model: Model::Saturating,
            lines: lines(&|it| over_clients(it, 3)),
        },
        Curve {
            title: format!("Throughput of {CLIENTS} clients on one machine"),
            unit: "requests/s",
            across: "replicas",
            model: Model::Spread,
            lines: lines(&|it| over_replicas(it, |it| it.requests_per_second)),
        },
        Curve {
            title: format!("Requests that {CLIENTS} clients get for a second of CPU in kas"),
            unit: "requests",
            across: "replicas",
            model: Model::Spread,
            lines: lines(&|it| over_replicas(it, |it| 1e6 / it.cpu_us_per_request)),
        },
    ]
}

fn idle(curves: &Curves, of: fn(&Idle) -> f64) -> Vec<(f64, f64)> {
    let points = curves.idle.iter();
    points.map(|it| (it.agents as f64, of(it))).collect()
}

fn over_clients(curves: &Curves, replicas: usize) -> Vec<(f64, f64)> {
    let points = curves
        .throughput
        .iter()
        .filter(|it| it.replicas == replicas);
    let point = |it: &Throughput| (it.clients as f64, it.requests_per_second);
    points.map(point).collect()
}

fn over_replicas(curves: &Curves, of: fn(&Throughput) -> f64) -> Vec<(f64, f64)> {
    let points = curves.throughput.iter().filter(|it| it.clients == CLIENTS);
    points.map(|it| (it.replicas as f64, of(it))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_curve_has_its_points() {
        let idle = |agents| Idle {
            agents,
            mebibytes: 20.0,
            cpu_ms_per_minute: 1.0,
        };
        let throughput = |replicas, clients| Throughput {
            replicas,
            clients,
            requests_per_second: 1000.0,
            cpu_us_per_request: 50.0,
            failed: 0,
        };
        let curves = Curves {
            idle: vec![idle(1000), idle(2000)],
            throughput: vec![throughput(1, 1), throughput(1, 64), throughput(3, 64)],
        };

        let drawn = drawn(&[("ours", &curves)]);

        let counts: Vec<_> = drawn.iter().map(|it| it.lines[0].1.len()).collect();
        assert_eq!(counts, [2, 2, 2, 1, 2, 2]);
        assert_eq!(drawn[5].lines[0].1, [(1.0, 20_000.0), (3.0, 20_000.0)]);
    }
}

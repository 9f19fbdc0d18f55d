//! The figures, as JSON and as a table.

use std::{fmt::Write as _, path::Path};

use anyhow::Context;
use serde::Serialize;

use super::{
    Link, Route,
    agents::Kind,
    curves::{Curves, drawn},
};
use crate::{report::Curve, traffic};

/// All figures of one run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    kas: String,
    cpus: usize,
    pub(super) requests: Vec<Requests>,
    pub(super) bulk: Vec<Bulk>,
    pub(super) idle: Vec<Idle>,
    pub(super) failover: Vec<Failover>,
    pub(super) rest: Option<Rest>,
    pub(super) operators: Option<Operators>,
    pub(super) curves: Option<Curves>,
}

/// Closed-loop requests of 4 KiB.
#[derive(Debug, Serialize)]
pub(super) struct Requests {
    pub(super) kind: Kind,
    pub(super) route: Route,
    pub(super) link: Link,
    pub(super) clients: usize,
    pub(super) kas_cpu_us: f64,
    pub(super) agent_cpu_us: f64,
    #[serde(flatten)]
    pub(super) sent: traffic::Report,
}

/// A body of 200 MiB.
#[derive(Debug, Serialize)]
pub(super) struct Bulk {
    pub(super) kind: Kind,
    pub(super) route: Route,
    pub(super) link: Link,
    pub(super) mebibytes_per_second: f64,
    pub(super) kas_cpu_ms: f64,
}

/// Idle agents; kernel memory is not included.
#[derive(Debug, Serialize)]
pub(super) struct Idle {
    pub(super) scheme: &'static str,
    pub(super) agents: usize,
    /// From the first connection until all agents were ready.
    pub(super) ready_seconds: f64,
    /// What kas spent on one agent until then.
    pub(super) accept_cpu_us: f64,
    /// What the simulator spent on it.
    pub(super) dial_cpu_us: f64,
    pub(super) fresh_kib: f64,
    pub(super) after_traffic_kib: f64,
    pub(super) after_reconnects_kib: f64,
    pub(super) cpu_ms_per_minute: f64,
    pub(super) fleet_kib: f64,
}

/// An owner was killed.
#[derive(Debug, Serialize)]
pub(super) struct Failover {
    /// Until another replica, whose connection to it broke, counted it as dead.
    pub(super) forgotten_ms: f64,
    /// Until the agent had a tunnel elsewhere, by its own backoff.
    pub(super) back_ms: f64,
    /// From then until a request that was held at a third replica was answered.
    pub(super) answered_ms: f64,
}

/// What replicas ask of the Redis that they share.
#[derive(Debug, Serialize)]
pub(super) struct Rest {
    pub(super) replicas: usize,
    pub(super) agents: usize,
    pub(super) commands_to_connect: f64,
    pub(super) commands_per_request: f64,
    pub(super) commands_per_second_and_replica: f64,
    pub(super) bytes_per_agent: f64,
}

/// What operators who list the fleet wait for.
#[derive(Debug, Serialize)]
pub(super) struct Operators {
    pub(super) replicas: usize,
    pub(super) agents: usize,
    pub(super) lists: usize,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// Bytes of the largest page.
    pub(super) page_bytes: usize,
    /// What all replicas ask of Redis for one list, besides what they ask at rest.
    pub(super) commands_per_list: f64,
}

impl Report {
    pub(super) fn new(kas: &Path) -> Self {
        Self {
            kas: kas.display().to_string(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            requests: Vec::new(),
            bulk: Vec::new(),
            idle: Vec::new(),
            failover: Vec::new(),
            rest: None,
            operators: None,
            curves: None,
        }
    }

    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(path, serde_json::to_string_pretty(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    pub(super) fn table(&self) -> String {
        let mut table = format!(
            "Client, kas, agent and backend share {} CPUs. CPU per request is the figure that travels.\n",
            self.cpus
        );
        self.add(&mut table)
            .expect("writing to a string cannot fail");
        table
    }

    fn add(&self, table: &mut String) -> std::fmt::Result {
        if !self.requests.is_empty() {
            writeln!(
                table,
                "\n| GET 4 KiB | clients | requests/s | p50 ms | p99 ms | kas CPU µs | agent CPU µs | failed |\n|---|---|---|---|---|---|---|---|"
            )?;
        }
        for row in &self.requests {
            let (sent, latency) = (&row.sent, &row.sent.latency_ms);
            writeln!(
                table,
                "| {}, {}, {} | {} | {:.0} | {:.2} | {:.2} | {:.1} | {:.1} | {} |",
                row.kind.name(),
                row.link.name(),
                row.route.name(),
                row.clients,
                sent.requests_per_second,
                latency.p50,
                latency.p99,
                row.kas_cpu_us,
                row.agent_cpu_us,
                sent.errors(),
            )?;
        }
        if !self.bulk.is_empty() {
            writeln!(table, "\n| 200 MiB | MiB/s | kas CPU ms |\n|---|---|---|")?;
        }
        for row in &self.bulk {
            let (kind, link, route) = (row.kind.name(), row.link.name(), row.route.name());
            let name = format!("{kind}, {link}, {route}");
            writeln!(
                table,
                "| {name} | {:.0} | {:.0} |",
                row.mebibytes_per_second, row.kas_cpu_ms
            )?;
        }
        for line in self.hops() {
            writeln!(table, "\n{line}")?;
        }
        if !self.failover.is_empty() {
            writeln!(
                table,
                "\n| an owner is killed, ms | forgotten by another replica | agent's own reconnect | first answer after that |\n|---|---|---|---|"
            )?;
        }
        for (round, row) in self.failover.iter().enumerate() {
            writeln!(
                table,
                "| {} | {:.0} | {:.0} | {:.0} |",
                round + 1,
                row.forgotten_ms,
                row.back_ms,
                row.answered_ms
            )?;
        }
        if !self.idle.is_empty() {
            writeln!(
                table,
                "\n| idle agents | KiB each, fresh | after 4 requests each | after 3 reconnects | CPU ms per minute | CPU µs to accept | in the simulator | KiB each there |\n|---|---|---|---|---|---|---|---|"
            )?;
        }
        for row in &self.idle {
            writeln!(
                table,
                "| {}, {} | {:.1} | {:.1} | {:.1} | {:.3} | {:.0} | {:.0} | {:.1} |",
                row.agents,
                row.scheme,
                row.fresh_kib,
                row.after_traffic_kib,
                row.after_reconnects_kib,
                row.cpu_ms_per_minute,
                row.accept_cpu_us,
                row.dial_cpu_us,
                row.fleet_kib,
            )?;
        }
        if let Some(rest) = &self.rest {
            let title = format!(
                "Redis, {} agents on {} replicas",
                rest.agents, rest.replicas
            );
            let rows = [
                ("commands to connect an agent", rest.commands_to_connect),
                ("commands per forwarded request", rest.commands_per_request),
                (
                    "commands per second and replica at rest",
                    rest.commands_per_second_and_replica,
                ),
                ("bytes per agent", rest.bytes_per_agent),
            ];
            figures(table, &title, &rows)?;
        }
        if let Some(operators) = &self.operators {
            let title = format!(
                "lists by filter at one of {} replicas, {} agents",
                operators.replicas, operators.agents
            );
            let rows = [
                ("p50 ms", operators.p50_ms),
                ("p99 ms", operators.p99_ms),
                (
                    "KiB of the largest page",
                    operators.page_bytes as f64 / 1024.0,
                ),
                ("Redis commands per list", operators.commands_per_list),
            ];
            figures(table, &title, &rows)?;
        }
        if let Some(curves) = &self.curves {
            let curves = drawn(&[("kas", curves)]);
            let words: Vec<_> = curves.iter().map(Curve::words).collect();
            writeln!(table, "\n{}", words.join("\n"))?;
        }
        Ok(())
    }
}

impl Report {
    /// What the way through another replica costs, in one line each.
    fn hops(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (direct, hop) in pairs(
            &self.requests,
            |it| (it.kind, it.link, it.clients),
            |it| it.route,
        ) {
            let (a, b) = (&direct.sent, &hop.sent);
            lines.push(format!(
                "Hop, {}, {}, {} clients: {:.0} % of direct, p50 {:+.2} ms.",
                hop.kind.name(),
                hop.link.name(),
                hop.clients,
                b.requests_per_second / a.requests_per_second * 100.0,
                b.latency_ms.p50 - a.latency_ms.p50,
            ));
        }
        for (direct, hop) in pairs(&self.bulk, |it| (it.kind, it.link, 0), |it| it.route) {
            lines.push(format!(
                "Hop, {}, {}, 200 MiB: {:.0} % of direct.",
                hop.kind.name(),
                hop.link.name(),
                hop.mebibytes_per_second / direct.mebibytes_per_second * 100.0,
            ));
        }
        lines
    }
}

/// A table of figures, each with its name.
fn figures(table: &mut String, title: &str, rows: &[(&str, f64)]) -> std::fmt::Result {
    writeln!(table, "\n| {title} | |\n|---|---|")?;
    for (name, figure) in rows {
        writeln!(table, "| {name} | {figure:.3} |")?;
    }
    Ok(())
}

/// Direct measurements and the forwarded ones that are like them.
fn pairs<T>(
    rows: &[T],
    like: impl Fn(&T) -> (Kind, Link, usize),
    route: impl Fn(&T) -> Route,
) -> Vec<(&T, &T)> {
    let forwarded = rows.iter().filter(|row| route(row) == Route::Forwarded);
    let pairs = forwarded.filter_map(|hop| {
        let mut direct = rows.iter().filter(|row| route(row) == Route::Direct);
        Some((direct.find(|row| like(row) == like(hop))?, hop))
    });
    pairs.collect()
}

impl Link {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Clear => "ws",
            Self::Tls => "wss and https",
            Self::Narrow => "ws, narrow link to the user",
        }
    }
}

impl Route {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Forwarded => "forwarded",
        }
    }
}

impl Kind {
    /// Its name in figures.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Simulated => "simulated",
            Self::Agentk => "agentk",
            Self::GoAgentk => "go-agentk",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Simulated => "simulated agent",
            Self::Agentk => "agentk, HTTP backend",
            Self::GoAgentk => "GitLab's agentk, HTTP backend",
        }
    }
}

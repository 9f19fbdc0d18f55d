//! Requests through one replica, or two, to one agent: rate, latency, CPU, bulk.

use std::time::Duration;

use anyhow::ensure;

use super::{
    Bench, Link, Part, Route, Run,
    agents::{Agents, Kind},
    probe::{BODY, options, reachable},
    report::{Bulk, Report, Requests},
};
use crate::{
    chaos::{Chaos, Mode},
    output,
    topology::{Replica, Store},
    traffic,
};

const CLIENTS: [usize; 3] = [1, 16, 64];
const WARM_UP_SECONDS: f64 = 1.0;
/// Bytes a second of a narrow link: a gigabit. Its pieces wait for whole milliseconds, so it carries about half.
const NARROW_BYTES_PER_SECOND: u32 = 125_000_000;

/// What a request passes through.
struct Path {
    agents: Agents,
    /// Where the agent is connected.
    owner: Replica,
    /// Where requests enter, if that is another one.
    entry: Option<Replica>,
    store: Option<Store>,
    kind: Kind,
    route: Route,
    link: Link,
    /// In front of the entry, if the link is narrow.
    front: Option<Chaos>,
}

/// Measures with an agent of this kind.
pub(super) async fn measure(
    bench: &Bench,
    kind: Kind,
    route: Route,
    link: Link,
    report: &mut Report,
) -> anyhow::Result<()> {
    let path = Path::start(bench, kind, route, link).await?;
    reachable(path.options(bench, BODY)).await?;
    let wants_requests = bench.wants(Part::Requests) || bench.wants(Part::Hop);
    if wants_requests && link != Link::Narrow {
        for clients in CLIENTS {
            report.requests.push(requests(bench, &path, clients).await?);
        }
    }
    if bench.wants(Part::Bulk) || bench.wants(Part::Hop) {
        report.bulk.push(bulk(bench, &path).await?);
    }
    path.end().await;
    Ok(())
}

impl Path {
    async fn start(bench: &Bench, kind: Kind, route: Route, link: Link) -> anyhow::Result<Self> {
        let store = match route {
            Route::Direct => None,
            Route::Forwarded => {
                Some(Store::start(&bench.options.redis_server, bench.logs()).await?)
            }
        };
        let run = Run {
            tls: link == Link::Tls,
            https: link == Link::Tls,
            redis: store.as_ref().map(Store::port),
        };
        let owner = bench.replica(run).await?;
        let entry = match route {
            Route::Direct => None,
            Route::Forwarded => Some(bench.replica(run).await?),
        };
        let mut path = Self {
            agents: Agents::one(bench, &owner, kind).await?,
            owner,
            entry,
            store,
            kind,
            route,
            link,
            front: None,
        };
        if link == Link::Narrow {
            let front = Chaos::start(&[path.entry().ports.users]).await?;
            front.set(Mode::Throttle(NARROW_BYTES_PER_SECOND));
            path.front = Some(front);
        }
        Ok(path)
    }

    fn url(&self, path: &str) -> String {
        let entry = self.entry();
        let port = self.front.as_ref().map_or(entry.ports.users, Chaos::port);
        entry.url_at(port, path)
    }

    fn options(&self, bench: &Bench, path: &str) -> traffic::Options {
        traffic::Options {
            ca_cert_file: (self.link == Link::Tls).then(|| bench.control.certificate.clone()),
            ..options(bench, self.url(path))
        }
    }

    fn entry(&self) -> &Replica {
        self.entry.as_ref().unwrap_or(&self.owner)
    }

    /// CPU time of all replicas, and of the agent.
    fn cpu(&self) -> anyhow::Result<(Duration, Duration)> {
        let entry = self.entry.as_ref().map(Replica::sample).transpose()?;
        let entry = entry.map_or(Duration::ZERO, |sample| sample.cpu);
        let owner = self.owner.sample()?.cpu;
        Ok((owner + entry, self.agents.sample()?.cpu))
    }

    async fn end(self) {
        self.agents.end().await;
        self.owner.end().await;
        if let Some(entry) = self.entry {
            entry.end().await;
        }
        if let Some(store) = self.store {
            store.end().await;
        }
    }
}

async fn requests(bench: &Bench, path: &Path, clients: usize) -> anyhow::Result<Requests> {
    let (kind, route, link) = (path.kind, path.route, path.link);
    output::progress(&format!("{kind:?}, {route:?}, {link:?}: {clients} clients"));
    let mut options = path.options(bench, BODY);
    options.clients = clients;
    options.duration = Some(WARM_UP_SECONDS);
    traffic::send(&options).await?;
    options.duration = Some(bench.options.seconds);
    let before = path.cpu()?;
    let sent = traffic::send(&options).await?;
    let after = path.cpu()?;
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / sent.requests.max(1) as f64;
    Ok(Requests {
        kind,
        route,
        link,
        clients,
        kas_cpu_us: each(after.0.saturating_sub(before.0)),
        agent_cpu_us: each(after.1.saturating_sub(before.1)),
        sent,
    })
}

async fn bulk(bench: &Bench, path: &Path) -> anyhow::Result<Bulk> {
    let (kind, route, link) = (path.kind, path.route, path.link);
    output::progress(&format!("{kind:?}, {route:?}, {link:?}: 200 MiB"));
    let mut options = path.options(bench, "");
    options.bulk = true;
    let mut runs = Vec::new();
    for _ in 0..bench.options.bodies.max(1) {
        let before = path.cpu()?.0;
        let sent = traffic::send(&options).await?;
        ensure!(
            sent.errors() == 0,
            "the body of 200 MiB did not arrive: {sent:?}"
        );
        let cpu = path.cpu()?.0.saturating_sub(before);
        runs.push(Bulk {
            kind,
            route,
            link,
            mebibytes_per_second: sent.mebibytes_per_second,
            kas_cpu_ms: cpu.as_secs_f64() * 1e3,
        });
    }
    runs.sort_by(|a, b| a.mebibytes_per_second.total_cmp(&b.mebibytes_per_second));
    Ok(runs.swap_remove(runs.len() / 2))
}

//! Many agents that connect and disconnect all the time: what is kept of them is bounded, they are shown as what they are,
//! and an agent beside them is served and shown as ever.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{
    http::{self as client, Socket},
    parts::{Part, skipped},
    process::Process,
    programs,
    wait::until,
};
use tokio::process::Command;

use super::{LIMIT, Site, holds};

const AGENTS: usize = 60;
/// Connections that are dropped before it is counted what that cost, and as many after.
const DROPPED: u64 = 1200;
/// Records of an agent that the store keeps, with those that wait to be trimmed.
const MAX_RECORDS: usize = 32 + 16;
/// Commands to the store for a connection that is dropped and made again, at both replicas together.
const MAX_COMMANDS: u64 = 12;
/// What a replica may hold more after the second half than after the first.
const MAX_GROWTH_KIB: u64 = 48 << 10;

/// The agents that flap, at both replicas.
struct Flapping {
    fleet: Process,
}

impl Flapping {
    async fn start(site: &Site) -> Result<Self> {
        let mut tokens = String::new();
        for number in 1..=AGENTS {
            let name = format!("flapping-{number}");
            let token = site.replicas.cli(&["agent", "create", &name]).await?;
            tokens.push_str(token.trim());
            tokens.push('\n');
        }
        let file = site.folder.path().join("tokens");
        std::fs::write(&file, tokens)?;
        let members = site.replicas.members.iter();
        let addresses = members.map(|it| format!("grpc://127.0.0.1:{}", it.agents));
        let addresses: Vec<_> = addresses.collect();
        let mut command = Command::new(programs::loadtest()?);
        command
            .arg("fleet")
            .arg(format!("--kas-address={}", addresses.join(",")))
            .arg(format!("--token-file={}", file.display()))
            .arg(format!("--agents={AGENTS}"))
            .args(["--churn-rate=100", "--impatient", "--eager", "--status"]);
        let mut fleet = Process::spawn("fleet", &mut command, site.folder.path())?;
        let ready = format!("ready: {AGENTS} agents");
        fleet.wait_for(&ready, LIMIT).await?;
        Ok(Self { fleet })
    }

    /// Connections that were dropped until now.
    fn dropped(&self) -> Option<u64> {
        let output = self.fleet.output();
        let mut lines = output.lines().rev();
        let last = lines.find_map(|it| it.strip_prefix("status: "))?;
        let last: Value = serde_json::from_str(last).ok()?;
        last["connections_dropped"].as_u64()
    }

    /// Waits until so many were dropped, while a bystander is asked.
    async fn drops(&self, site: &Site, count: u64) -> Result<()> {
        let url = format!(
            "http://127.0.0.1:{}/k8s-proxy/version",
            site.replicas.members[1].users
        );
        let dropped = async || {
            let answer = client::get(&url, &site.bearer).await;
            assert!(
                answer.as_ref().is_ok_and(|it| it.status().is_success()),
                "a bystander's request: {answer:?}"
            );
            (self.dropped()? >= count).then_some(())
        };
        until("agents to have dropped connections", 2 * LIMIT, dropped).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_flap_cost_a_bounded_part_and_are_in_nobodys_way() -> Result<()> {
    const NAME: &str = "agents_that_flap_cost_a_bounded_part_and_are_in_nobodys_way";
    if skipped(NAME, &[Part::Redis]) {
        return Ok(());
    }
    let site = Site::start().await?;
    let flapping = Flapping::start(&site).await?;
    // Somebody who listens and does not read.
    let port = site.replicas.members[0].admin;
    let mut deaf = Socket::open(port).await?;
    let asked = format!("GET /v1/events HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
    deaf.write(asked.as_bytes()).await?;
    deaf.read_until(": listening\n\n", LIMIT).await?;

    flapping.drops(&site, DROPPED).await?;
    let first = Cost::of(&site).await?;
    let began = flapping.dropped().context("a count")?;
    flapping.drops(&site, began + DROPPED).await?;
    let second = Cost::of(&site).await?;
    let dropped = flapping.dropped().context("a count")? - began;

    let commands = second.commands - first.commands;
    ensure!(
        commands <= MAX_COMMANDS * dropped,
        "{commands} commands for {dropped} connections"
    );
    for (before, after) in first.resident_kib.iter().zip(&second.resident_kib) {
        ensure!(
            *after <= before + MAX_GROWTH_KIB,
            "{before} KiB, then {after}"
        );
    }
    let shown = async || {
        let list = site
            .ask(1, "/v1/agents?name=flapping&state=degraded")
            .await?;
        let agents = list["agents"].as_array().context("a list")?;
        ensure!(agents.len() > AGENTS / 2, "{} are degraded", agents.len());
        for agent in agents {
            let problem = agent["problems"][0].as_str().unwrap_or_default();
            ensure!(problem.contains("connections broke"), "{agent:#}");
        }
        let prod = site.ask(1, "/v1/agents/prod").await?;
        ensure!(prod["agent"]["state"] == "connected", "{prod:#}");
        ensure!(prod["agent"]["health"] == "healthy", "{prod:#}");
        anyhow::Ok(())
    };
    holds(shown).await.with_context(|| site.tails())?;
    let records = records(&site).await?;
    ensure!(records.len() <= AGENTS + 2, "{records:?}");
    for (key, length) in &records {
        ensure!(*length <= MAX_RECORDS, "{key}: {length}");
    }
    // Whoever listens anew is told, whatever the deaf one does.
    let mut listener = Socket::open(port).await?;
    listener.write(asked.as_bytes()).await?;
    listener.read_until(": listening\n\n", LIMIT).await?;
    drop(flapping);
    listener
        .read_until("event: agent.disconnected\n", LIMIT)
        .await?;
    drop(deaf);
    Ok(())
}

/// What was spent until now.
struct Cost {
    commands: u64,
    resident_kib: Vec<u64>,
}

impl Cost {
    async fn of(site: &Site) -> Result<Self> {
        let stats = redis(site, &["info", "commandstats"]).await?;
        let calls = stats.lines().filter(|it| !it.starts_with("cmdstat_info"));
        let calls = calls.filter_map(|line| {
            let (_, rest) = line.split_once("calls=")?;
            rest.split(',').next()?.parse::<u64>().ok()
        });
        let commands = calls.sum();
        let members = site.replicas.members.iter();
        let resident_kib = members.map(|it| resident_kib(&it.process));
        Ok(Self {
            commands,
            resident_kib: resident_kib.collect::<Result<_>>()?,
        })
    }
}

fn resident_kib(process: &Process) -> Result<u64> {
    let id = process.id().context("the process has ended")?;
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.context("no VmRSS")?.parse()?)
}

/// The lists of connection records, and how many each has.
async fn records(site: &Site) -> Result<BTreeMap<String, usize>> {
    let keys = redis(site, &["keys", "gitlab-kas:kas2:connections:*"]).await?;
    let mut lengths = BTreeMap::new();
    for key in keys.lines() {
        let length = redis(site, &["llen", key]).await?;
        lengths.insert(key.to_owned(), length.trim().parse()?);
    }
    Ok(lengths)
}

async fn redis(site: &Site, args: &[&str]) -> Result<String> {
    let port = site.replicas.store.port().to_string();
    let output = Command::new("redis-cli")
        .args(["-p", &port])
        .args(args)
        .output()
        .await?;
    ensure!(output.status.success(), "{args:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

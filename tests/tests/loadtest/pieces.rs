//! `loadtest fleet`, `traffic` and `faults` one by one, against a kas that is not theirs.

use std::{path::Path, process::Output};

use anyhow::{Context, Result};
use serde_json::Value;
use tests::{
    kas::{Kas, Options},
    ports,
    process::Process,
    programs,
    wait::until,
};
use tokio::{io::AsyncReadExt, net::TcpStream, process::Command};

use crate::place::{LIMIT, Place, text};

struct World {
    place: Place,
    kas: Kas,
    token: String,
    bearer: String,
}

impl World {
    async fn new(name: &str) -> Result<Self> {
        let place = Place::new(name)?;
        let kas = Kas::start(Options::default(), &place.0).await?;
        let token = kas.create_agent("one").await?;
        let user = kas.create_user("dev", "one", &["agent"]).await?;
        let bearer = format!("pat:{}:{}", kas.agent_id("one").await?, user.trim());
        Ok(Self {
            place,
            kas,
            token,
            bearer,
        })
    }

    /// Instances of one agent.
    fn fleet(&self, arguments: &[&str]) -> Result<Process> {
        let mut command = Command::new(programs::loadtest()?);
        command
            .arg("fleet")
            .arg(format!("--kas-address=ws://127.0.0.1:{}/", self.kas.agents))
            .arg(format!("--token={}", self.token.trim()))
            .args(arguments);
        Process::spawn("fleet", &mut command, &self.place.0)
    }

    async fn traffic(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(programs::loadtest()?);
        command
            .arg("traffic")
            .arg(format!(
                "--url=http://127.0.0.1:{}/k8s-proxy",
                self.kas.users
            ))
            .arg(format!("--bearer={}", self.bearer))
            // A busy machine takes longer than half a minute for a large answer.
            .arg("--timeout=120")
            .args(arguments)
            .kill_on_drop(true);
        let output = tokio::time::timeout(LIMIT, command.output()).await;
        Ok(output.context("the traffic hangs")??)
    }

    fn faults(&self, timetable: &str, arguments: &[String]) -> Result<Process> {
        let file = self.place.0.join("timetable.yaml");
        std::fs::write(&file, timetable)?;
        let mut command = Command::new(programs::loadtest()?);
        command.arg("faults").arg(file).args(arguments);
        Process::spawn("faults", &mut command, &self.place.0)
    }
}

#[tokio::test]
async fn all_kinds_of_requests_are_answered_by_both_kinds_of_agents() -> Result<()> {
    let world = World::new("kinds").await?;
    let agentk = format!("--agentk={}", programs::agentk()?.display());
    let mut fleet = world.fleet(&["--agents=3", "--real=1", &agentk])?;
    fleet.wait_for("ready: 3 agents", LIMIT).await?;

    let mix = "--mix=short=20,list=2,watch=1,logs=1,exec=4,upload=2,bulk=0.1";
    let output = world.traffic(&[mix, "--duration=3"]).await?;

    assert!(output.status.success(), "{}", text(&output));
    let reports: Value = serde_json::from_slice(&output.stdout)?;
    for kind in ["short", "list", "watch", "logs", "exec", "upload", "bulk"] {
        let report = &reports[kind];
        assert!(report["requests"].as_u64() > Some(0), "{kind}: {report}");
    }
    assert!(reports["exec"]["latency_ms"]["p99"].as_f64() > Some(0.0));
    fleet.end_by("TERM", LIMIT).await?;
    Ok(())
}

#[tokio::test]
async fn an_exec_that_nobody_answers_is_counted_as_failed() -> Result<()> {
    let mut world = World::new("refused-exec").await?;
    world.bearer = "pat:1:nobody".to_owned();

    let output = world.traffic(&["--mix=exec=5", "--duration=1"]).await?;

    assert!(!output.status.success());
    assert!(
        text(&output).contains("\"status 401\""),
        "{}",
        text(&output)
    );
    Ok(())
}

#[tokio::test]
async fn agents_drop_their_connections_at_the_rate_of_churn() -> Result<()> {
    let world = World::new("churn").await?;
    let mut fleet = world.fleet(&["--agents=5", "--churn-rate=10", "--status"])?;

    fleet.wait_for("ready: 5 agents", LIMIT).await?;
    until(
        "agents have dropped connections and are back",
        LIMIT,
        async || {
            let output = fleet.output();
            let last = output
                .lines()
                .rev()
                .find_map(|it| it.strip_prefix("status: "))?;
            let last: Value = serde_json::from_str(last).ok()?;
            let dropped = last["connections_dropped"].as_u64()? >= 20;
            (dropped && last["connections_made"].as_u64()? >= 20).then_some(())
        },
    )
    .await?;

    assert!(fleet.is_running());
    Ok(())
}

#[tokio::test]
async fn a_link_is_cut_by_the_timetable_and_goes_on_after_it() -> Result<()> {
    let world = World::new("links").await?;
    let port = ports::free();
    let link = format!(
        "--link=users=127.0.0.1:{port}=127.0.0.1:{}",
        world.kas.users
    );
    let timetable = "- {at: 0, do: cut, of: users, every: 0.1, for: 10}\n";
    let mut faults = world.faults(timetable, &[link])?;
    faults.wait_for("ready", LIMIT).await?;

    let mut open = TcpStream::connect(("127.0.0.1", port)).await?;
    let read = tokio::time::timeout(LIMIT, open.read_u8()).await?;

    assert!(read.is_err(), "the connection was cut");
    let said = faults.wait_for("cut users", LIMIT).await?;
    assert!(said.contains("\"to\""), "{said}");
    TcpStream::connect(("127.0.0.1", port)).await?;
    assert!(faults.is_running());
    Ok(())
}

#[tokio::test]
async fn a_process_goes_on_when_its_freeze_is_interrupted() -> Result<()> {
    let world = World::new("freeze").await?;
    let pid = world.kas.process.id().context("kas runs")?;
    let timetable = "- {at: 0, do: freeze, of: replica-1, for: 600}\n";
    let mut faults = world.faults(timetable, &[format!("--process=replica-1={pid}")])?;
    until("kas is stopped", LIMIT, async || {
        is_stopped(pid)?.then_some(())
    })
    .await?;

    faults.end_by("INT", LIMIT).await?;

    until("kas goes on", LIMIT, async || {
        (!is_stopped(pid)?).then_some(())
    })
    .await
}

fn is_stopped(pid: u32) -> Option<bool> {
    let stat = std::fs::read_to_string(Path::new(&format!("/proc/{pid}/stat"))).ok()?;
    let (_, state) = stat.rsplit_once(") ")?;
    Some(state.starts_with('T'))
}

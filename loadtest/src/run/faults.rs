//! Faults as they happen.

use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Signal, kill_process};
use tokio::time::{Instant, sleep};

use super::stage::Stage;
use crate::{
    chaos::{Chaos, Mode},
    scenario::{Action, Fault, Subject},
    topology::Store,
};

/// How long a replica may take to leave.
const LEAVE: Duration = Duration::from_secs(60);
/// How long a killed process may take to be gone.
const GONE: Duration = Duration::from_secs(5);

/// Makes a fault happen, and ends it.
///
/// # Errors
/// When it cannot be made or ended.
pub(super) async fn happen(fault: &Fault, stage: &Stage) -> anyhow::Result<()> {
    let done = match (fault.action, fault.of) {
        (Action::Cut, Some(of)) => {
            cut(fault, &links(stage, of)).await;
            Ok(())
        }
        (Action::BlackHole, Some(of)) => {
            let links = links(stage, of);
            disturb(&links, Mode::BlackHole, fault.lasts()).await;
            links.iter().for_each(|link| link.cut());
            Ok(())
        }
        (Action::Delay, Some(of)) => {
            let delay = Duration::from_millis(fault.ms.unwrap_or_default());
            disturb(&links(stage, of), Mode::Delay(delay), fault.lasts()).await;
            Ok(())
        }
        (Action::Throttle, Some(of)) => {
            let rate = fault.kib_per_second.unwrap_or(1).saturating_mul(1024);
            disturb(&links(stage, of), Mode::Throttle(rate), fault.lasts()).await;
            Ok(())
        }
        (Action::Kill, Some(Subject::Redis)) => kill_redis(stage, fault.lasts()).await,
        (Action::Freeze, Some(Subject::Redis)) => freeze(stage, "redis", fault.lasts()).await,
        (Action::Freeze, Some(Subject::Replica(number))) => {
            freeze(stage, &name(number), fault.lasts()).await
        }
        (Action::Kill, Some(Subject::Replica(number))) => {
            leave(stage, number, Signal::KILL).await?;
            sleep(fault.lasts()).await;
            come_back(stage, number).await
        }
        (Action::Terminate, Some(Subject::Replica(number))) => {
            leave(stage, number, Signal::TERM).await?;
            come_back(stage, number).await
        }
        (Action::RollingRestart, _) => {
            for number in 1..=stage.replicas.len() {
                leave(stage, number, Signal::TERM).await?;
                come_back(stage, number).await?;
                sleep(Duration::from_secs(1)).await;
            }
            Ok(())
        }
        (Action::Reconnect, _) => stage.agents.reconnect(),
        (
            Action::Cut
            | Action::BlackHole
            | Action::Delay
            | Action::Throttle
            | Action::Kill
            | Action::Freeze
            | Action::Terminate,
            _,
        ) => {
            bail!("this cannot happen to that")
        }
    };
    done.with_context(|| fault.name())
}

fn name(replica: usize) -> String {
    format!("replica {replica}")
}

fn links(stage: &Stage, of: Subject) -> Vec<&Chaos> {
    let links = &stage.links;
    match of {
        Subject::Agents => links.agents.iter().collect(),
        Subject::Users => links.users.iter().collect(),
        Subject::Redis => links.redis.iter().collect(),
        Subject::Peers => links.peers.iter().collect(),
        Subject::Replica(_) => Vec::new(),
    }
}

/// Once, or again and again for as long as it lasts.
async fn cut(fault: &Fault, links: &[&Chaos]) {
    let until = Instant::now() + fault.lasts();
    loop {
        links.iter().for_each(|link| link.cut());
        let Some(every) = fault.every else { return };
        let next = Instant::now() + Duration::from_secs_f64(every);
        if next > until {
            return;
        }
        tokio::time::sleep_until(next).await;
    }
}

async fn disturb(links: &[&Chaos], mode: Mode, lasts: Duration) {
    links.iter().for_each(|link| link.set(mode));
    sleep(lasts).await;
    links.iter().for_each(|link| link.set(Mode::Pass));
}

async fn freeze(stage: &Stage, name: &str, lasts: Duration) -> anyhow::Result<()> {
    signal(stage, name, Signal::STOP)?;
    sleep(lasts).await;
    signal(stage, name, Signal::CONT)
}

fn signal(stage: &Stage, name: &str, signal: Signal) -> anyhow::Result<()> {
    let all = stage.census.all();
    let (_, pid) = all
        .iter()
        .find(|(known, _)| known == name)
        .with_context(|| format!("{name} does not run"))?;
    kill_process(*pid, signal).with_context(|| format!("{name} is gone"))
}

async fn leave(stage: &Stage, number: usize, how: Signal) -> anyhow::Result<()> {
    let name = name(number);
    signal(stage, &name, how)?;
    if stage.replicas.is_empty() {
        // Whoever runs it starts it again, or not.
        stage.census.went(&name);
        return Ok(());
    }
    let mut replica = stage.replica(number)?.lock().await;
    let within = if how == Signal::KILL { GONE } else { LEAVE };
    let ended = replica.ended(within).await;
    stage.census.went(&name);
    ended.map(|_| ())
}

async fn come_back(stage: &Stage, number: usize) -> anyhow::Result<()> {
    if stage.replicas.is_empty() {
        return Ok(());
    }
    let mut replica = stage.replica(number)?.lock().await;
    replica.launch().await?;
    stage.census.came(&name(number), replica.pid()?);
    Ok(())
}

async fn kill_redis(stage: &Stage, away: Duration) -> anyhow::Result<()> {
    let mut redis = stage
        .redis
        .as_ref()
        .context("there is no Redis")?
        .lock()
        .await;
    let killed = redis.take().context("Redis does not run")?;
    let port = killed.port();
    killed.signal(Signal::KILL)?;
    killed.end().await;
    stage.census.went("redis");
    sleep(away).await;
    let again = Store::on(port, &stage.redis_server, &stage.logs).await?;
    stage.census.came("redis", again.pid());
    *redis = Some(again);
    Ok(())
}

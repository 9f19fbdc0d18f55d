//! Faults as they happen.

use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use super::Reach;
use crate::{
    chaos::{Chaos, Mode},
    scenario::{Action, Fault, Subject},
    topology::Store,
};

/// How long a replica may take to leave.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a killed process may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes a fault happen, and ends it.
///
/// # Errors
/// When it cannot be made or ended.
pub(crate) async fn happen(fault: &Fault, reach: &Reach) -> anyhow::Result<()> {
    let done = match (fault.action, fault.of) {
        (Action::Cut, Some(of)) => {
            cut(fault, &reach.links.of(of)).await;
            Ok(())
        }
        (Action::BlackHole, Some(of)) => {
            let links = reach.links.of(of);
            disturb(&links, Mode::BlackHole, fault.lasts()).await;
            links.iter().for_each(|link| link.cut());
            Ok(())
        }
        (Action::Delay, Some(of)) => {
            let delay = Duration::from_millis(fault.ms.unwrap_or_default());
            disturb(&reach.links.of(of), Mode::Delay(delay), fault.lasts()).await;
            Ok(())
        }
        (Action::Throttle, Some(of)) => {
            let rate = fault.kib_per_second.unwrap_or(1).saturating_mul(1024);
            disturb(&reach.links.of(of), Mode::Throttle(rate), fault.lasts()).await;
            Ok(())
        }
        (Action::Kill, Some(Subject::Redis)) if reach.redis.is_none() => {
            signal(reach, "redis", Signal::KILL)
        }
        (Action::Kill, Some(Subject::Redis)) => kill_redis(reach, fault.lasts()).await,
        (Action::Freeze, Some(Subject::Redis)) => freeze(reach, "redis", fault.lasts()).await,
        (Action::Freeze, Some(Subject::Replica(number))) => {
            freeze(reach, &name(number), fault.lasts()).await
        }
        (Action::Kill, Some(Subject::Replica(number))) => {
            leave(reach, number, Signal::KILL).await?;
            sleep(fault.lasts()).await;
            come_back(reach, number).await
        }
        (Action::Terminate, Some(Subject::Replica(number))) => {
            leave(reach, number, Signal::TERM).await?;
            come_back(reach, number).await
        }
        (Action::RollingRestart, _) => {
            for number in 1..=reach.replicas.len() {
                leave(reach, number, Signal::TERM).await?;
                come_back(reach, number).await?;
                sleep(Duration::from_secs(1)).await;
            }
            Ok(())
        }
        (
            Action::Cut
            | Action::BlackHole
            | Action::Delay
            | Action::Throttle
            | Action::Kill
            | Action::Freeze
            | Action::Terminate
            | Action::Reconnect,
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

/// A process that does not run until this is dropped, however the fault ends.
struct Stopped(Pid);

impl Drop for Stopped {
    fn drop(&mut self) {
        // Fails only when it is gone.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

async fn freeze(reach: &Reach, name: &str, lasts: Duration) -> anyhow::Result<()> {
    signal(reach, name, Signal::STOP)?;
    let _stopped = Stopped(pid(reach, name)?);
    sleep(lasts).await;
    Ok(())
}

fn signal(reach: &Reach, name: &str, signal: Signal) -> anyhow::Result<()> {
    kill_process(pid(reach, name)?, signal).with_context(|| format!("{name} is gone"))
}

fn pid(reach: &Reach, name: &str) -> anyhow::Result<Pid> {
    let all = reach.census.all();
    let known = all.iter().find(|(known, _)| known == name);
    let (_, pid) = known.with_context(|| format!("{name} does not run"))?;
    Ok(*pid)
}

async fn leave(reach: &Reach, number: usize, how: Signal) -> anyhow::Result<()> {
    let name = name(number);
    signal(reach, &name, how)?;
    if reach.replicas.is_empty() {
        // Whoever runs it starts it again, or not.
        reach.census.went(&name);
        return Ok(());
    }
    let mut replica = reach.replica(number)?.lock().await;
    let within = if how == Signal::KILL {
        KILL_TIMEOUT
    } else {
        DRAIN_TIMEOUT
    };
    let ended = replica.ended(within).await;
    reach.census.went(&name);
    ended.map(|_| ())
}

async fn come_back(reach: &Reach, number: usize) -> anyhow::Result<()> {
    if reach.replicas.is_empty() {
        return Ok(());
    }
    let mut replica = reach.replica(number)?.lock().await;
    replica.launch().await?;
    reach.census.came(&name(number), replica.pid()?);
    Ok(())
}

async fn kill_redis(reach: &Reach, away: Duration) -> anyhow::Result<()> {
    let mut redis = reach
        .redis
        .as_ref()
        .context("there is no Redis")?
        .lock()
        .await;
    let killed = redis.take().context("Redis does not run")?;
    let port = killed.port();
    killed.signal(Signal::KILL)?;
    killed.end().await;
    reach.census.went("redis");
    sleep(away).await;
    let again = Store::on(port, &reach.redis_server, &reach.logs).await?;
    reach.census.came("redis", again.pid());
    *redis = Some(again);
    Ok(())
}

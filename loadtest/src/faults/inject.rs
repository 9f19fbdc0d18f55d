//! Faults as they happen.

use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use super::FaultSubjects;
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
pub(crate) async fn inject(fault: &Fault, subjects: &FaultSubjects) -> anyhow::Result<()> {
    let done = match (fault.action, fault.of) {
        (Action::Cut, Some(of)) => {
            cut(fault, &subjects.links.of(of)).await;
            Ok(())
        }
        (Action::BlackHole, Some(of)) => {
            let links = subjects.links.of(of);
            disturb(&links, Mode::BlackHole, fault.lasts()).await;
            links.iter().for_each(|link| link.cut());
            Ok(())
        }
        (Action::Delay, Some(of)) => {
            let delay = Duration::from_millis(fault.ms.unwrap_or_default());
            disturb(&subjects.links.of(of), Mode::Delay(delay), fault.lasts()).await;
            Ok(())
        }
        (Action::Throttle, Some(of)) => {
            let rate = fault.kib_per_second.unwrap_or(1).saturating_mul(1024);
            disturb(&subjects.links.of(of), Mode::Throttle(rate), fault.lasts()).await;
            Ok(())
        }
        (Action::Kill, Some(Subject::Redis)) if subjects.redis.is_none() => {
            signal(subjects, "redis", Signal::KILL)
        }
        (Action::Kill, Some(Subject::Redis)) => kill_redis(subjects, fault.lasts()).await,
        (Action::Freeze, Some(Subject::Redis)) => freeze(subjects, "redis", fault.lasts()).await,
        (Action::Freeze, Some(Subject::Replica(number))) => {
            freeze(subjects, &name(number), fault.lasts()).await
        }
        (Action::Kill, Some(Subject::Replica(number))) => {
            leave(subjects, number, Signal::KILL).await?;
            sleep(fault.lasts()).await;
            come_back(subjects, number).await
        }
        (Action::Terminate, Some(Subject::Replica(number))) => {
            leave(subjects, number, Signal::TERM).await?;
            come_back(subjects, number).await
        }
        (Action::RollingRestart, _) => {
            for number in 1..=subjects.replicas.len() {
                leave(subjects, number, Signal::TERM).await?;
                come_back(subjects, number).await?;
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
            bail!("this subject has no such fault")
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
struct PausedProcess(Pid);

impl Drop for PausedProcess {
    fn drop(&mut self) {
        // Fails only when it is gone.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

async fn freeze(subjects: &FaultSubjects, name: &str, lasts: Duration) -> anyhow::Result<()> {
    signal(subjects, name, Signal::STOP)?;
    let _paused = PausedProcess(pid(subjects, name)?);
    sleep(lasts).await;
    Ok(())
}

fn signal(subjects: &FaultSubjects, name: &str, signal: Signal) -> anyhow::Result<()> {
    kill_process(pid(subjects, name)?, signal).with_context(|| format!("{name} is gone"))
}

fn pid(subjects: &FaultSubjects, name: &str) -> anyhow::Result<Pid> {
    let all = subjects.processes.all();
    let known = all.iter().find(|(known, _)| known == name);
    let (_, pid) = known.with_context(|| format!("{name} does not run"))?;
    Ok(*pid)
}

async fn leave(subjects: &FaultSubjects, number: usize, how: Signal) -> anyhow::Result<()> {
    let name = name(number);
    signal(subjects, &name, how)?;
    if subjects.replicas.is_empty() {
        // Whoever runs it starts it again, or not.
        subjects.processes.remove(&name);
        return Ok(());
    }
    let mut replica = subjects.replica(number)?.lock().await;
    let within = if how == Signal::KILL {
        KILL_TIMEOUT
    } else {
        DRAIN_TIMEOUT
    };
    let ended = replica.ended(within).await;
    subjects.processes.remove(&name);
    ended.map(|_| ())
}

async fn come_back(subjects: &FaultSubjects, number: usize) -> anyhow::Result<()> {
    if subjects.replicas.is_empty() {
        return Ok(());
    }
    let mut replica = subjects.replica(number)?.lock().await;
    replica.launch().await?;
    subjects.processes.insert(&name(number), replica.pid()?);
    Ok(())
}

async fn kill_redis(subjects: &FaultSubjects, away: Duration) -> anyhow::Result<()> {
    let mut redis = subjects
        .redis
        .as_ref()
        .context("there is no Redis")?
        .lock()
        .await;
    let killed = redis.take().context("Redis does not run")?;
    let port = killed.port();
    killed.signal(Signal::KILL)?;
    killed.end().await;
    subjects.processes.remove("redis");
    sleep(away).await;
    let again = Store::on(port, &subjects.redis_server, &subjects.logs).await?;
    subjects.processes.insert("redis", again.pid());
    *redis = Some(again);
    Ok(())
}

//! What breaks: one fault after the other, each with time to recover.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{
    chaos::{Chaos, Mode},
    redis::Redis,
    replicas::Replicas,
};
use tokio::time::{Instant, sleep, sleep_until};

use crate::fleet::Newcomers;

/// What faults work on.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    pub(crate) replicas: &'a mut Replicas,
    /// The load balancer before the agents' port.
    pub(crate) balancer: &'a Chaos,
    pub(crate) folder: &'a std::path::Path,
    pub(crate) newcomers: &'a Newcomers,
    /// How long a lasting fault lasts.
    pub(crate) lasts: Duration,
}

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Nothing,
    ResetEverySecond,
    ResetEveryFiveSeconds,
    BlackHole,
    KillReplica,
    StopReplica,
    FreezeReplica,
    PartitionPeers,
    PartitionFromRedis,
    KillRedis,
    FreezeRedis,
    SlowRedis,
    RollingRestart,
}

/// How long a replica may take to leave: the grace period of its requests and a little more.
const LEAVE: Duration = Duration::from_secs(45);

impl Fault {
    /// All of them, in the order in which they happen.
    pub(crate) const ALL: [Self; 13] = [
        Self::Nothing,
        Self::ResetEveryFiveSeconds,
        Self::KillReplica,
        Self::KillRedis,
        Self::PartitionFromRedis,
        Self::StopReplica,
        Self::FreezeRedis,
        Self::PartitionPeers,
        Self::FreezeReplica,
        Self::SlowRedis,
        Self::BlackHole,
        Self::ResetEverySecond,
        Self::RollingRestart,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::ResetEverySecond => "load balancer resets every connection each second",
            Self::ResetEveryFiveSeconds => "load balancer resets every connection each 5 s",
            Self::BlackHole => "load balancer carries nothing, then resets",
            Self::KillReplica => "SIGKILL of a replica, restarted after 3 s",
            Self::StopReplica => "SIGTERM of a replica, restarted",
            Self::FreezeReplica => "SIGSTOP of a replica, then SIGCONT",
            Self::PartitionPeers => "partition of one replica from the others",
            Self::PartitionFromRedis => "partition of one replica from Redis",
            Self::KillRedis => "SIGKILL of Redis, empty restart after 3 s",
            Self::FreezeRedis => "SIGSTOP of Redis, a new agent meanwhile, then SIGCONT",
            Self::SlowRedis => "2 s for each answer of Redis",
            Self::RollingRestart => "rolling restart of all replicas",
        }
    }

    /// Makes it happen, and ends it.
    pub(crate) async fn happen(self, stage: &mut Stage<'_>) -> Result<()> {
        match self {
            Self::Nothing => sleep(stage.lasts).await,
            Self::ResetEverySecond => stage.reset_each(Duration::from_secs(1)).await,
            Self::ResetEveryFiveSeconds => stage.reset_each(Duration::from_secs(5)).await,
            Self::BlackHole => {
                stage.balancer.set(Mode::BlackHole);
                sleep(stage.lasts).await;
                stage.balancer.cut();
                stage.balancer.set(Mode::Pass);
            }
            Self::KillReplica => {
                let killed = &mut stage.replicas.members[0].process;
                killed.end_by("KILL", Duration::from_secs(5)).await?;
                sleep(Duration::from_secs(3)).await;
                stage.replicas.restart(0).await?;
            }
            Self::StopReplica => stage.restart_in_order(1).await?,
            Self::FreezeReplica => {
                stage.replicas.members[2].process.signal("STOP").await?;
                sleep(stage.lasts).await;
                stage.replicas.members[2].process.signal("CONT").await?;
            }
            Self::PartitionPeers => {
                stage.replicas.members[0].from_peers.set(Mode::BlackHole);
                sleep(stage.lasts).await;
                stage.replicas.members[0].from_peers.cut();
                stage.replicas.members[0].from_peers.set(Mode::Pass);
            }
            Self::PartitionFromRedis => {
                stage.replicas.members[1].to_redis.set(Mode::BlackHole);
                sleep(stage.lasts).await;
                stage.replicas.members[1].to_redis.cut();
                stage.replicas.members[1].to_redis.set(Mode::Pass);
            }
            Self::KillRedis => {
                let killed = &mut stage.replicas.redis.process;
                killed.end_by("KILL", Duration::from_secs(5)).await?;
                sleep(Duration::from_secs(3)).await;
                let port = stage.replicas.redis.port();
                stage.replicas.redis = Redis::on(port, stage.folder).await?;
            }
            Self::FreezeRedis => {
                stage.replicas.redis.process.signal("STOP").await?;
                let until = Instant::now() + stage.lasts;
                stage.newcomers.one(stage.replicas).await?;
                sleep_until(until).await;
                stage.replicas.redis.process.signal("CONT").await?;
            }
            Self::SlowRedis => {
                let slow = Mode::Delay(Duration::from_secs(2));
                stage
                    .replicas
                    .members
                    .iter()
                    .for_each(|it| it.to_redis.set(slow));
                sleep(stage.lasts).await;
                let pass = |it: &tests::replicas::Replica| it.to_redis.set(Mode::Pass);
                stage.replicas.members.iter().for_each(pass);
            }
            Self::RollingRestart => {
                for number in 0..stage.replicas.members.len() {
                    stage.restart_in_order(number).await?;
                    sleep(Duration::from_secs(2)).await;
                }
            }
        }
        Ok(())
    }
}

impl Stage<'_> {
    async fn reset_each(&self, period: Duration) {
        let rounds = (self.lasts.as_secs_f64() / period.as_secs_f64()).ceil() as u32;
        for _ in 0..rounds.max(1) {
            self.balancer.cut();
            sleep(period).await;
        }
    }

    /// SIGTERM, and a new process when the old one has finished.
    async fn restart_in_order(&mut self, number: usize) -> Result<()> {
        let process = &mut self.replicas.members[number].process;
        let status = process
            .end_by("TERM", LEAVE)
            .await
            .context("it did not leave")?;
        ensure!(
            status.success(),
            "a replica left with {status}\n{}",
            process.tail()
        );
        self.replicas.restart(number).await
    }
}

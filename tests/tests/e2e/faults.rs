//! What breaks: one fault after the other, each with time to recover.

mod agents;
mod fronts;
mod replicas;
mod store;

use std::{path::Path, time::Duration};

use anyhow::Result;
use tests::replicas::Replicas;
use tokio::time::{Instant, sleep};

use crate::{fleet::Fleet, fronts::Fronts, guests::Guests};

/// What faults work on.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    pub(crate) replicas: &'a mut Replicas,
    pub(crate) fronts: &'a mut Fronts,
    pub(crate) fleet: &'a Fleet,
    pub(crate) guests: &'a Guests,
    pub(crate) folder: &'a Path,
    /// How long a lasting fault lasts.
    pub(crate) lasts: Duration,
    /// What is to be said in the report.
    pub(crate) notes: Vec<String>,
}

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Nothing,
    ResetEverySecond,
    ResetEveryFiveSeconds,
    BlackHole,
    ReconnectAll,
    ShutdownEverySecond,
    ShutdownEveryFiveSeconds,
    ReloadHaproxy,
    ReloadNginx,
    IdleCuts,
    KillReplica,
    StopReplica,
    FreezeReplica,
    PartitionPeers,
    StepClock,
    RollingRestart,
    PartitionFromRedis,
    KillRedis,
    FreezeRedis,
    SlowRedis,
    StopRedis,
    SeveralPods,
    SilentAgent,
    FailSentinelsOver,
    FailClusterOver,
    MoveSlots,
}

impl Fault {
    /// Those of a cluster with one Redis, in the order in which they happen.
    pub(crate) const ALL: [Self; 23] = [
        Self::Nothing,
        Self::ResetEveryFiveSeconds,
        Self::ShutdownEverySecond,
        Self::KillReplica,
        Self::KillRedis,
        Self::ReloadHaproxy,
        Self::PartitionFromRedis,
        Self::StopReplica,
        Self::FreezeRedis,
        Self::ReloadNginx,
        Self::PartitionPeers,
        Self::IdleCuts,
        Self::SeveralPods,
        Self::FreezeReplica,
        Self::SlowRedis,
        Self::SilentAgent,
        Self::BlackHole,
        Self::ShutdownEveryFiveSeconds,
        Self::StopRedis,
        Self::ReconnectAll,
        Self::StepClock,
        Self::ResetEverySecond,
        Self::RollingRestart,
    ];

    /// Those of them for which a short run has time.
    pub(crate) const SHORT: [Self; 14] = [
        Self::ShutdownEverySecond,
        Self::KillReplica,
        Self::KillRedis,
        Self::ReloadHaproxy,
        Self::StopReplica,
        Self::ReloadNginx,
        Self::PartitionPeers,
        Self::IdleCuts,
        Self::SeveralPods,
        Self::FreezeRedis,
        Self::SilentAgent,
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
            Self::ReconnectAll => "all agents reconnect at once",
            Self::ShutdownEverySecond => "HAProxy: shutdown sessions of agents each second",
            Self::ShutdownEveryFiveSeconds => {
                "HAProxy: shutdown sessions of agents and users each 5 s"
            }
            Self::ReloadHaproxy => "HAProxy: reload, hard-stop-after 2s",
            Self::ReloadNginx => "nginx: reload, worker_shutdown_timeout 2s",
            Self::IdleCuts => "HAProxy: idle timeout of 2 s, whatever the pings",
            Self::KillReplica => "SIGKILL of a replica, restarted after 3 s",
            Self::StopReplica => "SIGTERM of a replica: GOAWAY in mid-request",
            Self::FreezeReplica => "SIGSTOP of a replica, then SIGCONT",
            Self::PartitionPeers => "partition of one replica from the others",
            Self::StepClock => "clock of one replica steps by an hour, and back",
            Self::RollingRestart => "rolling restart of all replicas",
            Self::PartitionFromRedis => "partition of one replica from Redis",
            Self::KillRedis => "SIGKILL of Redis, empty restart after 3 s",
            Self::FreezeRedis => "SIGSTOP of Redis, a new agent meanwhile, then SIGCONT",
            Self::SlowRedis => "2 s for each answer of Redis",
            Self::StopRedis => "Redis is stopped, new agents meanwhile, empty restart",
            Self::SeveralPods => "agents with pods on all replicas, which come and go",
            Self::SilentAgent => "an agent that accepts and never answers",
            Self::FailSentinelsOver => "Sentinel failover: SIGKILL of the master",
            Self::FailClusterOver => "Cluster failover: SIGKILL of a master",
            Self::MoveSlots => "Cluster: slots move to another master",
        }
    }

    /// Whether it resets agents' connections and nothing else.
    pub(crate) fn is_reset(self) -> bool {
        [
            Self::ResetEverySecond,
            Self::ResetEveryFiveSeconds,
            Self::ShutdownEverySecond,
        ]
        .contains(&self)
    }

    /// Makes it happen, and ends it.
    pub(crate) async fn happen(self, stage: &mut Stage<'_>) -> Result<()> {
        let (second, five) = (Duration::from_secs(1), Duration::from_secs(5));
        match self {
            Self::Nothing => sleep(stage.lasts).await,
            Self::ResetEverySecond => return stage.each(second, Stage::reset).await,
            Self::ResetEveryFiveSeconds => return stage.each(five, Stage::reset).await,
            Self::BlackHole => stage.carry_nothing(stage.lasts).await,
            Self::ReconnectAll => stage.carry_nothing(second).await,
            Self::ShutdownEverySecond => return stage.each(second, Stage::shut_agents_down).await,
            Self::ShutdownEveryFiveSeconds => return stage.each(five, Stage::shut_all_down).await,
            Self::ReloadHaproxy => return stage.each(five, Stage::reload_haproxy).await,
            Self::ReloadNginx => return stage.each(five, Stage::reload_nginx).await,
            Self::IdleCuts => return stage.cut_what_is_idle().await,
            Self::KillReplica => return stage.kill_replica(0).await,
            Self::StopReplica => return stage.stop_replica(1).await,
            Self::FreezeReplica => return stage.freeze_replica(2).await,
            Self::PartitionPeers => stage.part_from_peers(0).await,
            Self::StepClock => return stage.step_clock(2).await,
            Self::RollingRestart => return stage.restart_all().await,
            Self::PartitionFromRedis => stage.part_from_redis(1).await,
            Self::KillRedis => return stage.kill_redis().await,
            Self::FreezeRedis => return stage.freeze_redis().await,
            Self::SlowRedis => stage.slow_redis_down().await,
            Self::StopRedis => return stage.stop_redis().await,
            Self::SeveralPods => return stage.more_pods().await,
            Self::SilentAgent => return stage.ask_a_silent_agent().await,
            Self::FailSentinelsOver | Self::FailClusterOver => return stage.fail_over().await,
            Self::MoveSlots => return stage.move_slots().await,
        }
        Ok(())
    }
}

impl<'a> Stage<'a> {
    /// Does it again and again while the fault lasts.
    async fn each(
        &mut self,
        period: Duration,
        mut what: impl AsyncFnMut(&mut Stage<'a>) -> Result<()>,
    ) -> Result<()> {
        let end = Instant::now() + self.lasts;
        loop {
            what(self).await?;
            sleep(period).await;
            if Instant::now() >= end {
                return Ok(());
            }
        }
    }
}

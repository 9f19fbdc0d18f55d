//! Redis, and the replicas' links with it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tests::{
    chaos::Mode,
    parts::say,
    redis::{Redis, Store},
    replicas::Replica,
};
use tokio::time::{Instant, sleep, sleep_until};

use super::Stage;

/// How long a killed process may take to be gone.
const GONE: Duration = Duration::from_secs(5);
/// How often a new agent comes while Redis is away.
const NEW_AGENT_EACH: Duration = Duration::from_secs(60);

impl Stage<'_> {
    pub(super) async fn part_from_redis(&mut self, number: usize) {
        let link = &self.replicas.members[number].to_redis;
        link.set(Mode::BlackHole);
        sleep(self.lasts).await;
        link.cut();
        link.set(Mode::Pass);
    }

    pub(super) async fn kill_redis(&mut self) -> Result<()> {
        let redis = self.replicas.store.single()?;
        redis.process.end_by("KILL", GONE).await?;
        sleep(Duration::from_secs(3)).await;
        *redis = Redis::on(redis.port(), self.folder).await?;
        Ok(())
    }

    pub(super) async fn freeze_redis(&mut self) -> Result<()> {
        let redis = self.replicas.store.single()?;
        redis.process.signal("STOP").await?;
        self.new_agents_meanwhile().await?;
        let redis = self.replicas.store.single()?;
        redis.process.signal("CONT").await
    }

    pub(super) async fn stop_redis(&mut self) -> Result<()> {
        let redis = self.replicas.store.single()?;
        redis.process.end_by("TERM", GONE).await?;
        self.new_agents_meanwhile().await?;
        let redis = self.replicas.store.single()?;
        ensure!(!redis.process.is_running(), "Redis was there all the time");
        *redis = Redis::on(redis.port(), self.folder).await?;
        Ok(())
    }

    pub(super) async fn slow_redis_down(&mut self) {
        let set = |members: &[Replica], mode| members.iter().for_each(|it| it.to_redis.set(mode));
        set(&self.replicas.members, Mode::Delay(Duration::from_secs(2)));
        sleep(self.lasts).await;
        set(&self.replicas.members, Mode::Pass);
    }

    /// New agents must be accepted, and answer through every replica, to the end.
    async fn new_agents_meanwhile(&mut self) -> Result<()> {
        let began = Instant::now();
        let end = began + self.lasts;
        let mut came = Vec::new();
        loop {
            let guest = self.guests.new_agent(self.replicas).await;
            came.push(guest.context("a new agent while Redis was away")?);
            let next = Instant::now() + NEW_AGENT_EACH;
            if next >= end {
                break;
            }
            sleep_until(next).await;
        }
        sleep_until(end).await;
        for guest in &came {
            let asked = self.guests.ask(guest, self.replicas).await;
            asked.context("an agent that came while Redis was away")?;
        }
        let slowest = came.iter().map(|guest| guest.after).max();
        let note = format!(
            "Redis was away for {:.0} s: {} new agents came, each answered through every replica at the latest {:.1} s \
             after it was registered, and still did at the end.",
            began.elapsed().as_secs_f64(),
            came.len(),
            slowest.unwrap_or_default().as_secs_f64()
        );
        say(&note);
        self.notes.push(note);
        Ok(())
    }

    pub(super) async fn fail_over(&mut self) -> Result<()> {
        let took = match &mut self.replicas.store {
            Store::Sentinels(sentinels) => sentinels.fail_over().await?,
            Store::Cluster(cluster) => cluster.fail_over().await?,
            Store::Single(_) => bail!("there is nothing to fail over to"),
        };
        let note = format!("The failover took {:.1} s.", took.as_secs_f64());
        self.notes.push(note);
        Ok(())
    }

    pub(super) async fn move_slots(&mut self) -> Result<()> {
        match &self.replicas.store {
            Store::Cluster(cluster) => cluster.move_slots().await,
            Store::Single(_) | Store::Sentinels(_) => bail!("there are no slots"),
        }
    }
}

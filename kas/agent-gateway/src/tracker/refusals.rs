//! What was refused of agents lately, for those who are told: the first of a reason at once, and then at most once in
//! a while with a count, so that an agent that comes again and again floods nobody.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cluster_state::{AgentId, ConnectionRecord};
use tokio::time::Instant;

/// How often webhooks are told the same again.
const WEBHOOK_REPEAT_INTERVAL: Duration = Duration::from_secs(60);
/// How long a reason is remembered that did not come again.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Agents of which something is remembered.
const MAX_AGENTS: usize = 20_000;
/// Reasons of one agent that are told apart.
const MAX_REASONS: usize = 4;
const OTHER_REASONS: &str = "several other reasons";

/// Refusals on their way to those who are told. Nothing is kept while nobody is.
#[derive(Debug)]
pub(crate) struct Refusals {
    /// How often the same is told again.
    repeat: Duration,
    wanted: AtomicBool,
    agents: Mutex<HashMap<AgentId, Vec<Reason>>>,
}

#[derive(Debug)]
struct Reason {
    reason: String,
    /// Refusals that were not told yet.
    count: u64,
    /// Where the last one came from.
    remote_addr: String,
    told: Option<Instant>,
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The agent.
    pub agent: AgentId,
    /// Why.
    pub reason: String,
    /// How often, since the same was told last.
    pub count: u64,
    /// Where the last one came from.
    pub remote_addr: String,
}

impl Refusals {
    /// Those for webhooks.
    pub(crate) fn for_webhooks() -> Self {
        Self::repeated_after(WEBHOOK_REPEAT_INTERVAL)
    }

    /// Those for somebody who is told the same again after this time.
    pub(super) fn repeated_after(repeat: Duration) -> Self {
        Self {
            repeat,
            wanted: AtomicBool::default(),
            agents: Mutex::default(),
        }
    }

    /// Somebody is told from now on.
    pub(crate) fn want(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    /// An agent was refused.
    pub(crate) fn note(&self, agent: AgentId, record: &ConnectionRecord) {
        if !self.wanted.load(Ordering::Relaxed) {
            return;
        }
        let mut agents = self.lock();
        if agents.len() >= MAX_AGENTS && !agents.contains_key(&agent) {
            return;
        }
        let reasons = agents.entry(agent).or_default();
        let known = |name: &str| reasons.iter().position(|it| it.reason == name);
        let name = match known(&record.reason) {
            None if reasons.len() >= MAX_REASONS => OTHER_REASONS,
            _ => &record.reason,
        };
        let at = known(name).unwrap_or_else(|| {
            reasons.push(Reason {
                reason: name.to_owned(),
                count: 0,
                remote_addr: String::new(),
                told: None,
            });
            reasons.len() - 1
        });
        reasons[at].count += 1;
        reasons[at].remote_addr.clone_from(&record.remote_addr);
    }

    /// What is to be told now.
    pub(crate) fn take(&self, now: Instant) -> Vec<Refusal> {
        let mut due = Vec::new();
        self.lock().retain(|agent, reasons| {
            for it in reasons.iter_mut().filter(|it| it.is_due(now, self.repeat)) {
                due.push(Refusal {
                    agent: *agent,
                    reason: it.reason.clone(),
                    count: std::mem::take(&mut it.count),
                    remote_addr: it.remote_addr.clone(),
                });
                it.told = Some(now);
            }
            reasons.retain(|it| it.count > 0 || it.told.is_none_or(|told| now < told + REMEMBERED));
            !reasons.is_empty()
        });
        due
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentId, Vec<Reason>>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reason {
    fn is_due(&self, now: Instant, repeat: Duration) -> bool {
        self.count > 0 && self.told.is_none_or(|told| now >= told + repeat)
    }
}

#[cfg(test)]
mod tests {
    use cluster_state::{ConnectionEvent, ReplicaId};

    use super::*;

    fn record(reason: &str) -> ConnectionRecord {
        ConnectionRecord {
            reason: reason.to_owned(),
            ..ConnectionRecord::new(ConnectionEvent::Refused, 1, &ReplicaId::new("a"))
        }
    }

    fn told(refusals: &Refusals, now: Instant) -> Vec<(i64, String, u64)> {
        let mut told: Vec<_> = refusals.take(now).into_iter().collect();
        told.sort_by_key(|it| it.agent);
        let told = told.into_iter();
        told.map(|it| (it.agent.0, it.reason, it.count)).collect()
    }

    #[test]
    fn a_storm_of_refusals_is_one_a_minute_and_a_bystander_is_told_at_once() {
        let (refusals, now) = (Refusals::for_webhooks(), Instant::now());
        refusals.note(AgentId(1), &record("revoked"));
        assert_eq!(told(&refusals, now), [], "nobody wanted it");
        refusals.want();

        refusals.note(AgentId(1), &record("revoked"));
        assert_eq!(told(&refusals, now), [(1, "revoked".to_owned(), 1)]);
        for _ in 0..1000 {
            refusals.note(AgentId(1), &record("revoked"));
        }
        refusals.note(AgentId(2), &record("expired"));
        let soon = now + Duration::from_secs(59);
        assert_eq!(told(&refusals, soon), [(2, "expired".to_owned(), 1)]);
        let later = now + WEBHOOK_REPEAT_INTERVAL;
        assert_eq!(told(&refusals, later), [(1, "revoked".to_owned(), 1000)]);
        assert_eq!(told(&refusals, later + WEBHOOK_REPEAT_INTERVAL), []);
    }

    #[test]
    fn an_agent_with_ever_other_reasons_has_a_bounded_number() {
        let (refusals, now) = (Refusals::for_webhooks(), Instant::now());
        refusals.want();

        for number in 0..100 {
            refusals.note(AgentId(1), &record(&number.to_string()));
        }

        let told = told(&refusals, now);
        assert_eq!(told.len(), MAX_REASONS + 1);
        assert_eq!(told.iter().map(|it| it.2).sum::<u64>(), 100);
        let forgotten = now + REMEMBERED + WEBHOOK_REPEAT_INTERVAL;
        assert_eq!(refusals.take(forgotten), []);
        assert!(refusals.lock().is_empty());
    }
}

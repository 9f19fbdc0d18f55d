//! The connected agent processes, of this replica and of all.
//!
//! A process is connected while it has a configuration stream here, or while the connection is open on which it
//! registered. This replica's processes are published in the routing table, whose store all replicas read, and what
//! happens to them is recorded. What is known of one is kept for a while after that ([`away`]).

mod away;
mod connections;
mod instance;
mod origin;
mod record;
mod registrations;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cluster_state::{
    AgentId, ConnectionEvent, ConnectionLog, ConnectionRecord, Presence, PresenceEntry,
    PresenceQuery, RecordSubject, ReplicaId, RoutingTable, StoreError, memory::MemoryStore,
};
use jiff::Timestamp;
use proto::agent::{agent_tracker::ConnectedAgentInfo, entity::AgentMeta};

use away::{Agenda, Away, KNOWN_TTL, Next, RECONNECT_GRACE};
pub use connections::GitLabConnections;
use control_plane::AgentInfo;
use instance::Instance;
pub(crate) use origin::{End, Origin};
pub use record::{ConnectedProcess, processes};
pub(crate) use registrations::Registrations;
use runtime::shares::{Rate, Rates};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Processes that one agent may have on a replica.
const MAX_INSTANCES: usize = 100;
/// How often a process may register: it does so every five minutes, and on each new connection.
const REGISTRATION_RATE_PER_POD: Rate = Rate {
    per_second: 1.0,
    burst: 5,
};
/// The same for all processes of an agent, which may come all at once when a replica has started.
const REGISTRATION_RATE_PER_AGENT: Rate = Rate {
    per_second: 20.0,
    burst: 2 * MAX_INSTANCES as u32,
};
/// Processes, and agents, whose rate of registrations is remembered.
const MAX_REMEMBERED_RATES: usize = 100_000;
/// Parts of the map of agents, each with a lock of its own.
const SHARDS: usize = 32;
/// How often it is looked which processes stay away.
const AWAY_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The connected agent processes.
#[derive(Debug)]
pub struct Tracker {
    table: Arc<dyn RoutingTable>,
    log: Arc<ConnectionLog>,
    replica: ReplicaId,
    agenda: Agenda,
    agents: [Mutex<HashMap<AgentId, Agent>>; SHARDS],
    per_pod: Rates<(AgentId, i64)>,
    per_agent: Rates<AgentId>,
}

/// Why a process cannot register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// It registers too often, or the agent's processes together do.
    #[error("this agent registers too often, try again later")]
    TooOften,
    /// The agent has as many processes as it may have.
    #[error(
        "this agent has {MAX_INSTANCES} connected processes already, which is the most allowed"
    )]
    TooMany,
}

#[derive(Debug)]
struct Agent {
    project: i64,
    instances: Vec<Instance>,
}

/// A process counts as connected while this is held.
#[derive(Debug)]
pub struct InstanceGuard {
    tracker: Arc<Tracker>,
    agent: AgentId,
    connection_id: i64,
    pod: String,
    origin: Arc<Origin>,
    end: Option<End>,
}

impl Tracker {
    /// A tracker that publishes to `table`, and keeps records for itself.
    #[must_use]
    pub fn new(table: Arc<dyn RoutingTable>) -> Arc<Self> {
        let log = ConnectionLog::new(MemoryStore::default().connection_records());
        Self::with_log(table, log, ReplicaId::new("this"))
    }

    /// A tracker that publishes to `table`, and records what happens in `log`, for this replica.
    #[must_use]
    pub fn with_log(
        table: Arc<dyn RoutingTable>,
        log: Arc<ConnectionLog>,
        replica: ReplicaId,
    ) -> Arc<Self> {
        Arc::new(Self {
            table,
            log,
            replica,
            agenda: Agenda::default(),
            agents: std::array::from_fn(|_| Mutex::default()),
            per_pod: Rates::new(REGISTRATION_RATE_PER_POD, MAX_REMEMBERED_RATES),
            per_agent: Rates::new(REGISTRATION_RATE_PER_AGENT, MAX_REMEMBERED_RATES),
        })
    }

    /// The records of what happens to agents' connections.
    #[must_use]
    pub fn log(&self) -> &Arc<ConnectionLog> {
        &self.log
    }

    /// Finds out who stays away, and writes records, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let looking = async {
            let mut ticks = tokio::time::interval(AWAY_CHECK_INTERVAL);
            loop {
                ticks.tick().await;
                let now = Instant::now();
                for (agent, connection_id) in self.agenda.due(now) {
                    self.look(agent, connection_id, now);
                }
            }
        };
        // Records are written a little longer, for what is recorded last.
        let (written, last) = (CancellationToken::new(), stop.clone());
        tokio::join!(self.log.run(written.clone()), async {
            last.run_until_cancelled(looking).await;
            self.report_all();
            written.cancel();
        });
    }

    /// A process registers; `pod_id` is a random number of its own.
    ///
    /// # Errors
    /// When it does so too often, or the agent has too many.
    pub fn register(
        self: &Arc<Self>,
        agent: &AgentInfo,
        pod_id: i64,
        meta: &AgentMeta,
    ) -> Result<InstanceGuard, RegisterError> {
        self.register_from(agent, pod_id, meta, &Origin::unknown())
    }

    /// The same on a connection.
    pub(crate) fn register_from(
        self: &Arc<Self>,
        agent: &AgentInfo,
        pod_id: i64,
        meta: &AgentMeta,
        origin: &Arc<Origin>,
    ) -> Result<InstanceGuard, RegisterError> {
        let now = Instant::now();
        if !self.per_pod.take(&(agent.id, pod_id), now) || !self.per_agent.take(&agent.id, now) {
            return Err(RegisterError::TooOften);
        }
        let instance = Instance::registered(pod_id, meta, Timestamp::now(), origin);
        self.hold(agent, instance)
    }

    /// A process has opened a configuration stream. `None` if it does not name its pod and will register besides, or
    /// if the agent has too many processes.
    #[must_use]
    pub fn streaming(
        self: &Arc<Self>,
        agent: &AgentInfo,
        meta: &AgentMeta,
        registers: bool,
    ) -> Option<InstanceGuard> {
        self.streaming_from(agent, meta, registers, &Origin::unknown())
    }

    /// The same on a connection.
    pub(crate) fn streaming_from(
        self: &Arc<Self>,
        agent: &AgentInfo,
        meta: &AgentMeta,
        registers: bool,
        origin: &Arc<Origin>,
    ) -> Option<InstanceGuard> {
        if registers && meta.pod_name.is_empty() {
            return None;
        }
        let instance = Instance::streaming(agent.id, meta, Timestamp::now(), origin);
        self.hold(agent, instance).ok()
    }

    /// A process unregisters.
    pub fn unregister(&self, agent: AgentId, pod_id: i64) {
        self.change(agent, |instances| {
            let at = instances.iter().position(|it| it.connection_id == pod_id);
            let Some(at) = at else { return false };
            let instance = instances.swap_remove(at);
            if !instance.away.is_some_and(|it| it.reported) {
                self.report(agent, &instance, End::UNREGISTERED);
            }
            true
        });
    }

    /// The tunnels on a connection are refused, or not any more: the processes on it are not listed meanwhile.
    pub(crate) fn set_refused(&self, agent: AgentId, origin: &Arc<Origin>, refused: bool) {
        if origin.set_refused(refused) {
            self.change(agent, |instances| {
                instances.iter().any(|it| Arc::ptr_eq(&it.origin, origin))
            });
        }
    }

    /// The processes connected to any replica.
    ///
    /// # Errors
    /// When the store cannot say.
    pub async fn connected(
        &self,
        query: &PresenceQuery,
    ) -> Result<Vec<ConnectedAgentInfo>, StoreError> {
        let entries = self.table.find_presence(query).await?;
        let all = record::processes(&entries);
        Ok(all.into_iter().map(|it| it.info).collect())
    }

    /// What all replicas have published of the selected agents, for [`processes`].
    ///
    /// # Errors
    /// When the store cannot say.
    pub async fn published(&self, query: &PresenceQuery) -> Result<Vec<PresenceEntry>, StoreError> {
        self.table.find_presence(query).await
    }

    /// The processes connected to this replica, which asks nobody.
    #[must_use]
    pub fn connected_here(&self) -> Vec<ConnectedAgentInfo> {
        let mut all = Vec::new();
        for shard in &self.agents {
            let agents = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (id, agent) in agents.iter() {
                all.extend(record::own(*id, agent.project, &agent.instances));
            }
        }
        all.sort_by_key(|it| (it.agent_id, it.connection_id));
        all
    }

    fn hold(
        self: &Arc<Self>,
        agent: &AgentInfo,
        instance: Instance,
    ) -> Result<InstanceGuard, RegisterError> {
        // Its number may be another once it has registered, and then its pod tells which it is.
        let pod = if instance.registered {
            String::new()
        } else {
            instance.pod()
        };
        let connection_id = instance.connection_id;
        let origin = instance.origin.clone();
        let mut agents = self.lock(agent.id);
        let entry = agents.entry(agent.id).or_insert_with(|| Agent {
            project: agent.project_id,
            instances: Vec::new(),
        });
        let moved = std::mem::replace(&mut entry.project, agent.project_id) != agent.project_id;
        let known = entry.find(&instance);
        if known.is_none_or(|it| it.away.is_some()) && entry.is_full() {
            return Err(RegisterError::TooMany);
        }
        let changed = match entry.find(&instance) {
            Some(known) if known.away.is_some() => {
                self.back(agent, known, instance);
                true
            }
            Some(known) => known.merge(instance),
            None => {
                self.connected_now(agent, &instance);
                if let Some(gone) = entry.add(instance)
                    && let Some(away) = gone.away.filter(|it| !it.reported)
                {
                    self.report(agent.id, &gone, away.end);
                }
                true
            }
        };
        // A process that only registers again changes nothing.
        if changed || moved {
            self.publish(agent.id, entry);
        }
        Ok(InstanceGuard {
            tracker: self.clone(),
            agent: agent.id,
            connection_id,
            pod,
            origin,
            end: None,
        })
    }

    /// A process that was away is back, and what was known of it still is.
    fn back(&self, agent: &AgentInfo, known: &mut Instance, instance: Instance) {
        let now = Instant::now();
        known.until = None;
        let Some(away) = known.away.take() else {
            return;
        };
        if !away.is_renewal(now) {
            if !away.reported {
                self.report(agent.id, known, away.end);
            }
            known.connected_at = instance.connected_at;
            self.connected_now(agent, &instance);
        }
        known.merge(instance);
        known.references = 1;
    }

    /// A process has connected.
    fn connected_now(&self, agent: &AgentInfo, instance: &Instance) {
        tracing::info!(
            agent.id = agent.id.0,
            agent.name = agent.name,
            agent.version = instance.meta.version,
            pod = instance.meta.pod_name,
            "agent process connected"
        );
        let record = self.record(ConnectionEvent::Connected, instance);
        self.log.note(RecordSubject::Agent(agent.id), record);
    }

    /// A process has disconnected.
    fn report(&self, agent: AgentId, instance: &Instance, end: End) {
        tracing::info!(
            agent.id = agent.0,
            pod = instance.meta.pod_name,
            reason = end.reason,
            "agent process disconnected"
        );
        let connected = Timestamp::now().duration_since(instance.connected_at);
        let away = instance.away.map(|it| it.since.elapsed());
        let duration = u64::try_from(connected.as_millis()).unwrap_or(0);
        let away = away.map_or(0, millis);
        let record = self.record(ConnectionEvent::Disconnected, instance);
        let record = ConnectionRecord {
            at: record.at.saturating_sub(away),
            reason: end.reason.to_owned(),
            duration_ms: Some(duration.saturating_sub(away)),
            ..record
        };
        self.log.note(RecordSubject::Agent(agent), record);
    }

    fn record(&self, event: ConnectionEvent, instance: &Instance) -> ConnectionRecord {
        ConnectionRecord {
            instance: instance.name(),
            version: instance.meta.version.clone(),
            remote_addr: instance.origin.address(),
            scheme: instance.origin.scheme().to_owned(),
            ..self.record_of(event)
        }
    }

    /// A record of this moment, of which nothing else is known yet.
    pub(crate) fn record_of(&self, event: ConnectionEvent) -> ConnectionRecord {
        let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
        ConnectionRecord::new(event, now, &self.replica)
    }

    /// Looks at a process that was away.
    fn look(&self, agent: AgentId, connection_id: i64, now: Instant) {
        self.change(agent, |instances| {
            let at = instances
                .iter()
                .position(|it| it.connection_id == connection_id);
            let Some(at) = at else { return false };
            let instance = &mut instances[at];
            instance.scheduled = false;
            let Some(away) = instance.away else {
                return false;
            };
            match away.next(now) {
                Next::Wait(until) => self.schedule(agent, instance, until),
                Next::Report => {
                    self.report(agent, instance, away.end);
                    let known = instance.registered || instance.meta.kubernetes_version.is_some();
                    if !known {
                        instances.swap_remove(at);
                        return true;
                    }
                    instance.away = Some(Away {
                        reported: true,
                        ..away
                    });
                    self.schedule(agent, instance, away.since + KNOWN_TTL);
                }
                Next::Forget => {
                    if !away.reported {
                        self.report(agent, instance, away.end);
                    }
                    instances.swap_remove(at);
                    return true;
                }
            }
            false
        });
    }

    fn schedule(&self, agent: AgentId, instance: &mut Instance, at: Instant) {
        if !instance.scheduled {
            instance.scheduled = true;
            self.agenda.add(at, agent, instance.connection_id);
        }
    }

    /// The replica stops: whoever is away, or still connected, disconnects from it.
    fn report_all(&self) {
        drop(self.agenda.all());
        for shard in &self.agents {
            let agents = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (agent, entry) in agents.iter() {
                for instance in &entry.instances {
                    match instance.away {
                        Some(away) if away.reported => {}
                        Some(away) => self.report(*agent, instance, away.end),
                        None => self.report(*agent, instance, End::REPLICA_STOPS),
                    }
                }
            }
        }
    }

    /// Changes an agent's processes; `change` returns whether that is to be published.
    fn change(&self, agent: AgentId, change: impl FnOnce(&mut Vec<Instance>) -> bool) {
        let mut agents = self.lock(agent);
        let Some(entry) = agents.get_mut(&agent) else {
            return;
        };
        if change(&mut entry.instances) {
            self.publish(agent, entry);
        }
        if entry.instances.is_empty() {
            agents.remove(&agent);
        }
    }

    /// Called under the lock, so that the last state is the last that is published.
    fn publish(&self, id: AgentId, agent: &Agent) {
        let all = agent.instances.iter();
        let instances: Vec<_> = all.filter(|it| !it.origin.is_refused()).collect();
        let presence = (!instances.is_empty()).then(|| Presence {
            group: agent.project,
            text: record::encode(&instances).into(),
        });
        self.table.set_presence(id, presence);
    }

    fn lock(&self, agent: AgentId) -> MutexGuard<'_, HashMap<AgentId, Agent>> {
        let shard = usize::try_from(agent.0.unsigned_abs() % SHARDS as u64).unwrap_or(0);
        self.agents[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Agent {
    /// The process that this is another call of: one that is connected, or else one that is away.
    fn find(&mut self, instance: &Instance) -> Option<&mut Instance> {
        let is_here = |it: &Instance| it.away.is_none() && it.is_same(instance);
        let was_here = |it: &Instance| {
            it.away.is_some() && (it.is_same(instance) || it.is_predecessor(instance))
        };
        let at = self.instances.iter().position(is_here);
        let at = at.or_else(|| self.instances.iter().position(was_here))?;
        self.instances.get_mut(at)
    }

    fn is_full(&self) -> bool {
        let here = self.instances.iter().filter(|it| it.away.is_none());
        here.count() >= MAX_INSTANCES
    }

    /// Adds a process, in the place of one that is away if there are too many.
    fn add(&mut self, instance: Instance) -> Option<Instance> {
        let mut gone = None;
        if self.instances.len() >= MAX_INSTANCES {
            let longest = self.instances.iter().enumerate();
            let longest = longest.filter_map(|(at, it)| Some((it.away?.since, at)));
            if let Some((_, at)) = longest.min() {
                gone = Some(self.instances.swap_remove(at));
            }
        }
        self.instances.push(instance);
        gone
    }
}

impl InstanceGuard {
    /// How what holds it ends, if that is not how its connection does.
    pub(crate) fn ends(&mut self, end: End) {
        self.end = Some(end);
    }
}

impl Drop for InstanceGuard {
    fn drop(&mut self) {
        let end = self.end.unwrap_or_else(|| self.origin.end());
        self.tracker.change(self.agent, |instances| {
            let by_id = |it: &Instance| it.connection_id == self.connection_id;
            let by_pod =
                |it: &Instance| it.away.is_none() && !self.pod.is_empty() && it.pod() == self.pod;
            let held = instances.iter().position(by_id);
            let held = held.or_else(|| instances.iter().position(by_pod));
            let Some(instance) = held.and_then(|at| instances.get_mut(at)) else {
                return false;
            };
            if instance.away.is_some() {
                return false;
            }
            instance.references = instance.references.saturating_sub(1);
            if instance.references > 0 {
                return false;
            }
            let now = Instant::now();
            let until = Timestamp::now();
            let renewed = until.checked_add(RECONNECT_GRACE).ok();
            instance.until = renewed.filter(|_| end.renews).or(Some(until));
            instance.away = Some(Away::new(end, now));
            self.tracker
                .schedule(self.agent, instance, now + RECONNECT_GRACE);
            true
        });
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

//! What is told of processes, in the log and in the records: who connected, who came back, and who stays away.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use cluster_state::{AgentId, ConnectionEvent, ConnectionRecord, RecordSubject};
use control_plane::AgentInfo;
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Tracker,
    away::{Away, KNOWN_TTL, Next},
    instance::Instance,
    origin::{End, Origin},
    registrations::Registrations,
};

/// How often it is looked which processes stay away.
const AWAY_CHECK_INTERVAL: Duration = Duration::from_secs(2);

impl Tracker {
    /// A process has connected.
    pub(super) fn connected_now(&self, agent: &AgentInfo, instance: &Instance) {
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

    /// A process that was away is back, and what was known of it still is.
    pub(super) fn back(&self, agent: &AgentInfo, known: &mut Instance, instance: Instance) {
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

    /// A process has disconnected.
    pub(super) fn report(&self, agent: AgentId, instance: &Instance, end: End) {
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

    /// A record of this moment, of which nothing else is known yet.
    pub(crate) fn record_of(&self, event: ConnectionEvent) -> ConnectionRecord {
        let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
        ConnectionRecord::new(event, now, &self.replica)
    }

    /// A record of a tunnel that is refused on a connection: it names the process where only one is known there.
    pub(crate) fn refusal_at(
        &self,
        agent: AgentId,
        origin: &Arc<Origin>,
        registrations: &Registrations,
    ) -> ConnectionRecord {
        let mut record = ConnectionRecord {
            remote_addr: origin.address(),
            scheme: origin.scheme().to_owned(),
            ..self.record_of(ConnectionEvent::Refused)
        };
        // A process with two connections is known at the one where it was heard of last, and registers on both.
        let registered = registrations.ids_of(agent);
        let agents = self.lock(agent);
        let here = agents.get(&agent).into_iter().flat_map(|it| &it.instances);
        let mut here = here.filter(|it| {
            it.away.is_none()
                && (Arc::ptr_eq(&it.origin, origin) || registered.contains(&it.connection_id))
        });
        // A load balancer may carry several on one connection, and then it may be any of them.
        if let (Some(only), None) = (here.next(), here.next()) {
            record.instance = only.name();
            record.version.clone_from(&only.meta.version);
        }
        record
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

    /// Looks at a process that was away.
    pub(super) fn look(&self, agent: AgentId, connection_id: i64, now: Instant) {
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
                    // Whoever has its stream knows more of it than a replica that was only called once.
                    if !away.reported && away.end != End::ONE_CALL {
                        self.report(agent, instance, away.end);
                    }
                    instances.swap_remove(at);
                    return true;
                }
            }
            false
        });
    }

    pub(super) fn schedule(&self, agent: AgentId, instance: &mut Instance, at: Instant) {
        if !instance.scheduled {
            instance.scheduled = true;
            self.agenda.add(at, agent, instance.connection_id);
        }
    }

    /// The replica stops: whoever is away, or still connected, disconnects from it.
    pub(super) fn report_all(&self) {
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
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

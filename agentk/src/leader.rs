//! Elects one of an agent's pods, by a Lease, for work that only one may do.

mod election;

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::api::{Api, PostParams};
use proto::agent::agentcfg::AgentConfiguration;
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use runtime::telemetry::Causes;

use crate::{cluster::Cluster, last_failure::LastFailure, metrics::Metrics, pod::Pod};
use election::{Election, Record, Step};

/// How long a leader leads without renewing.
const LEASE_TTL: Duration = Duration::from_secs(15);
/// How long a leader tries to renew before it gives up.
const RENEW_TIMEOUT: Duration = Duration::from_secs(10);
/// How often each candidate reads the lease.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// The same without the right to read it.
const FORBIDDEN_RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// How long the API server may take to answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

type Work = dyn Fn(CancellationToken) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;

/// Work for one of an agent's pods: started when this pod becomes the leader, cancelled by the token
/// when it no longer is.
#[derive(Clone)]
pub struct LeaderOnly(pub Arc<Work>);

impl fmt::Debug for LeaderOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaderOnly")
    }
}

/// This pod as a candidate.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) pod: Pod,
    pub(crate) cluster: Cluster,
    pub(crate) metrics: Metrics,
    pub(crate) work: Vec<LeaderOnly>,
    /// Has the agent's id, once kas has sent it.
    pub(crate) configuration: watch::Receiver<Option<Arc<AgentConfiguration>>>,
}

impl Candidate {
    /// Takes part until `stop`, then hands the lease back.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let known = tokio::select! {
            known = self.configuration.wait_for(Option::is_some) => {
                known.ok().and_then(|known| Some(known.as_ref()?.agent_id))
            }
            () = stop.cancelled() => None,
        };
        let Some(agent) = known else {
            return;
        };
        match self.cluster.typed() {
            Ok(client) => {
                let api = Api::namespaced(client, &self.pod.namespace);
                let lock = LeaseLock {
                    api,
                    name: format!("agent-{agent}-lock"),
                    identity: self.pod.name.clone(),
                };
                Term::new(self, lock).run(stop).await;
            }
            Err(error) => tracing::error!(
                error = %Causes(&error),
                "no leader election: no client for the Kubernetes API"
            ),
        }
    }
}

/// The Lease in the cluster.
struct LeaseLock {
    api: Api<Lease>,
    name: String,
    identity: String,
}

impl LeaseLock {
    async fn step(&self, election: &mut Election) -> Result<bool, kube::Error> {
        let lease = self.api.get_opt(&self.name).await?;
        let record = lease.as_ref().map(record);
        match election.decide(record, Instant::now()) {
            Step::Wait => return Ok(false),
            Step::Take { transitions } => self.write(lease, transitions, true).await?,
            Step::Renew { transitions } => self.write(lease, transitions, false).await?,
        }
        election.renewed(Instant::now());
        Ok(true)
    }

    async fn write(
        &self,
        lease: Option<Lease>,
        transitions: i32,
        new: bool,
    ) -> Result<(), kube::Error> {
        let now = MicroTime(Timestamp::now());
        let old = lease
            .as_ref()
            .and_then(|lease| lease.spec.clone())
            .unwrap_or_default();
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE_TTL.as_secs()).ok(),
            acquire_time: if new {
                Some(now.clone())
            } else {
                old.acquire_time.clone()
            },
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..old
        };
        self.put(lease, spec).await
    }

    /// Lets others lead at once.
    async fn release(&self) -> Result<(), kube::Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            return Ok(());
        };
        let old = lease.spec.clone().unwrap_or_default();
        if old.holder_identity.as_deref() != Some(&self.identity) {
            return Ok(());
        }
        let spec = LeaseSpec {
            holder_identity: None,
            lease_duration_seconds: Some(1),
            ..old
        };
        self.put(Some(lease), spec).await
    }

    async fn put(&self, lease: Option<Lease>, spec: LeaseSpec) -> Result<(), kube::Error> {
        let params = PostParams::default();
        match lease {
            // The resource version in it makes two candidates exclude each other.
            Some(mut lease) => {
                lease.spec = Some(spec);
                self.api.replace(&self.name, &params, &lease).await?;
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                };
                let lease = Lease {
                    metadata,
                    spec: Some(spec),
                };
                self.api.create(&params, &lease).await?;
            }
        }
        Ok(())
    }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.unwrap_or_default();
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        duration: Duration::from_secs(u64::try_from(seconds).unwrap_or_default()),
        transitions: spec.lease_transitions.unwrap_or_default(),
    }
}

/// Leading, or not, and what goes on meanwhile.
struct Term {
    candidate: Candidate,
    lock: LeaseLock,
    election: Election,
    leading: Option<(CancellationToken, JoinSet<()>)>,
    failure: LastFailure,
}

impl Term {
    fn new(candidate: Candidate, lock: LeaseLock) -> Self {
        let election = Election::new(lock.identity.clone(), RENEW_TIMEOUT);
        Self {
            candidate,
            lock,
            election,
            leading: None,
            failure: LastFailure::default(),
        }
    }

    async fn run(mut self, stop: CancellationToken) {
        loop {
            let pause = tokio::select! {
                pause = self.try_step() => pause,
                () = stop.cancelled() => break,
            };
            if self.election.leads(Instant::now()) {
                self.begin();
            } else {
                self.end().await;
            }
            tokio::select! {
                () = tokio::time::sleep(pause.mul_f64(1.0 + rand::random::<f64>() / 5.0)) => {}
                () = stop.cancelled() => break,
            }
        }
        if self.leading.is_some() {
            self.end().await;
            let release = tokio::time::timeout(REQUEST_TIMEOUT, self.lock.release()).await;
            tracing::debug!(?release, "released the lease");
        }
    }

    /// Reads the lease and acts on it; returns when to do so again.
    async fn try_step(&mut self) -> Duration {
        let step = tokio::time::timeout(REQUEST_TIMEOUT, self.lock.step(&mut self.election)).await;
        let error = match step {
            Ok(Ok(_)) => {
                self.failure.clear();
                return RETRY_INTERVAL;
            }
            // Another pod was faster.
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => return RETRY_INTERVAL,
            Ok(Err(error)) => error,
            Err(_) => return RETRY_INTERVAL,
        };
        let forbidden = matches!(&error, kube::Error::Api(status) if status.code == 403);
        let error = Causes(&error).to_string();
        if self.failure.is_new(&error) {
            tracing::warn!(
                error,
                lease = self.lock.name,
                "leader election failed; retrying"
            );
        }
        if forbidden {
            FORBIDDEN_RETRY_INTERVAL
        } else {
            RETRY_INTERVAL
        }
    }

    fn begin(&mut self) {
        if self.leading.is_some() {
            return;
        }
        tracing::info!(lease = self.lock.name, "this pod is the leader");
        self.candidate.metrics.leader.set(1);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for work in &self.candidate.work {
            tasks.spawn((work.0)(stop.clone()));
        }
        self.leading = Some((stop, tasks));
    }

    async fn end(&mut self) {
        if let Some((stop, mut tasks)) = self.leading.take() {
            tracing::info!(
                lease = self.lock.name,
                "this pod is not the leader any more"
            );
            self.candidate.metrics.leader.set(0);
            stop.cancel();
            // What does not end in time is aborted: another pod may lead by now.
            let ended = async { while tasks.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(LEASE_TTL - RENEW_TIMEOUT, ended).await;
        }
    }
}

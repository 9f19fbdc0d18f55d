//! Registers this pod with kas every few minutes, and unregisters it when it stops.

use std::time::Duration;

use proto::agent::{
    agent_registrar::rpc::{
        RegisterRequest, UnregisterRequest, agent_registrar_client::AgentRegistrarClient,
    },
    entity::AgentMeta,
};
use tonic::{Code, Status, codec::CompressionEncoding};

use crate::{
    cluster_facts::ClusterFacts,
    pod::Pod,
    session::{Attempt, Follower, Uplink},
    version,
};

/// How often the pod registers, and the longest wait after failures.
const REGISTER_INTERVAL: Duration = Duration::from_secs(300);
const BACKOFF_MIN: Duration = Duration::from_secs(5);
/// How long kas may take to answer.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(20);
/// The same when the agent stops.
const UNREGISTER_TIMEOUT: Duration = Duration::from_secs(2);

/// The pod as kas knows it.
#[derive(Debug)]
pub(crate) struct Registration {
    pod_id: i64,
    pod: Option<Pod>,
    facts: ClusterFacts,
}

impl Registration {
    pub(crate) fn new(pod: Option<Pod>, facts: ClusterFacts) -> Self {
        Self {
            pod_id: rand::random_range(0..=i64::MAX),
            pod,
            facts,
        }
    }

    /// Registers on every new connection, again every few minutes, and when more is known of the cluster; the answer also shows that kas has
    /// accepted the agent on the connection. Never ends.
    pub(crate) async fn keep(&self, uplink: &Uplink) {
        let lines = (0..uplink.lines()).map(|line| self.keep_line(uplink.line(line)));
        futures_util::future::join_all(lines).await;
    }

    async fn keep_line(&self, uplink: Uplink) {
        let failed = "could not register with kas";
        let mut follower = Follower::new(uplink, BACKOFF_MIN, REGISTER_INTERVAL, failed);
        loop {
            let attempt = follower.attempt().await;
            let mut news = self.facts.changes();
            match self.register(&attempt).await {
                Ok(()) => tokio::select! {
                    () = follower.answered(attempt, REGISTER_INTERVAL) => {}
                    () = news.next() => {}
                },
                Err(status) => follower.failed(attempt, &status).await,
            }
        }
    }

    async fn register(&self, attempt: &Attempt) -> Result<(), Status> {
        let request = RegisterRequest {
            agent_meta: Some(self.meta()),
            pod_id: self.pod_id,
        };
        let mut client = AgentRegistrarClient::new(attempt.channel())
            .accept_compressed(CompressionEncoding::Gzip);
        match within(REGISTER_TIMEOUT, client.register(request)).await {
            Ok(_) => Ok(()),
            // An old kas, which has accepted the agent all the same.
            Err(status) if status.code() == Code::Unimplemented => Ok(()),
            Err(status) => Err(status),
        }
    }

    /// Unregisters, if there is a connection for it.
    pub(crate) async fn unregister(self, uplink: &Uplink) {
        let request = UnregisterRequest {
            agent_meta: Some(self.meta()),
            pod_id: self.pod_id,
        };
        let unregistering = async {
            let connection = uplink.connection().await;
            AgentRegistrarClient::new(connection.channel())
                .accept_compressed(CompressionEncoding::Gzip)
                .unregister(request)
                .await
        };
        if let Err(status) = within(UNREGISTER_TIMEOUT, unregistering).await
            && status.code() != Code::Unimplemented
        {
            tracing::debug!(error = status.message(), code = ?status.code(), "could not unregister from kas");
        }
    }

    fn meta(&self) -> AgentMeta {
        meta(self.pod.as_ref(), &self.facts)
    }
}

/// What kas learns about this process.
pub(crate) fn meta(pod: Option<&Pod>, facts: &ClusterFacts) -> AgentMeta {
    AgentMeta {
        version: version::VERSION.to_owned(),
        commit_id: version::COMMIT.to_owned(),
        pod_namespace: pod.map(|pod| pod.namespace.clone()).unwrap_or_default(),
        pod_name: pod.map(|pod| pod.name.clone()).unwrap_or_default(),
        kubernetes_version: facts.version(),
    }
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result,
        Err(_) => Err(Status::deadline_exceeded("kas did not answer in time")),
    }
}

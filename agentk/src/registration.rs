//! Tells kas every few minutes that this pod is there, and that it goes.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use proto::agent::{
    agent_registrar::rpc::{
        RegisterRequest, UnregisterRequest, agent_registrar_client::AgentRegistrarClient,
    },
    entity::{AgentMeta, KubernetesVersion},
};
use runtime::backoff::Backoff;
use tonic::{Code, Status, codec::CompressionEncoding};

use crate::{
    cluster::Cluster,
    pod::Pod,
    session::{Connection, Uplink},
    version,
};

/// How often kas is told.
const INTERVAL: Duration = Duration::from_secs(300);
/// How long a call may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long the farewell may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// Who this is.
#[derive(Debug)]
pub(crate) struct Registration {
    pod_id: i64,
    pod: Option<Pod>,
    cluster: Cluster,
    kubernetes: Mutex<Option<KubernetesVersion>>,
}

impl Registration {
    pub(crate) fn new(pod: Option<Pod>, cluster: Cluster) -> Self {
        Self {
            pod_id: rand::random_range(0..=i64::MAX),
            pod,
            cluster,
            kubernetes: Mutex::default(),
        }
    }

    /// Registers on every new connection, and again every few minutes: kas's
    /// answer is also what shows that a connection is good. Never ends.
    pub(crate) async fn keep(&self, uplink: &Uplink) {
        let lines = (0..uplink.lines()).map(|line| self.keep_line(uplink.line(line)));
        futures_util::future::join_all(lines).await;
    }

    async fn keep_line(&self, uplink: Uplink) {
        let mut backoff = Backoff::new(Duration::from_secs(5), INTERVAL, 2.0);
        loop {
            let connection = uplink.connection().await;
            let delay = match self.register(&connection).await {
                Ok(()) => {
                    connection.accept();
                    backoff.reset();
                    if self.learn_version().await {
                        continue;
                    }
                    INTERVAL
                }
                Err(status) => {
                    tracing::debug!(%status, "cannot register with kas");
                    connection.judge(&status);
                    backoff.next(rand::random())
                }
            };
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = connection.left() => {}
            }
        }
    }

    /// Asks the cluster; whether kas should be told something new.
    async fn learn_version(&self) -> bool {
        let Some(version) = self.cluster.version().await else {
            return false;
        };
        let known = self.version().replace(version.clone());
        known != Some(version)
    }

    async fn register(&self, connection: &Connection) -> Result<(), Status> {
        let request = RegisterRequest {
            agent_meta: Some(self.meta()),
            pod_id: self.pod_id,
        };
        let mut client = AgentRegistrarClient::new(connection.channel())
            .accept_compressed(CompressionEncoding::Gzip);
        match within(DEADLINE, client.register(request)).await {
            Ok(_) => Ok(()),
            // An old kas, which answers all the same.
            Err(status) if status.code() == Code::Unimplemented => Ok(()),
            Err(status) => Err(status),
        }
    }

    /// Says goodbye, if there is a connection for it.
    pub(crate) async fn farewell(self, uplink: &Uplink) {
        let request = UnregisterRequest {
            agent_meta: Some(self.meta()),
            pod_id: self.pod_id,
        };
        let goodbye = async {
            let connection = uplink.connection().await;
            AgentRegistrarClient::new(connection.channel())
                .accept_compressed(CompressionEncoding::Gzip)
                .unregister(request)
                .await
        };
        if let Err(status) = within(FAREWELL, goodbye).await
            && status.code() != Code::Unimplemented
        {
            tracing::debug!(%status, "cannot unregister from kas");
        }
    }

    fn version(&self) -> MutexGuard<'_, Option<KubernetesVersion>> {
        self.kubernetes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn meta(&self) -> AgentMeta {
        AgentMeta {
            kubernetes_version: self.version().clone(),
            ..meta(self.pod.as_ref())
        }
    }
}

/// What kas is told about this process.
pub(crate) fn meta(pod: Option<&Pod>) -> AgentMeta {
    AgentMeta {
        version: version::VERSION.to_owned(),
        commit_id: version::COMMIT.to_owned(),
        pod_namespace: pod.map(|pod| pod.namespace.clone()).unwrap_or_default(),
        pod_name: pod.map(|pod| pod.name.clone()).unwrap_or_default(),
        kubernetes_version: None,
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

//! What the agent tells kas about its cluster: the version of its API server, and its identity.

use std::{sync::Arc, time::Duration};

use http::HeaderValue;
use proto::agent::entity::KubernetesVersion;
use tokio::{sync::watch, time::Instant};

use crate::cluster::{Cluster, ClusterIdentity};

/// How often the version is asked for once it is known: a cluster that is upgraded has another.
const REFRESH_INTERVAL: Duration = Duration::from_secs(300);
/// The waits while the cluster does not answer.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How long the first tunnels of a process wait for the cluster's answer.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// What is told while the identity is not known, or must not be read.
const UNKNOWN: &str = "unknown";

/// What is known of the cluster. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct ClusterFacts {
    known: Arc<watch::Sender<Known>>,
    first_answer_by: Instant,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Known {
    version: Option<KubernetesVersion>,
    identity: Option<ClusterIdentity>,
    /// Whether the cluster was asked once.
    asked: bool,
}

impl ClusterFacts {
    /// Nothing is known yet.
    pub(crate) fn new() -> Self {
        Self {
            known: Arc::default(),
            first_answer_by: Instant::now() + FIRST_ANSWER_TIMEOUT,
        }
    }

    /// Asks the cluster until everything is known, and its version again after that. Never ends.
    pub(crate) async fn learn(&self, cluster: &Cluster) {
        let mut retry = RETRY_MIN;
        loop {
            let identity = self.known.borrow().identity.clone();
            let ask_identity = async {
                match identity {
                    // Whose namespace it is never changes; rights may.
                    Some(ClusterIdentity::Uid(_)) => None,
                    Some(ClusterIdentity::Hidden) | None => cluster.identity_of_cluster().await,
                }
            };
            let (version, identity) = tokio::join!(cluster.version(), ask_identity);
            self.take(version, identity);
            let complete = {
                let known = self.known.borrow();
                known.version.is_some() && known.identity.is_some()
            };
            if complete {
                retry = RETRY_MIN;
                tokio::time::sleep(REFRESH_INTERVAL).await;
            } else {
                tokio::time::sleep(retry).await;
                retry = (2 * retry).min(RETRY_MAX);
            }
        }
    }

    fn take(&self, version: Option<KubernetesVersion>, identity: Option<ClusterIdentity>) {
        self.known.send_if_modified(|known| {
            let before = known.clone();
            known.asked = true;
            known.version = version.or(known.version.take());
            if let Some(identity) = identity {
                let hidden = identity == ClusterIdentity::Hidden;
                if hidden && known.identity.is_none() {
                    tracing::info!(
                        "kas is not told which cluster this is: the agent may not read the namespace kube-system \
                         (grant it get on namespaces/kube-system)"
                    );
                }
                known.identity = Some(identity);
            }
            *known != before
        });
    }

    /// The version of the API server, if it is known.
    pub(crate) fn version(&self) -> Option<KubernetesVersion> {
        self.known.borrow().version.clone()
    }

    /// The version, now and when it changes.
    pub(crate) fn changes(&self) -> FactChanges {
        let mut known = self.known.subscribe();
        let last = known.borrow_and_update().version.clone();
        FactChanges { known, last }
    }

    /// What a tunnel tells of the cluster's identity. Waits for the first answer of the cluster, but not for long.
    /// Cancel-safe.
    pub(crate) async fn identity(&self) -> HeaderValue {
        let mut known = self.known.subscribe();
        let answered = known.wait_for(|it| it.asked);
        // An agent whose cluster does not answer connects all the same.
        let _ = tokio::time::timeout_at(self.first_answer_by, answered).await;
        let known = self.known.borrow();
        let uid = match &known.identity {
            Some(ClusterIdentity::Uid(uid)) => uid.as_str(),
            Some(ClusterIdentity::Hidden) | None => UNKNOWN,
        };
        HeaderValue::from_str(uid).unwrap_or(HeaderValue::from_static(UNKNOWN))
    }
}

/// Changes of the version.
#[derive(Debug)]
pub(crate) struct FactChanges {
    known: watch::Receiver<Known>,
    last: Option<KubernetesVersion>,
}

impl FactChanges {
    /// Waits until the version is another one. Cancel-safe.
    pub(crate) async fn next(&mut self) {
        let last = self.last.clone();
        let other = self.known.wait_for(|it| it.version != last).await;
        match other.map(|known| known.version.clone()) {
            Ok(version) => self.last = version,
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Option<KubernetesVersion> {
        Some(KubernetesVersion {
            git_version: text.to_owned(),
            ..KubernetesVersion::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_version_that_comes_late_is_told_to_all_who_wait_for_it() {
        let facts = ClusterFacts::new();
        let (mut one, mut two) = (facts.changes(), facts.changes());

        facts.take(None, None);
        assert_eq!(facts.version(), None);
        facts.take(version("v1"), Some(ClusterIdentity::Uid("u".into())));
        one.next().await;
        two.next().await;

        // A cluster that does not answer takes nothing back.
        facts.take(None, None);
        assert_eq!(facts.version(), version("v1"));
        assert_eq!(facts.identity().await, "u");
    }

    #[tokio::test(start_paused = true)]
    async fn tunnels_wait_for_the_clusters_first_answer_but_not_for_ever() {
        let facts = ClusterFacts::new();
        let before = Instant::now();
        assert_eq!(facts.identity().await, UNKNOWN);
        assert_eq!(before.elapsed(), FIRST_ANSWER_TIMEOUT);
        assert_eq!(facts.identity().await, UNKNOWN);
        assert_eq!(before.elapsed(), FIRST_ANSWER_TIMEOUT, "once");

        let facts = ClusterFacts::new();
        facts.take(None, Some(ClusterIdentity::Hidden));
        let before = Instant::now();
        assert_eq!(facts.identity().await, UNKNOWN);
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}

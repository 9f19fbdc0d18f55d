//! Signatures of entries: write access to Redis does not make anybody a replica.
//!
//! Leases, owner entries and poll results carry an HMAC made with a secret that all replicas share. Entries that
//! do not verify are counted, logged once in a while and ignored, so that no address is dialled only because
//! somebody wrote it into Redis.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use runtime::jwt::Secret;
use tokio::time::Instant;

use super::metrics::StoreMetrics;
use crate::{
    id::{AgentId, Owner},
    store::{Lease, Load},
};

/// Purpose for which the signing key is derived from the shared secret.
const KEY_PURPOSE: &str = "kas routing store 2";
/// The least time between warnings about rejected entries.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Signs entries, and verifies those of others.
#[derive(Debug)]
pub(super) struct Signer {
    /// `None` disables signatures: every entry is accepted.
    secret: Option<Secret>,
    metrics: StoreMetrics,
    warned_at: Mutex<Option<Instant>>,
}

impl Signer {
    pub(super) fn new(secret: Option<&Secret>, metrics: StoreMetrics) -> Self {
        Self {
            secret: secret.map(|secret| secret.derive(KEY_PURPOSE)),
            metrics,
            warned_at: Mutex::default(),
        }
    }

    /// The signature of a lease, over all its fields but the load.
    pub(super) fn of_lease(&self, lease: &Lease) -> Option<String> {
        Some(self.secret.as_ref()?.mac(&Message::lease(lease).parts()))
    }

    /// The signature of what the replica of a lease carries.
    pub(super) fn of_load(&self, lease: &Lease, load: Load) -> Option<String> {
        Some(
            self.secret
                .as_ref()?
                .mac(&Message::load(lease, load).parts()),
        )
    }

    /// The signature of an owner's entry for this agent.
    pub(super) fn of_owner(&self, agent: AgentId, owner: &Owner) -> Option<String> {
        Some(
            self.secret
                .as_ref()?
                .mac(&Message::owner(agent, owner).parts()),
        )
    }

    /// A poll result of a project's repository with its signature, as it is stored.
    pub(super) fn write_head(&self, project: i64, head: &str) -> String {
        match &self.secret {
            Some(secret) => format!(
                "{} {head}",
                secret.mac(&Message::head(project, head).parts())
            ),
            None => head.to_owned(),
        }
    }

    /// The poll result in a stored value, if a replica has signed it.
    pub(super) fn read_head(&self, project: i64, written: &str) -> Option<String> {
        let (mac, head) = match written.split_once(' ') {
            Some((mac, head)) if self.secret.is_some() => (Some(mac), head),
            Some(_) | None => (None, written),
        };
        let accepted = self.accepts("head", &Message::head(project, head), mac);
        accepted.then(|| head.to_owned())
    }

    /// The cluster that an agent is pinned to with its signature, as it is stored.
    pub(super) fn write_pin(&self, agent: AgentId, cluster: &str) -> String {
        match &self.secret {
            Some(secret) => format!(
                "{} {cluster}",
                secret.mac(&Message::pin(agent, cluster).parts())
            ),
            None => cluster.to_owned(),
        }
    }

    /// The cluster in a stored value, if a replica has signed it.
    pub(super) fn read_pin(&self, agent: AgentId, written: &str) -> Option<String> {
        let (mac, cluster) = match written.split_once(' ') {
            Some((mac, cluster)) if self.secret.is_some() => (Some(mac), cluster),
            Some(_) | None => (None, written),
        };
        let accepted = self.accepts("pin", &Message::pin(agent, cluster), mac);
        accepted.then(|| cluster.to_owned())
    }

    /// Whether a replica has signed the lease.
    pub(super) fn accepts_lease(&self, lease: &Lease, mac: Option<&str>) -> bool {
        self.accepts("lease", &Message::lease(lease), mac)
    }

    /// Whether the replica of a lease has signed that it carries this.
    pub(super) fn accepts_load(&self, lease: &Lease, load: Load, mac: Option<&str>) -> bool {
        self.accepts("load", &Message::load(lease, load), mac)
    }

    /// Whether a replica has signed that it owns the agent.
    pub(super) fn accepts_owner(&self, agent: AgentId, owner: &Owner, mac: Option<&str>) -> bool {
        self.accepts("owner", &Message::owner(agent, owner), mac)
    }

    fn accepts(&self, kind: &'static str, message: &Message, mac: Option<&str>) -> bool {
        let Some(secret) = &self.secret else {
            return true;
        };
        let accepted = mac.is_some_and(|mac| secret.is_mac(&message.parts(), mac));
        if !accepted {
            self.reject(kind);
        }
        accepted
    }

    /// Counts a rejected entry.
    pub(super) fn reject(&self, kind: &'static str) {
        if self.count(kind) {
            tracing::warn!(
                kind,
                "ignored an entry of the routing store without a valid signature: somebody else writes into Redis, or a \
                 replica has another private_api.listen.authentication_secret_file"
            );
        }
    }

    /// Counts an entry that nobody signs, and that is not what its key says.
    pub(super) fn malformed(&self, kind: &'static str) {
        if self.count(kind) {
            tracing::warn!(
                kind,
                "ignored a malformed record of GitLab's kas in Redis, or one with a URL that this replica does not dial"
            );
        }
    }

    /// Counts it; returns whether to warn of it.
    fn count(&self, kind: &'static str) -> bool {
        self.metrics.reject(kind);
        let now = Instant::now();
        let mut warned_at = self
            .warned_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if warned_at.is_some_and(|at| now.saturating_duration_since(at) < WARN_INTERVAL) {
            return false;
        }
        *warned_at = Some(now);
        true
    }
}

/// The signed content of an entry.
struct Message(Vec<String>);

impl Message {
    fn lease(lease: &Lease) -> Self {
        Self(vec![
            "lease".into(),
            lease.replica.to_string(),
            lease.url.clone(),
            format!("{:?}", lease.state),
            lease.version.clone(),
            lease.beat.to_string(),
        ])
    }

    fn load(lease: &Lease, load: Load) -> Self {
        Self(vec![
            "load".into(),
            lease.replica.to_string(),
            lease.beat.to_string(),
            load.agent_connections.to_string(),
            load.max_agent_connections.to_string(),
        ])
    }

    fn owner(agent: AgentId, owner: &Owner) -> Self {
        Self(vec![
            "owner".into(),
            agent.to_string(),
            owner.replica.to_string(),
            owner.url.clone(),
        ])
    }

    fn head(project: i64, head: &str) -> Self {
        Self(vec!["head".into(), project.to_string(), head.into()])
    }

    fn pin(agent: AgentId, cluster: &str) -> Self {
        Self(vec!["pin".into(), agent.to_string(), cluster.into()])
    }

    fn parts(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_result_counts_for_its_project_only_and_if_a_replica_signed_it() {
        let signer = |byte| {
            let secret = Secret::new(vec![byte; 32]);
            Signer::new(Some(&secret), StoreMetrics::default())
        };
        let written = signer(1).write_head(3, "main abc");

        assert_eq!(
            signer(1).read_head(3, &written).as_deref(),
            Some("main abc")
        );
        for (project, written) in [
            (4, written.clone()),
            (3, written.replace("abc", "abd")),
            (3, "main abc".to_owned()),
            (3, signer(2).write_head(3, "main abc")),
        ] {
            assert_eq!(signer(1).read_head(project, &written), None, "{written}");
        }
        let open = Signer::new(None, StoreMetrics::default());
        assert_eq!(open.read_head(3, "main abc").as_deref(), Some("main abc"));
    }
}

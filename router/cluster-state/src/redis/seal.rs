//! Who wrote an entry: whoever can write into the store is not for that a replica.
//!
//! Leases and owner entries carry a code made with a secret that all replicas share. What does not verify is
//! counted, told once in a while, and ignored, so that nobody is dialled because the store says so alone.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use runtime::jwt::Secret;
use tokio::time::Instant;

use super::metrics::StoreMetrics;
use crate::{
    id::{AgentId, Owner},
    store::Lease,
};

/// What the secret for entries is derived for.
const PURPOSE: &str = "kas routing store 2";
/// How often it is told that entries are ignored.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// Signs entries, and tells whether others were signed.
#[derive(Debug)]
pub(super) struct Seal {
    /// Without one nothing is signed, and everything counts.
    secret: Option<Secret>,
    metrics: StoreMetrics,
    told: Mutex<Option<Instant>>,
}

impl Seal {
    pub(super) fn new(secret: Option<&Secret>, metrics: StoreMetrics) -> Self {
        Self {
            secret: secret.map(|secret| secret.derive(PURPOSE)),
            metrics,
            told: Mutex::default(),
        }
    }

    /// The code of a lease: all that it says.
    pub(super) fn of_lease(&self, lease: &Lease) -> Option<String> {
        Some(self.secret.as_ref()?.mac(&Said::lease(lease).parts()))
    }

    /// The code of an owner's entry of this agent.
    pub(super) fn of_owner(&self, agent: AgentId, owner: &Owner) -> Option<String> {
        Some(
            self.secret
                .as_ref()?
                .mac(&Said::owner(agent, owner).parts()),
        )
    }

    /// What is posted about a project's repository, with its code.
    pub(super) fn head(&self, project: i64, head: &str) -> String {
        match &self.secret {
            Some(secret) => format!("{} {head}", secret.mac(&Said::head(project, head).parts())),
            None => head.to_owned(),
        }
    }

    /// The same as it was before, if a replica wrote it.
    pub(super) fn read_head(&self, project: i64, written: &str) -> Option<String> {
        let (mac, head) = match written.split_once(' ') {
            Some((mac, head)) if self.secret.is_some() => (Some(mac), head),
            Some(_) | None => (None, written),
        };
        let admits = self.admits("head", &Said::head(project, head), mac);
        admits.then(|| head.to_owned())
    }

    /// Whether a replica wrote the lease.
    pub(super) fn admits_lease(&self, lease: &Lease, mac: Option<&str>) -> bool {
        self.admits("lease", &Said::lease(lease), mac)
    }

    /// Whether a replica wrote that it holds tunnels of the agent.
    pub(super) fn admits_owner(&self, agent: AgentId, owner: &Owner, mac: Option<&str>) -> bool {
        self.admits("owner", &Said::owner(agent, owner), mac)
    }

    fn admits(&self, kind: &'static str, said: &Said, mac: Option<&str>) -> bool {
        let Some(secret) = &self.secret else {
            return true;
        };
        let admits = mac.is_some_and(|mac| secret.is_mac(&said.parts(), mac));
        if !admits {
            self.reject(kind);
        }
        admits
    }

    /// Counts an entry that is ignored.
    pub(super) fn reject(&self, kind: &'static str) {
        self.metrics.reject(kind);
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_some_and(|at| now.saturating_duration_since(at) < TELL_INTERVAL) {
            return;
        }
        *told = Some(now);
        drop(told);
        tracing::warn!(
            kind,
            "an entry of the routing store that no replica with this one's secret has written is ignored: somebody else \
             writes into Redis, or a replica has another private_api.listen.authentication_secret_file"
        );
    }
}

/// What an entry says.
struct Said(Vec<String>);

impl Said {
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

    fn parts(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_posted_counts_for_its_project_only_and_if_a_replica_wrote_it() {
        let seal = |byte| {
            let secret = Secret::new(vec![byte; 32]);
            Seal::new(Some(&secret), StoreMetrics::default())
        };
        let written = seal(1).head(3, "main abc");

        assert_eq!(seal(1).read_head(3, &written).as_deref(), Some("main abc"));
        for (project, written) in [
            (4, written.clone()),
            (3, written.replace("abc", "abd")),
            (3, "main abc".to_owned()),
            (3, seal(2).head(3, "main abc")),
        ] {
            assert_eq!(seal(1).read_head(project, &written), None, "{written}");
        }
        let open = Seal::new(None, StoreMetrics::default());
        assert_eq!(open.read_head(3, "main abc").as_deref(), Some("main abc"));
    }
}

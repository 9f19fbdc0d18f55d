//! Signatures of entries: write access to Redis does not make anybody a replica.
//!
//! Leases, owner entries, poll results and pins carry an HMAC made with a secret that all replicas share, and so does
//! what is told of agents: presence, connection records, and when one was seen last. Entries that do not verify are
//! counted, logged once in a while and ignored, so that no address is dialled and nobody is shown as connected only
//! because somebody wrote so into Redis. What a replica wrote can be deleted by others, or written again for the same
//! replica or agent.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use runtime::jwt::Secret;
use tokio::time::Instant;

use super::metrics::StoreMetrics;
use crate::{
    connection_record::RecordSubject,
    id::{AgentId, Owner, ReplicaId},
    presence::Presence,
    store::{Lease, Load},
};

/// Purpose for which the signing key is derived from the shared secret.
const KEY_PURPOSE: &str = "kas routing store 2";
/// The least time between warnings about rejected entries.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Bytes of a signed text and its signature: presence of 100 processes takes less than half.
const MAX_SIGNED_BYTES: usize = 256 << 10;

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
        self.write(&Message::head(project, head), head)
    }

    /// The poll result in a stored value, if a replica has signed it.
    pub(super) fn read_head<'a>(&self, project: i64, written: &'a str) -> Option<&'a str> {
        self.read("head", written, |head| Message::head(project, head))
    }

    /// The cluster that an agent is pinned to with its signature, as it is stored.
    pub(super) fn write_pin(&self, agent: AgentId, cluster: &str) -> String {
        self.write(&Message::pin(agent, cluster), cluster)
    }

    /// The cluster in a stored value, if a replica has signed it.
    pub(super) fn read_pin<'a>(&self, agent: AgentId, written: &'a str) -> Option<&'a str> {
        self.read("pin", written, |cluster| Message::pin(agent, cluster))
    }

    /// What a replica publishes of an agent with its signature, as it is stored.
    pub(super) fn write_presence(
        &self,
        replica: &ReplicaId,
        agent: AgentId,
        presence: &Presence,
    ) -> String {
        let (group, text) = (presence.group, &presence.text);
        self.write(&Message::presence(replica, agent, group, text), text)
    }

    /// What a replica publishes of an agent of this group, in a stored value, if one has signed it for that replica.
    pub(super) fn read_presence<'a>(
        &self,
        replica: &ReplicaId,
        agent: AgentId,
        group: i64,
        written: &'a str,
    ) -> Option<&'a str> {
        self.read("presence", written, |text| {
            Message::presence(replica, agent, group, text)
        })
    }

    /// A connection record with its signature, as it is stored.
    pub(super) fn write_record(&self, subject: RecordSubject, record: &str) -> String {
        self.write(&Message::record(subject, record), record)
    }

    /// The connection record in a stored value, if a replica has signed it.
    pub(super) fn read_record<'a>(
        &self,
        subject: RecordSubject,
        written: &'a str,
    ) -> Option<&'a str> {
        self.read("record", written, |record| Message::record(subject, record))
    }

    /// When an agent was seen last with its signature, as it is stored. In seconds since 1970.
    pub(super) fn write_last_seen(&self, agent: AgentId, at: u64) -> String {
        let at = at.to_string();
        self.write(&Message::last_seen(agent, &at), &at)
    }

    /// When an agent was seen last, in a stored value, if a replica has signed it.
    pub(super) fn read_last_seen(&self, agent: AgentId, written: &str) -> Option<u64> {
        let at = self.read("last_seen", written, |at| Message::last_seen(agent, at));
        at?.parse().ok()
    }

    /// A text with its signature, as it is stored.
    fn write(&self, message: &Message, text: &str) -> String {
        match &self.secret {
            Some(secret) => format!("{} {text}", secret.mac(&message.parts())),
            None => text.to_owned(),
        }
    }

    /// The text in a stored value, if it has the signature of the message that is made of it.
    fn read<'a>(
        &self,
        kind: &'static str,
        written: &'a str,
        message: impl FnOnce(&str) -> Message,
    ) -> Option<&'a str> {
        // It is hashed before it is known who wrote it.
        if written.len() > MAX_SIGNED_BYTES && self.secret.is_some() {
            self.reject(kind);
            return None;
        }
        let (mac, text) = match written.split_once(' ') {
            Some((mac, text)) if self.secret.is_some() => (Some(mac), text),
            Some(_) | None => (None, written),
        };
        self.accepts(kind, &message(text), mac).then_some(text)
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

    fn presence(replica: &ReplicaId, agent: AgentId, group: i64, text: &str) -> Self {
        Self(vec![
            "presence".into(),
            replica.to_string(),
            agent.to_string(),
            group.to_string(),
            text.into(),
        ])
    }

    fn record(subject: RecordSubject, record: &str) -> Self {
        let of = match subject {
            RecordSubject::Agent(agent) => agent.to_string(),
            RecordSubject::Strangers => "strangers".into(),
        };
        Self(vec!["record".into(), of, record.into()])
    }

    fn last_seen(agent: AgentId, at: &str) -> Self {
        Self(vec!["last_seen".into(), agent.to_string(), at.into()])
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

        assert_eq!(signer(1).read_head(3, &written), Some("main abc"));
        for (project, written) in [
            (4, written.clone()),
            (3, written.replace("abc", "abd")),
            (3, "main abc".to_owned()),
            (3, signer(2).write_head(3, "main abc")),
        ] {
            assert_eq!(signer(1).read_head(project, &written), None, "{written}");
        }
        let open = Signer::new(None, StoreMetrics::default());
        assert_eq!(open.read_head(3, "main abc"), Some("main abc"));
    }
    #[test]
    fn what_is_told_of_an_agent_counts_for_it_and_its_replica_only() {
        let signer = Signer::new(Some(&Secret::new(vec![1; 32])), StoreMetrics::default());
        let (a, b) = (ReplicaId::new("a"), ReplicaId::new("b"));
        let presence = Presence {
            group: 3,
            text: "[{}, {}]".into(),
        };

        let written = signer.write_presence(&a, AgentId(7), &presence);
        let seen = signer.write_last_seen(AgentId(7), 100);
        let record = signer.write_record(RecordSubject::Agent(AgentId(7)), "{}");

        let read =
            |replica, agent, group| signer.read_presence(replica, AgentId(agent), group, &written);
        assert_eq!(read(&a, 7, 3), Some("[{}, {}]"));
        for (replica, agent, group) in [(&b, 7, 3), (&a, 8, 3), (&a, 7, 4)] {
            assert_eq!(read(replica, agent, group), None);
        }
        assert_eq!(signer.read_presence(&a, AgentId(7), 3, "[{}, {}]"), None);
        assert_eq!(signer.read_last_seen(AgentId(7), &seen), Some(100));
        assert_eq!(signer.read_last_seen(AgentId(8), &seen), None);
        assert_eq!(signer.read_last_seen(AgentId(7), "100"), None);
        let of = |subject| signer.read_record(subject, &record);
        assert_eq!(of(RecordSubject::Agent(AgentId(7))), Some("{}"));
        assert_eq!(of(RecordSubject::Agent(AgentId(8))), None);
        assert_eq!(of(RecordSubject::Strangers), None);
    }
}

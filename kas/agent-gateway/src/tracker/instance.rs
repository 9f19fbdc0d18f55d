//! One agent process, as this replica knows it.

use std::sync::Arc;

use jiff::Timestamp;
use proto::agent::entity::{AgentMeta, KubernetesVersion};
use router::AgentId;
use sha2::{Digest, Sha256};

use super::{away::Away, origin::Origin};

/// Longest name of a pod or namespace.
const MAX_NAME_BYTES: usize = 253;
/// Longest version, commit or platform.
const MAX_TEXT_BYTES: usize = 64;

/// A connected agent process.
#[derive(Debug, Clone)]
pub(super) struct Instance {
    pub(super) connection_id: i64,
    /// Whether it has registered, so that its id is its own.
    pub(super) registered: bool,
    pub(super) meta: AgentMeta,
    pub(super) connected_at: Timestamp,
    /// Streams and registrations by which it counts as connected.
    pub(super) references: usize,
    /// The connection of the last of them.
    pub(super) origin: Arc<Origin>,
    /// Until when it counts as connected, while there is none.
    pub(super) until: Option<Timestamp>,
    /// Set while there is none.
    pub(super) away: Option<Away>,
    /// Whether it is to be looked at again, when it is away.
    pub(super) scheduled: bool,
}

impl Instance {
    pub(super) fn registered(
        pod_id: i64,
        meta: &AgentMeta,
        now: Timestamp,
        origin: &Arc<Origin>,
    ) -> Self {
        Self {
            origin: origin.clone(),
            until: None,
            away: None,
            scheduled: false,
            connection_id: pod_id,
            registered: true,
            meta: truncated(meta),
            connected_at: now,
            references: 1,
        }
    }

    /// Its id is the same on all replicas, and each time it connects.
    pub(super) fn streaming(
        agent: AgentId,
        meta: &AgentMeta,
        now: Timestamp,
        origin: &Arc<Origin>,
    ) -> Self {
        let mut instance = Self::registered(0, meta, now, origin);
        instance.registered = false;
        instance.connection_id = match instance.pod() {
            pod if pod.is_empty() => rand::random::<i64>() & i64::MAX,
            pod => stable_id(&format!("{agent}/{pod}")),
        };
        instance
    }

    /// Its pod, which both calls of one process name; may be empty.
    pub(super) fn pod(&self) -> String {
        let AgentMeta {
            pod_namespace,
            pod_name,
            ..
        } = &self.meta;
        match pod_name.as_str() {
            "" => String::new(),
            name => format!("{pod_namespace}/{name}"),
        }
    }

    /// Whether both are one process.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        if self.connection_id == other.connection_id {
            return true;
        }
        // A process that was started again in its pod has another id.
        let both_registered = self.registered && other.registered;
        let pod = self.pod();
        !both_registered && !pod.is_empty() && pod == other.pod()
    }

    /// Whether another is the next process of the same pod.
    pub(super) fn is_predecessor(&self, other: &Self) -> bool {
        let pod = self.pod();
        !pod.is_empty() && pod == other.pod()
    }

    /// Its name in records: its pod, or else its number.
    pub(super) fn name(&self) -> String {
        match self.pod() {
            pod if pod.is_empty() => self.connection_id.to_string(),
            pod => pod,
        }
    }

    /// Adds another stream or registration of the same process. A registration carries more than a stream, and
    /// replaces what is known; what it does not tell stays known. Returns whether that has changed.
    pub(super) fn merge(&mut self, mut other: Self) -> bool {
        self.references += 1;
        self.origin = other.origin;
        // A process registers on each of its connections: a registration from before it knew its cluster may arrive last.
        let known = &self.meta.kubernetes_version;
        if other.meta.kubernetes_version.is_none() {
            other.meta.kubernetes_version.clone_from(known);
        }
        let counts = other.registered || !self.registered;
        if !counts {
            let news = other.meta.kubernetes_version;
            let changed = self.meta.kubernetes_version != news;
            self.meta.kubernetes_version = news;
            return changed;
        }
        let same = self.connection_id == other.connection_id
            && self.registered == other.registered
            && self.meta == other.meta;
        // Whoever is to look at it knows it by its number.
        self.scheduled &= self.connection_id == other.connection_id;
        self.connection_id = other.connection_id;
        self.registered = other.registered;
        self.meta = other.meta;
        !same
    }
}

fn stable_id(text: &str) -> i64 {
    let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash[..8]);
    i64::from_le_bytes(bytes) & i64::MAX
}

/// All replicas read this, so it is short, and without control characters, for which JSON needs six bytes each.
fn truncated(meta: &AgentMeta) -> AgentMeta {
    let mut meta = meta.clone();
    // GitLab's agentk has an empty one in each stream, and tells of its cluster in registrations only.
    let told = |it: &KubernetesVersion| *it != KubernetesVersion::default();
    meta.kubernetes_version = meta.kubernetes_version.filter(told);
    for name in [&mut meta.pod_namespace, &mut meta.pod_name] {
        truncate(name, MAX_NAME_BYTES);
    }
    let kubernetes = meta.kubernetes_version.iter_mut();
    let texts = kubernetes.flat_map(|it| {
        [
            &mut it.major,
            &mut it.minor,
            &mut it.git_version,
            &mut it.platform,
        ]
    });
    for text in texts.chain([&mut meta.version, &mut meta.commit_id]) {
        truncate(text, MAX_TEXT_BYTES);
    }
    meta
}

fn truncate(text: &mut String, bytes: usize) {
    text.truncate(text.floor_char_boundary(bytes));
    text.retain(|character| !character.is_control());
    text.shrink_to_fit();
}

//! One agent process, as this replica knows it.

use jiff::Timestamp;
use proto::agent::entity::AgentMeta;
use router::AgentId;
use sha2::{Digest, Sha256};

/// Bytes of the names that a process has in Kubernetes, at most.
const MAX_NAME_BYTES: usize = 253;
/// Bytes of each other thing that it says of itself: a version, a commit, a platform.
const MAX_TEXT_BYTES: usize = 64;

/// A connected agent process.
#[derive(Debug, Clone)]
pub(super) struct Instance {
    pub(super) connection_id: i64,
    /// Whether it has registered, so that its id is its own.
    pub(super) registered: bool,
    pub(super) meta: AgentMeta,
    pub(super) connected_at: Timestamp,
    /// Streams and connections on which it is there.
    pub(super) holders: usize,
}

impl Instance {
    pub(super) fn registered(pod_id: i64, meta: &AgentMeta, now: Timestamp) -> Self {
        Self {
            connection_id: pod_id,
            registered: true,
            meta: bounded(meta),
            connected_at: now,
            holders: 1,
        }
    }

    /// Its number is the same on all replicas, and each time it connects.
    pub(super) fn streaming(agent: AgentId, meta: &AgentMeta, now: Timestamp) -> Self {
        let mut instance = Self::registered(0, meta, now);
        instance.registered = false;
        instance.connection_id = match instance.pod() {
            pod if pod.is_empty() => rand::random::<i64>() & i64::MAX,
            pod => number(&format!("{agent}/{pod}")),
        };
        instance
    }

    /// Its pod, by which both calls of one process are told; may be empty.
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
        // A process that was started again in its pod has another number.
        let both_registered = self.registered && other.registered;
        let pod = self.pod();
        !both_registered && !pod.is_empty() && pod == other.pod()
    }

    /// It is there once more. Who registers says more of itself.
    /// Gives whether anything of it is new.
    pub(super) fn again(&mut self, other: Self) -> bool {
        self.holders += 1;
        let same = self.connection_id == other.connection_id
            && self.registered == other.registered
            && self.meta == other.meta;
        let counts = other.registered || !self.registered;
        if counts && !same {
            self.connection_id = other.connection_id;
            self.registered = other.registered;
            self.meta = other.meta;
        }
        counts && !same
    }
}

fn number(text: &str) -> i64 {
    let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash[..8]);
    i64::from_le_bytes(bytes) & i64::MAX
}

/// What it says of itself goes where all replicas read, so it is short and without what JSON writes in six bytes.
fn bounded(meta: &AgentMeta) -> AgentMeta {
    let mut meta = meta.clone();
    for name in [&mut meta.pod_namespace, &mut meta.pod_name] {
        cut(name, MAX_NAME_BYTES);
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
        cut(text, MAX_TEXT_BYTES);
    }
    meta
}

fn cut(text: &mut String, bytes: usize) {
    text.truncate(text.floor_char_boundary(bytes));
    text.retain(|character| !character.is_control());
    text.shrink_to_fit();
}

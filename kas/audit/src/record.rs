//! One record: a JSON object on a line of its own. The fields are explained in `docs/audit.md`.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::Recorded;

/// The version of the schema; it grows when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 1;
/// Bytes of a text of a caller that are kept.
const MAX_TEXT_BYTES: usize = 1024;
/// Texts of a list that are kept.
const MAX_TEXTS: usize = 64;
/// Bytes of all texts of a list that are kept.
const MAX_LIST_BYTES: usize = 4096;

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A request is about to reach its cluster.
    Begin,
    /// A request is over, or was refused.
    End,
    /// Agents, callers, tokens or access rules have changed.
    Change,
    /// An operator changed something of a running replica.
    Admin,
    /// A recording was closed or removed apart from the end of its session.
    Recording,
    /// The sink was opened.
    Start,
    /// The sink was closed in order.
    Stop,
    /// Records were lost before this one.
    Dropped,
}

/// Who writes the records of a process.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The replica.
    pub replica: String,
    /// What it runs.
    pub version: String,
}

/// One record. Whatever is absent is not written.
#[derive(Debug, Clone, Serialize)]
pub struct Record<'a> {
    /// What it is about.
    pub kind: Kind,
    /// The request's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
    /// The trace that the request is part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Who asked, as in `user:alice`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Text<'a>>,
    /// What an operator may do: their role in the admin API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'a str>,
    /// Who vouches for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<Text<'a>>,
    /// What tells the token from others; never the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_id: Option<Text<'a>>,
    /// By which access rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Text<'a>>,
    /// As whom in the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acts_as: Option<ActsAs<'a>>,
    /// Which agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentName<'a>>,
    /// The `uid` of the namespace `kube-system` of its cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_uid: Option<Text<'a>>,
    /// What Kubernetes calls the verb; the method for what is no resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verb: Option<Text<'a>>,
    /// The HTTP method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Text<'a>>,
    /// The path as it was sent, without the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Text<'a>>,
    /// The API group; empty for the core API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_group: Option<Text<'a>>,
    /// The API version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<Text<'a>>,
    /// The resource, as in `pods`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<Text<'a>>,
    /// The subresource, as in `exec`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subresource: Option<Text<'a>>,
    /// The namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Text<'a>>,
    /// The object's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Text<'a>>,
    /// The container, of exec, attach and logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Text<'a>>,
    /// The command of an exec.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<Text<'a>>,
    /// Where the request comes from, without or with its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The client program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<Text<'a>>,
    /// The `Audit-Id` of the cluster's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_audit_id: Option<Text<'a>>,
    /// The replicas that the request passed, this one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub via: Vec<Text<'a>>,
    /// The status of the answer, 0 if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Whether the answer ended before it was whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<bool>,
    /// Bytes of the request's body, or from the client of an upgraded connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_bytes: Option<u64>,
    /// Bytes of the answer's body, or to the client of an upgraded connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_bytes: Option<u64>,
    /// How long the request took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Why it was refused or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Text<'a>>,
    /// The recording of the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recording: Option<Recorded>,
    /// What has changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// How many records were lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped: Option<u64>,
    /// What wrote this, at the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<&'a str>,
    /// What the hashes of the chain are made with, at the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_algorithm: Option<&'static str>,
}

impl Record<'_> {
    /// A record that says nothing yet.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            request_id: None,
            trace_id: None,
            user: None,
            role: None,
            issuer: None,
            token_id: None,
            rule: None,
            acts_as: None,
            agent: None,
            cluster_uid: None,
            verb: None,
            method: None,
            path: None,
            api_group: None,
            api_version: None,
            resource: None,
            subresource: None,
            namespace: None,
            name: None,
            container: None,
            command: Vec::new(),
            client: None,
            user_agent: None,
            cluster_audit_id: None,
            via: Vec::new(),
            status: None,
            cut: None,
            received_bytes: None,
            sent_bytes: None,
            duration_ms: None,
            reason: None,
            recording: None,
            changes: Vec::new(),
            dropped: None,
            version: None,
            hash_algorithm: None,
        }
    }
}

/// An agent in a record.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct AgentName<'a> {
    /// Its number.
    pub id: i64,
    /// Its name, where that is known.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub name: &'a str,
}

/// As whom a request is made in the cluster.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActsAs<'a> {
    /// As the agent itself, or as whom the caller named in `Impersonate-User`.
    Agent {
        /// What the caller named.
        #[serde(skip_serializing_if = "Option::is_none")]
        impersonates: Option<Text<'a>>,
    },
    /// As this identity, which the control plane chose.
    Identity {
        /// Its user name.
        username: Text<'a>,
        /// Its groups.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        groups: Vec<Text<'a>>,
        /// Its UID.
        #[serde(skip_serializing_if = "Option::is_none")]
        uid: Option<Text<'a>>,
    },
}

/// One difference between two states of what is administered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `added`, `removed`, `changed` or `joined`.
    pub change: &'static str,
    /// What, as in `user:alice`, `agent:demo` or `access[2]`.
    pub subject: String,
    /// What it was and is, in words; never a secret.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// A text that somebody chose, cut to 1,024 bytes. JSON escapes what is left.
#[derive(Debug, Clone)]
pub struct Text<'a>(pub Cow<'a, str>);

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl From<String> for Text<'_> {
    fn from(text: String) -> Self {
        Self(Cow::Owned(text))
    }
}

impl<'a> Text<'a> {
    /// The text, unless it is empty.
    #[must_use]
    pub fn given(text: &'a str) -> Option<Self> {
        (!text.is_empty()).then(|| text.into())
    }
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let shown = &self.0[..self.0.floor_char_boundary(MAX_TEXT_BYTES)];
        if shown.len() == self.0.len() {
            return to.serialize_str(shown);
        }
        to.collect_str(&format_args!("{shown}… (cut, {} bytes)", self.0.len()))
    }
}

/// The first texts of a list, cut to what a record may hold; the last one says how many are missing.
#[must_use]
pub fn texts<'a>(all: impl IntoIterator<Item = &'a str>) -> Vec<Text<'a>> {
    let (mut kept, mut bytes, mut missing) = (Vec::new(), 0, 0_usize);
    for text in all {
        bytes += text.len().min(MAX_TEXT_BYTES);
        if missing == 0 && kept.len() < MAX_TEXTS && bytes <= MAX_LIST_BYTES {
            kept.push(text.into());
        } else {
            missing += 1;
        }
    }
    if missing > 0 {
        kept.push(format!("… ({missing} more)").into());
    }
    kept
}

/// The line of a record without what its chain adds, and without the closing brace.
pub(crate) fn encode(identity: &Identity, record: &Record<'_>) -> String {
    let json = |value: &str| serde_json::Value::from(value).to_string();
    let record = serde_json::to_string(record).expect("a record is texts and numbers");
    let fields = record.trim_start_matches('{');
    let fields = fields.strip_suffix('}').unwrap_or(fields);
    let (time, replica) = (Timestamp::now(), json(&identity.replica));
    format!("{{\"v\":{SCHEMA},\"time\":\"{time}\",\"replica\":{replica},{fields}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_chose_is_cut_and_escaped() {
        let long = "ü".repeat(2000);
        let words: Vec<_> = (0..1000).map(|_| "word\n\u{1b}[2J").collect();
        let mut record = Record::new(Kind::Begin);
        record.path = Text::given(&long);
        record.command = texts(words.iter().copied());

        let line = serde_json::to_string(&record).unwrap();

        assert!(line.len() < 4096, "{} bytes", line.len());
        assert!(line.chars().all(|c| !c.is_control()), "{line}");
        assert!(line.contains("… (cut, 4000 bytes)") && line.contains("… (936 more)"));
    }

    #[test]
    fn what_is_not_known_is_not_written() {
        let line = serde_json::to_string(&Record::new(Kind::End)).unwrap();

        assert_eq!(line, r#"{"kind":"end"}"#);
    }
}

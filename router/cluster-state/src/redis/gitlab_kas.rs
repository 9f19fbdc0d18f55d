//! Records of GitLab's kas 16.5, written and read besides our own, for a set in which both are replicas.
//!
//! | key | field → value |
//! |---|---|
//! | `<prefix>:tunnel_tracker2:kas_by_agent_id:<agent>` | URL of a private API → nothing, for each owner |
//! | `<prefix>:agent_tracker2:conn_by_agent_id:<agent>` | connection → its description |
//! | `<prefix>:agent_tracker2:conn_by_project_id:<project>` | the same |
//! | `<prefix>:agent_tracker2:connected_agents` | agent → nothing |
//!
//! Ids in keys are eight raw bytes, little endian; as fields they are decimal. Each value is an `ExpiringValue`:
//! GitLab's kas writes it again before it expires, and reads none that has. Nothing is signed. Whose tunnels are all
//! in use for 5 s is not listed by GitLab's kas, and nothing says when an agent was seen last.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use fred::{
    clients::Client,
    error::Error,
    interfaces::{HashesInterface as _, KeysInterface as _},
    types::Key,
};
use futures_util::future::{try_join, try_join_all, try_join3};
use prost::Message as _;
use proto::agent::redistool::ExpiringValue;
use runtime::{connect::Target, io::Scheme};

use super::{
    fields,
    format::{MAX_ENTRY_BYTES, MAX_OWNERS},
    signature::Signer,
};
use crate::{
    id::{AgentId, Owner, ReplicaId, urls},
    presence::{
        ConnectionForm, FOREIGN_REPLICA, Presence, PresenceEntry, PresenceQuery, PresenceUpdate,
        StoredPresence,
    },
};

/// How long a record counts that is not written again.
const RECORD_TTL: Duration = Duration::from_secs(300);
/// What our replicas write where GitLab's write nothing and read nothing: our own records say more of these, and
/// are signed.
const OURS: &[u8] = b"kas2";
/// Bytes of a URL in a record, at most.
const MAX_URL_BYTES: usize = 512;
/// Connections of one agent, or one project, that are read, at most.
const MAX_CONNECTIONS: usize = 1000;
/// Agents that are read where all are asked for, at most.
const MAX_AGENTS: usize = 10_000;

/// Has records of GitLab's kas 16.5 written and read besides our own.
#[derive(Debug, Clone)]
pub struct GitLabKas {
    /// The form of an agent's connections.
    pub connections: Arc<dyn ConnectionForm>,
    /// Whether only URLs with TLS count.
    pub only_tls: bool,
}

impl GitLabKas {
    /// After what time records are to be written again.
    pub const REFRESH_INTERVAL: Duration = Duration::from_secs(240);
}

/// The records.
#[derive(Debug, Clone)]
pub(super) struct Records {
    kas: GitLabKas,
    signer: Arc<Signer>,
    keys: Keys,
}

/// Names of keys, up to the raw id.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    owners: String,
    by_agent: String,
    by_project: String,
    connected: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            owners: format!("{prefix}:tunnel_tracker2:kas_by_agent_id:"),
            by_agent: format!("{prefix}:agent_tracker2:conn_by_agent_id:"),
            by_project: format!("{prefix}:agent_tracker2:conn_by_project_id:"),
            connected: format!("{prefix}:agent_tracker2:connected_agents"),
        }
    }

    /// The agent whose owners a key names.
    pub(super) fn agent_of(&self, key: &[u8]) -> Option<AgentId> {
        let id = key.strip_prefix(self.owners.as_bytes())?;
        id.try_into().ok().map(i64::from_le_bytes).map(AgentId)
    }
}

fn with_id(prefix: &str, id: i64) -> Bytes {
    [prefix.as_bytes(), &id.to_le_bytes()].concat().into()
}

impl Records {
    pub(super) fn new(kas: GitLabKas, prefix: &str, signer: Arc<Signer>) -> Self {
        Self {
            kas,
            signer,
            keys: Keys::new(prefix),
        }
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// This replica, published at these URLs, of which GitLab's kas dials one, holds tunnels of the agent.
    pub(super) async fn announce(
        &self,
        client: &Client,
        agent: AgentId,
        published: &str,
    ) -> Result<(), Error> {
        let Some(url) = urls(published).next() else {
            return Ok(());
        };
        let owner = vec![(url.to_owned(), expiring(OURS))];
        write(client, with_id(&self.keys.owners, agent.0), owner).await
    }

    /// It holds none any more.
    pub(super) async fn retract(
        &self,
        client: &Client,
        agent: AgentId,
        published: &str,
    ) -> Result<(), Error> {
        let Some(url) = urls(published).next() else {
            return Ok(());
        };
        let key = with_id(&self.keys.owners, agent.0);
        client.hdel(key, url.to_owned()).await
    }

    /// The replicas of GitLab's kas that hold tunnels of the agent, and whether these are all.
    pub(super) async fn owners(
        &self,
        client: &Client,
        agent: AgentId,
    ) -> Result<(Vec<Owner>, bool), Error> {
        let key = with_id(&self.keys.owners, agent.0);
        let (fields, mut whole) = fields::<Bytes>(client, key, MAX_OWNERS).await?;
        let now = unix();
        let mut owners = BTreeMap::new();
        for (url, value) in fields {
            match self.valid(&url, &value, now) {
                Valid::Value(value) if value == OURS => {}
                Valid::Value(_) => match self.owner(&url) {
                    Some(owner) if owners.len() < MAX_OWNERS => {
                        owners.insert(owner.url.clone(), owner);
                    }
                    Some(_) => whole = false,
                    None => self.signer.malformed("gitlab_kas_owner"),
                },
                Valid::Expired => {}
                Valid::Malformed => self.signer.malformed("gitlab_kas_owner"),
            }
        }
        // In one order, so that two reads of the same content are equal.
        Ok((owners.into_values().collect(), whole))
    }

    /// Writes this replica's connections, those that go on too, and removes those that are known to have ended. An
    /// agent's entry among the connected ones expires, since others may hold it.
    pub(super) async fn update_connections(
        &self,
        client: &Client,
        updates: &[PresenceUpdate],
    ) -> Result<(), Error> {
        let connected = updates.iter().filter(|update| update.new.is_some());
        let connected: Vec<_> = connected
            .map(|update| (update.agent.to_string(), expiring(&[])))
            .collect();
        if !connected.is_empty() {
            let key = Bytes::from(self.keys.connected.clone());
            write(client, key, connected).await?;
        }
        let writes = updates.iter().map(|update| self.update(client, update));
        try_join_all(writes).await.map(drop)
    }

    /// Agents of which these updates remove connections.
    pub(super) fn leaving(&self, updates: &[PresenceUpdate]) -> Vec<AgentId> {
        let leaving = updates.iter().filter(|update| {
            let new = self.connections(update.agent, update.new.as_ref());
            let stays = |(old, _): &(i64, _)| new.iter().any(|(id, _)| id == old);
            let old = self.connections(update.agent, stored(update));
            !old.iter().all(stays)
        });
        leaving.map(|update| update.agent).collect()
    }

    /// Writes connections that other replicas of ours have. One agent's process can be connected to several of them by
    /// one connection id, which whoever it leaves has removed.
    ///
    /// None is lost whatever the order, since each replica writes its own presence before these records, and who
    /// removes reads that presence behind the removal.
    pub(super) async fn restore(
        &self,
        client: &Client,
        held: &[PresenceEntry],
    ) -> Result<(), Error> {
        let writes = held.iter().map(
            |PresenceEntry {
                 agent, presence, ..
             }| {
                let entries = self.connections(*agent, Some(presence)).into_iter();
                let entries = entries.map(|(id, info)| (id.to_string(), expiring(&info)));
                let entries: Vec<_> = entries.collect();
                let by_agent = with_id(&self.keys.by_agent, agent.0);
                let by_project = with_id(&self.keys.by_project, presence.group);
                try_join(
                    write(client, by_agent, entries.clone()),
                    write(client, by_project, entries),
                )
            },
        );
        try_join_all(writes).await.map(drop)
    }

    async fn update(&self, client: &Client, update: &PresenceUpdate) -> Result<(), Error> {
        let new = self.connections(update.agent, update.new.as_ref());
        let before = stored(update);
        let stays = |id: &i64| new.iter().any(|(now, _)| now == id);
        let old = self.connections(update.agent, before).into_iter();
        let old: Vec<_> = old.map(|(id, _)| id).collect();
        let gone = |moved: bool| {
            let gone = old.iter().filter(|id| moved || !stays(id));
            gone.map(ToString::to_string).collect::<Vec<_>>()
        };
        let agent = with_id(&self.keys.by_agent, update.agent.0);
        let project = |presence: &Presence| with_id(&self.keys.by_project, presence.group);
        let (from, to) = (before.map(project), update.new.as_ref().map(project));
        let remove = async {
            remove(client, agent.clone(), gone(false)).await?;
            match &from {
                Some(key) => remove(client, key.clone(), gone(from != to)).await,
                None => Ok(()),
            }
        };
        let entries = || {
            let entries = new.iter();
            let entry = |(id, info): &(i64, Vec<u8>)| (id.to_string(), expiring(info));
            entries.map(entry).collect::<Vec<_>>()
        };
        let by_project = async {
            match &to {
                Some(key) => write(client, key.clone(), entries()).await,
                None => Ok(()),
            }
        };
        try_join3(remove, write(client, agent.clone(), entries()), by_project)
            .await
            .map(drop)
    }

    /// The connections that match, whichever replica wrote them: who merges them knows each by its id.
    pub(super) async fn find(
        &self,
        client: &Client,
        query: &PresenceQuery,
    ) -> Result<Vec<PresenceEntry>, Error> {
        let hashes: Vec<_> = match query {
            PresenceQuery::Agents(agents) => agents.iter().copied().map(Of::Agent).collect(),
            PresenceQuery::Groups(projects) => projects.iter().copied().map(Of::Project).collect(),
            PresenceQuery::All => {
                let agents = self.connected(client).await?;
                agents.into_iter().map(Of::Agent).collect()
            }
        };
        let reads = hashes.into_iter().map(|of| async move {
            let key = match of {
                Of::Agent(agent) => with_id(&self.keys.by_agent, agent.0),
                Of::Project(project) => with_id(&self.keys.by_project, project),
            };
            let (read, _) = fields::<Bytes>(client, key, MAX_CONNECTIONS).await?;
            Ok::<_, Error>((of, read))
        });
        let now = unix();
        let mut entries = Vec::new();
        for (of, read) in try_join_all(reads).await? {
            for (id, value) in read.into_iter().take(MAX_CONNECTIONS) {
                match self.entry(&id, &value, of, now) {
                    Ok(entry) => entries.extend(entry),
                    Err(Malformed) => self.signer.malformed("gitlab_kas_connection"),
                }
            }
        }
        Ok(entries)
    }

    /// What a field says of an agent and of a replica.
    #[cfg(feature = "fuzzing")]
    pub(super) fn read(&self, agent: AgentId, id: &[u8], value: &[u8]) -> Option<PresenceEntry> {
        let _ = self.owner(id);
        self.entry(id, value, Of::Agent(agent), 0).ok().flatten()
    }

    /// A connection that has not expired.
    fn entry(
        &self,
        id: &[u8],
        value: &[u8],
        of: Of,
        now: i64,
    ) -> Result<Option<PresenceEntry>, Malformed> {
        let info = match self.valid(id, value, now) {
            Valid::Value(info) => info,
            Valid::Expired => return Ok(None),
            Valid::Malformed => return Err(Malformed),
        };
        let decoded = self.kas.connections.decode(&info);
        let (agent, presence) = decoded.ok_or(Malformed)?;
        // A record of another agent or project than its key names.
        let belongs = match of {
            Of::Agent(owner) => agent == owner,
            Of::Project(project) => presence.group == project,
        };
        if !belongs {
            return Err(Malformed);
        }
        Ok(Some(PresenceEntry {
            replica: ReplicaId::new(FOREIGN_REPLICA),
            agent,
            presence,
        }))
    }

    async fn connected(&self, client: &Client) -> Result<Vec<AgentId>, Error> {
        let key = Bytes::from(self.keys.connected.clone());
        let (fields, _) = fields::<Bytes>(client, key, MAX_AGENTS).await?;
        let now = unix();
        let valid = fields
            .iter()
            .filter(|(id, value)| matches!(self.valid(id, value, now), Valid::Value(_)));
        let ids = valid.filter_map(|(id, _)| std::str::from_utf8(id).ok()?.parse().ok());
        Ok(ids.take(MAX_AGENTS).map(AgentId).collect())
    }

    fn connections(&self, agent: AgentId, presence: Option<&Presence>) -> Vec<(i64, Vec<u8>)> {
        presence.map_or_else(Vec::new, |it| self.kas.connections.encode(agent, it))
    }

    /// A replica that can be dialled: one URL, with TLS where that is asked for, and no socket of this machine.
    fn owner(&self, url: &[u8]) -> Option<Owner> {
        let url = std::str::from_utf8(url).ok()?;
        if url.len() > MAX_URL_BYTES || url.contains(',') {
            return None;
        }
        let dialled = match Target::parse(url).ok()?.scheme() {
            Scheme::Grpcs => true,
            Scheme::Grpc => !self.kas.only_tls,
            _ => false,
        };
        dialled.then(|| Owner {
            replica: ReplicaId::new(url),
            url: url.to_owned(),
        })
    }

    fn valid(&self, field: &[u8], value: &[u8], now: i64) -> Valid {
        if field.len() + value.len() > MAX_ENTRY_BYTES {
            return Valid::Malformed;
        }
        match ExpiringValue::decode(value) {
            Ok(it) if it.expires_at < now => Valid::Expired,
            Ok(it) => Valid::Value(it.value),
            Err(_) => Valid::Malformed,
        }
    }
}

/// What an update replaces, as far as that is known.
fn stored(update: &PresenceUpdate) -> Option<&Presence> {
    match &update.old {
        StoredPresence::Known(before) => before.as_ref(),
        StoredPresence::Unknown => None,
    }
}

/// Whose connections a hash has.
#[derive(Debug, Clone, Copy)]
enum Of {
    Agent(AgentId),
    Project(i64),
}

/// A value that was read.
enum Valid {
    Value(Bytes),
    Expired,
    Malformed,
}

/// A record that is not what its key says.
struct Malformed;

fn expiring(value: &[u8]) -> Bytes {
    let ttl = RECORD_TTL.as_secs().cast_signed();
    let value = ExpiringValue {
        expires_at: unix().saturating_add(ttl),
        value: Bytes::copy_from_slice(value),
    };
    value.encode_to_vec().into()
}

async fn write(client: &Client, key: Bytes, entries: Vec<(String, Bytes)>) -> Result<(), Error> {
    if entries.is_empty() {
        return Ok(());
    }
    let ttl = RECORD_TTL.as_secs().cast_signed();
    tokio::try_join!(
        client.hset::<(), _, _>(Key::from(key.clone()), entries),
        client.expire::<(), _>(Key::from(key), ttl, None),
    )
    .map(drop)
}

async fn remove(client: &Client, key: Bytes, ids: Vec<String>) -> Result<(), Error> {
    if ids.is_empty() {
        return Ok(());
    }
    client.hdel(Key::from(key), ids).await
}

/// Seconds since 1970.
fn unix() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs().cast_signed())
}

#[cfg(test)]
mod tests;

//! Tables of replicas over one store, and waiting for what they come to know.

use std::{sync::Arc, time::Duration};

use cluster_state::{
    AgentId, Liveness, Owner, PeerProbe, Presence, PresenceQuery, ReplicaId, RoutingTable,
    SharedTable, TableFuture, TableSettings,
    redis::{RedisOptions, RedisStore},
};

/// How long anything may take to come to hold.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) const A: AgentId = AgentId(7);

pub(crate) fn owner(name: &str) -> Owner {
    Owner {
        replica: ReplicaId::new(name),
        url: format!("grpc://{name}"),
    }
}

/// Nobody answers whose lease stands still.
#[derive(Debug)]
struct NoAnswer;

impl PeerProbe for NoAnswer {
    fn probe<'a>(&'a self, _: &'a Owner) -> TableFuture<'a, Liveness> {
        Box::pin(std::future::ready(Liveness::Unknown))
    }
}

/// A replica's table, at a quicker pace than production's.
pub(crate) fn replica(options: &RedisOptions, name: &str) -> Arc<SharedTable> {
    replica_with(RedisStore::connect(options).unwrap(), name)
}

pub(crate) fn replica_with(store: RedisStore, name: &str) -> Arc<SharedTable> {
    let settings = TableSettings {
        renew_interval: Duration::from_millis(200),
        lease_expiry: Duration::from_secs(2),
        debounce: Duration::from_millis(50),
        recovery_grace: Duration::from_secs(2),
        ..TableSettings::default()
    };
    let (store, probe) = (Arc::new(store), Arc::new(NoAnswer));
    SharedTable::start(store, probe, owner(name), "1", settings)
}

/// Two replicas that know each other.
pub(crate) async fn two(options: &RedisOptions) -> (Arc<SharedTable>, Arc<SharedTable>) {
    let (a, b) = (replica(options, "a"), replica(options, "b"));
    for table in [&a, &b] {
        until("two replicas", async || {
            table.stats().replicas == 2 && table.is_authoritative()
        })
        .await;
    }
    (a, b)
}

/// Waits until `reader` knows exactly these owners of the agent.
pub(crate) async fn knows(reader: &dyn RoutingTable, agent: AgentId, owners: &[Owner]) {
    let what = format!("{owners:?} to own {agent}");
    until(&what, async || {
        let mut known = reader.owners(agent).await;
        known.sort_by(|a, b| a.replica.cmp(&b.replica));
        known == owners
    })
    .await;
}

pub(crate) fn presence(group: i64, text: &str) -> Option<Presence> {
    Some(Presence {
        group,
        text: text.into(),
    })
}

/// Waits until `reader` finds exactly this presence.
pub(crate) async fn hears(reader: &dyn RoutingTable, query: &PresenceQuery, texts: &[&str]) {
    until(&format!("{texts:?} of {query:?}"), async || {
        let found = reader.find_presence(query).await.unwrap_or_default();
        let mut found: Vec<_> = found.iter().map(|it| &*it.presence.text).collect();
        found.sort_unstable();
        found == texts
    })
    .await;
}

pub(crate) async fn until(what: &str, probe: impl AsyncFn() -> bool) {
    let wait = async {
        while !probe().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let held = tokio::time::timeout(LIMIT, wait).await;
    assert!(held.is_ok(), "gave up waiting for {what}");
}

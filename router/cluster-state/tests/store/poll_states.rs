//! The poll state that replicas share, one-time claims, connection records and cluster pins.

use std::{sync::Arc, time::Duration};

use cluster_state::{
    AgentId, ClusterStore as _, ClusterUid, ConnectionEvent, ConnectionRecord, RECORDS_PER_AGENT,
    RecordSubject, RecordsPage, ReplicaId, RouteStore, SharedPollState, StoreEvent,
    redis::RedisStore,
};
use tokio::sync::mpsc;

use super::server::Server;

const LIMIT: Duration = Duration::from_secs(10);

/// A replica's poll state, and what keeps it alive.
struct Replica {
    polls: Arc<dyn SharedPollState>,
    store: RedisStore,
    _events: mpsc::Receiver<StoreEvent>,
}

/// A replica that hears of changes.
async fn replica(server: &Server, name: &str) -> Replica {
    let store = RedisStore::connect(&server.options()).unwrap();
    let mut events = store.events().unwrap();
    let tracks = tokio::time::timeout(LIMIT, events.recv()).await;
    assert_eq!(tracks.unwrap(), Some(StoreEvent::EventsMissed));
    Replica {
        polls: store.poll_state(ReplicaId::new(name)),
        store,
        _events: events,
    }
}

#[tokio::test]
async fn a_posted_result_wakes_the_replicas_that_have_read() {
    let server = Server::start(&[]);
    let (a, b) = (replica(&server, "a").await, replica(&server, "b").await);
    let (one, two) = (&a.polls, &b.polls);
    one.join(7).await.unwrap();
    let record = two.join(7).await.unwrap();
    let mut changes = two.changes();
    assert_eq!(record.replicas, ["a", "b"].map(ReplicaId::new));
    assert_eq!(record.head, None);

    one.post(7, "found", &[ReplicaId::new("c")]).await.unwrap();

    let woken = tokio::time::timeout(LIMIT, changes.recv()).await;
    assert_eq!(woken.unwrap(), Ok(7));
    let record = two.join(7).await.unwrap();
    assert_eq!(record.head.as_deref(), Some("found"));
    two.leave(7).await.unwrap();
    assert_eq!(one.join(7).await.unwrap().replicas, [ReplicaId::new("a")]);
}

#[tokio::test]
async fn each_version_is_claimed_by_one_replica() {
    let server = Server::start(&[]);
    let (a, b) = (replica(&server, "a").await, replica(&server, "b").await);
    let (one, two) = (&a.polls, &b.polls);
    let agent = AgentId(5);

    assert!(one.claim(agent, "1").await.unwrap());
    assert!(!two.claim(agent, "1").await.unwrap());
    assert!(two.claim(agent, "2").await.unwrap());
    two.disclaim(agent).await.unwrap();
    assert!(one.claim(agent, "2").await.unwrap());
}

#[tokio::test]
async fn a_redis_that_is_gone_is_an_error_soon() {
    let mut server = Server::start(&[]);
    let a = replica(&server, "a").await;
    a.polls.join(7).await.unwrap();

    server.kill();

    let failed = tokio::time::timeout(LIMIT, a.polls.join(7)).await.unwrap();
    assert!(failed.is_err());
}

#[tokio::test]
async fn a_claim_is_won_by_one_replica_until_it_expires() {
    let server = Server::start(&[]);
    let (a, b) = (replica(&server, "a").await, replica(&server, "b").await);
    let (a_claims, b_claims) = (a.store.one_time_claims(), b.store.one_time_claims());
    let ttl = Duration::from_millis(300);

    assert!(a_claims.claim("token", LIMIT).await.unwrap());
    assert!(!b_claims.claim("token", LIMIT).await.unwrap());

    assert!(b_claims.claim("other", ttl).await.unwrap());
    let forgotten = async {
        while !a_claims.claim("other", ttl).await.unwrap() {
            tokio::time::sleep(ttl / 10).await;
        }
    };
    tokio::time::timeout(LIMIT, forgotten).await.unwrap();
}

#[tokio::test]
async fn connection_records_are_a_ring_that_every_replica_reads_by_pages() {
    let server = Server::start(&[]);
    let (a, b) = (replica(&server, "a").await, replica(&server, "b").await);
    let (one, two) = (a.store.connection_records(), b.store.connection_records());
    let agent = RecordSubject::Agent(AgentId(5));
    let record = |at| ConnectionRecord {
        reason: "the token has expired".into(),
        token: Some("0123".into()),
        ..ConnectionRecord::new(ConnectionEvent::Refused, at, &ReplicaId::new("a"))
    };

    for at in 0..200 {
        one.append(agent, &[record(at)]).await.unwrap();
    }

    let first = RecordsPage {
        before: None,
        limit: 10,
    };
    let page = two.read(agent, first).await.unwrap();
    assert_eq!(page[0], record(199));
    assert_eq!(page.len(), 10);
    let all = RecordsPage {
        before: Some(page[9].at),
        limit: 1000,
    };
    let rest = two.read(agent, all).await.unwrap();
    assert_eq!(rest.len(), RECORDS_PER_AGENT - 10);
    assert_eq!(rest[0], record(189));
    let strangers = RecordSubject::Strangers;
    assert_eq!(two.read(strangers, all).await.unwrap(), []);
    // The ring is trimmed in the store too, and does not last for ever.
    let key = "gitlab-kas:kas:connections:{5}";
    let length: usize = server.cli(&["llen", key]).trim().parse().unwrap();
    assert!(length <= RECORDS_PER_AGENT + 16, "{length}");
    let ttl: i64 = server.cli(&["ttl", key]).trim().parse().unwrap();
    assert!(ttl > 0, "{ttl}");
}

#[tokio::test]
async fn the_first_cluster_is_pinned_for_all_replicas_until_somebody_changes_it() {
    let server = Server::start(&[]);
    let (a, b) = (replica(&server, "a").await, replica(&server, "b").await);
    let (one, two) = (a.store.cluster_pins(), b.store.cluster_pins());
    let uid = |text| ClusterUid::parse(text).unwrap();
    let (agent, x, y) = (AgentId(5), uid("x"), uid("y"));

    assert_eq!(one.pin_first(agent, &x).await.unwrap(), x);
    assert_eq!(two.pin_first(agent, &y).await.unwrap(), x);
    assert_eq!(two.all().await.unwrap(), [(agent, Some(x))].into());

    two.set(agent, Some(&y)).await.unwrap();
    assert_eq!(one.pin_first(agent, &uid("z")).await.unwrap(), y);
    one.set(agent, None).await.unwrap();
    // A pin that was removed is told apart from one that the store has lost.
    assert_eq!(two.all().await.unwrap(), [(agent, None)].into());
    assert_eq!(two.read(agent).await.unwrap(), None);
    assert_eq!(two.pin_first(agent, &uid("z")).await.unwrap(), uid("z"));
}

//! The board on which replicas tell each other about repositories.

use std::time::Duration;

use cluster_state::{
    AgentId, ReplicaId, RouteStore, StoreEvent,
    redis::{Board, RedisStore},
};
use tokio::sync::mpsc;

use super::server::Server;

const LIMIT: Duration = Duration::from_secs(10);

/// A replica's board, and what keeps it alive.
struct Replica {
    board: Board,
    store: RedisStore,
    _events: mpsc::Receiver<StoreEvent>,
}

/// A replica that hears of changes.
async fn replica(server: &Server, name: &str) -> Replica {
    let store = RedisStore::connect(&server.options()).unwrap();
    let mut events = store.events().unwrap();
    let tracks = tokio::time::timeout(LIMIT, events.recv()).await;
    assert_eq!(tracks.unwrap(), Some(StoreEvent::Missed));
    Replica {
        board: store.board(ReplicaId::new(name)),
        store,
        _events: events,
    }
}

#[tokio::test]
async fn what_one_replica_posts_wakes_those_who_have_read() {
    let server = Server::start(&[]);
    let (a, b) = (replica(&server, "a").await, replica(&server, "b").await);
    let (one, two) = (&a.board, &b.board);
    one.join(7).await.unwrap();
    let posted = two.join(7).await.unwrap();
    let mut changes = two.changes();
    assert_eq!(posted.replicas, ["a", "b"].map(ReplicaId::new));
    assert_eq!(posted.head, None);

    one.post(7, "found", &[ReplicaId::new("c")]).await.unwrap();

    let woken = tokio::time::timeout(LIMIT, changes.recv()).await;
    assert_eq!(woken.unwrap(), Ok(7));
    let posted = two.join(7).await.unwrap();
    assert_eq!(posted.head.as_deref(), Some("found"));
    two.leave(7).await.unwrap();
    assert_eq!(one.join(7).await.unwrap().replicas, [ReplicaId::new("a")]);
}

#[tokio::test]
async fn each_version_is_claimed_by_one_replica() {
    let server = Server::start(&[]);
    let (a, b) = (replica(&server, "a").await, replica(&server, "b").await);
    let (one, two) = (&a.board, &b.board);
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
    a.board.join(7).await.unwrap();

    server.kill();

    let failed = tokio::time::timeout(LIMIT, a.board.join(7)).await.unwrap();
    assert!(failed.is_err());
}

#[tokio::test]
async fn what_is_done_once_is_done_at_one_replica_until_it_is_forgotten() {
    let server = Server::start(&[]);
    let (a, b) = (replica(&server, "a").await, replica(&server, "b").await);
    let (a_once, b_once) = (a.store.once(), b.store.once());
    let ttl = Duration::from_millis(300);

    assert!(a_once.first("token", LIMIT).await.unwrap());
    assert!(!b_once.first("token", LIMIT).await.unwrap());

    assert!(b_once.first("other", ttl).await.unwrap());
    let forgotten = async {
        while !a_once.first("other", ttl).await.unwrap() {
            tokio::time::sleep(ttl / 10).await;
        }
    };
    tokio::time::timeout(LIMIT, forgotten).await.unwrap();
}

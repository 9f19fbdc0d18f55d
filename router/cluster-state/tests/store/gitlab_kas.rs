//! Records of GitLab's kas 16.5 in a real Redis, written here by hand as it writes them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use cluster_state::{
    AgentId, ConnectionForm, Owner, Presence, PresenceQuery, ReplicaId, RoutingTable as _,
    redis::{GitLabKas, RedisOptions, RedisStore},
};
use prometheus_client::registry::Registry;
use prost::Message as _;
use proto::agent::redistool::ExpiringValue;
use redis::Commands as _;

use crate::{
    server::Server,
    tables::{A, hears, knows, owner, presence, replica, replica_with, until},
};

const THEIRS: &str = "grpc://10.0.0.9:8155";

/// A connection is the text `id agent group text`.
#[derive(Debug)]
struct Words;

impl ConnectionForm for Words {
    fn encode(&self, agent: AgentId, presence: &Presence) -> Vec<(i64, Vec<u8>)> {
        let text = format!("1 {agent} {} {}", presence.group, presence.text);
        vec![(1, text.into_bytes())]
    }

    fn decode(&self, connection: &[u8]) -> Option<(AgentId, Presence)> {
        let text = String::from_utf8(connection.to_vec()).ok()?;
        let mut words = text.splitn(4, ' ').skip(1);
        let agent = AgentId(words.next()?.parse().ok()?);
        let group = words.next()?.parse().ok()?;
        let text = words.next()?.into();
        Some((agent, Presence { group, text }))
    }
}

fn mixed(server: &Server) -> RedisOptions {
    let mut options = server.options();
    options.gitlab_kas = Some(GitLabKas {
        connections: Arc::new(Words),
        only_tls: false,
    });
    options
}

fn theirs() -> Owner {
    Owner {
        replica: ReplicaId::new(THEIRS),
        url: THEIRS.to_owned(),
    }
}

fn client(server: &Server) -> redis::Connection {
    let url = format!("redis://127.0.0.1:{}", server.port);
    let client = redis::Client::open(url).unwrap();
    client.get_connection().unwrap()
}

/// `gitlab-kas:<what>:<eight bytes of the id>`.
fn key(what: &str, id: i64) -> Vec<u8> {
    [format!("gitlab-kas:{what}:").as_bytes(), &id.to_le_bytes()].concat()
}

fn owners_of(agent: AgentId) -> Vec<u8> {
    key("tunnel_tracker2:kas_by_agent_id", agent.0)
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs().cast_signed()
}

/// A value that expires in so many seconds.
fn value(expires_in: i64, value: &[u8]) -> Vec<u8> {
    let value = ExpiringValue {
        expires_at: now() + expires_in,
        value: value.to_vec().into(),
    };
    value.encode_to_vec()
}

#[tokio::test]
async fn a_replica_of_gitlabs_kas_is_an_owner_from_its_record_until_it_removes_it() {
    let server = Server::start(&[]);
    let (a, mut gitlab) = (replica(&mixed(&server), "a"), client(&server));
    until("the table to be authoritative", async || {
        a.is_authoritative()
    })
    .await;
    knows(&*a, A, &[]).await;
    let mut changes = a.changes(A);
    changes.mark_unchanged();

    let _: () = gitlab.hset(owners_of(A), THEIRS, value(300, b"")).unwrap();
    let woken = tokio::time::timeout(Duration::from_secs(60), changes.changed()).await;
    assert!(woken.is_ok(), "the record wakes those who wait");
    knows(&*a, A, &[theirs()]).await;
    assert_eq!(a.last_seen(A).await, Some(Duration::ZERO));
    assert!(a.is_authoritative_for(A));

    let _: () = gitlab.hdel(owners_of(A), THEIRS).unwrap();
    knows(&*a, A, &[]).await;
    assert!(
        !a.is_authoritative_for(A),
        "an agent whose tunnels are all in use is not listed: nothing proves that it is absent"
    );
}

#[tokio::test]
async fn what_ran_before_at_our_urls_is_not_asked_and_who_cannot_be_reached_is_asked_last() {
    let server = Server::start(&[]);
    let options = mixed(&server);
    let (a, b) = (replica(&options, "a"), replica(&options, "b"));
    for table in [&a, &b] {
        until("two replicas", async || table.stats().replicas == 2).await;
    }
    let other = Owner {
        replica: ReplicaId::new("grpc://10.0.0.8:8155"),
        url: "grpc://10.0.0.8:8155".to_owned(),
    };

    for url in ["grpc://a", "grpc://b", THEIRS, &other.url] {
        let _: () = client(&server)
            .hset(owners_of(A), url, value(300, b""))
            .unwrap();
    }

    knows(&*a, A, &[other.clone(), theirs()]).await;
    until("the other one to be the last", async || {
        a.mark_unreachable(&other.replica);
        a.owners(A).await == [theirs(), other.clone()]
    })
    .await;
    b.announce(A);
    until("ours to be the first", async || {
        a.owners(A).await.first() == Some(&owner("b"))
    })
    .await;
}

#[tokio::test]
async fn gitlabs_kas_reads_which_agents_are_here_and_not_any_more() {
    let server = Server::start(&[]);
    let options = mixed(&server);
    let (a, b) = (replica(&options, "a"), replica(&options, "b"));

    a.announce(A);
    knows(&*b, A, &[owner("a")]).await;
    until("the record", async || client_has(&server)).await;
    let record: Vec<u8> = client(&server).hget(owners_of(A), "grpc://a").unwrap();
    let value = ExpiringValue::decode(&record[..]).unwrap();
    assert!(
        (290..=300).contains(&(value.expires_at - now())),
        "{value:?}"
    );
    let expires_in: i64 = client(&server).ttl(owners_of(A)).unwrap();
    assert!((290..=300).contains(&expires_in), "{expires_in}");

    a.retract(A);
    until("the record to be gone", async || !client_has(&server)).await;
    a.announce(A);
    until("the record", async || client_has(&server)).await;
    a.leave().await;
    assert!(!client_has(&server), "who leaves takes its records along");
}

fn client_has(server: &Server) -> bool {
    client(server).hexists(owners_of(A), "grpc://a").unwrap()
}

#[tokio::test]
async fn hostile_records_are_ignored_and_counted_and_few_are_read() {
    let server = Server::start(&[]);
    let store = RedisStore::connect(&mixed(&server)).unwrap();
    let mut registry = Registry::default();
    store.metrics().register(&mut registry);
    let a = replica_with(store, "a");
    let mut hostile = client(&server);
    let long = format!("grpc://{}:1", "a".repeat(10_000));
    for (url, value) in [
        ("grpc://10.0.0.1:1", b"garbage".to_vec()),
        ("grpc://10.0.0.2:1", vec![0; 100_000]),
        ("grpc://10.0.0.3:1", value(-1, b"")),
        ("unix:///run/docker.sock", value(300, b"")),
        ("http://169.254.169.254/", value(300, b"")),
        ("grpc://10.0.0.4:1,grpc://10.0.0.5:1", value(300, b"")),
        (&long, value(300, b"")),
        // Of a replica of ours, whose own record is signed.
        ("grpc://10.0.0.6:1", value(300, b"kas2")),
        (THEIRS, value(300, b"")),
    ] {
        let _: () = hostile.hset(owners_of(A), url, value).unwrap();
    }

    knows(&*a, A, &[theirs()]).await;
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(
        text.contains("routing_store_rejected_entries_total{kind=\"gitlab_kas_owner\"} "),
        "{text}"
    );
    let crowd = AgentId(8);
    for host in 0..5000 {
        let url = format!("grpc://kas-{host}:1");
        let _: () = hostile
            .hset(owners_of(crowd), url, value(300, b""))
            .unwrap();
    }
    until("some of them", async || !a.owners(crowd).await.is_empty()).await;
    assert!(a.owners(crowd).await.len() <= 64);
    assert!(!a.is_authoritative_for(crowd));
}

#[tokio::test]
async fn connections_are_shared_with_gitlabs_kas() {
    let server = Server::start(&[]);
    let options = mixed(&server);
    let (a, b) = (replica(&options, "a"), replica(&options, "b"));
    for table in [&a, &b] {
        until("two replicas", async || table.stats().replicas == 2).await;
    }
    let mut gitlab = client(&server);
    let by_agent = key("agent_tracker2:conn_by_agent_id", A.0);
    let by_project = key("agent_tracker2:conn_by_project_id", 3);
    let of_agents = PresenceQuery::Agents(vec![A, AgentId(9)]);

    a.set_presence(A, presence(3, "ours"));
    let written =
        |key: &[u8], field: &str| -> Option<Vec<u8>> { client(&server).hget(key, field).unwrap() };
    until("both records", async || {
        written(&by_agent, "1").is_some() && written(&by_project, "1").is_some()
    })
    .await;
    for key in [&by_agent, &by_project] {
        let it = ExpiringValue::decode(&written(key, "1").unwrap()[..]).unwrap();
        assert_eq!(it.value, "1 7 3 ours");
    }
    let connected: bool = gitlab
        .hexists("gitlab-kas:agent_tracker2:connected_agents", "7")
        .unwrap();
    assert!(connected);

    // One of theirs; one whose record lies: it is of another agent than its key says; one that has expired.
    for (agent, id, content, expires_in) in [
        (9, "20", "20 9 3 theirs", 300),
        (9, "21", "21 7 3 forged", 300),
        (9, "22", "22 9 3 old", -1),
    ] {
        for key in [
            key("agent_tracker2:conn_by_agent_id", agent),
            by_project.clone(),
        ] {
            let value = value(expires_in, content.as_bytes());
            let _: () = gitlab.hset(key, id, value).unwrap();
        }
    }
    let lies = key("agent_tracker2:conn_by_agent_id", 9);
    let _: () = gitlab
        .hset(lies, "23", value(300, b"23 11 3 forged"))
        .unwrap();
    let entry = value(300, b"");
    let _: () = gitlab
        .hset("gitlab-kas:agent_tracker2:connected_agents", "9", entry)
        .unwrap();

    // Each is found in the records of both kinds, where whoever reads them knows it by its id.
    let found = ["ours", "ours", "theirs"];
    hears(&*b, &of_agents, &found).await;
    hears(&*b, &PresenceQuery::All, &found).await;
    // Which agents a project has, its record alone says.
    let of_project = ["forged", "ours", "ours", "theirs"];
    hears(&*b, &PresenceQuery::Groups(vec![3]), &of_project).await;
    hears(&*b, &PresenceQuery::Groups(vec![4]), &[]).await;

    a.set_presence(A, None);
    until("both to be removed", async || {
        written(&by_agent, "1").is_none() && written(&by_project, "1").is_none()
    })
    .await;
}

/// The process of an agent has one connection id, by which several replicas of ours write it.
#[tokio::test]
async fn a_connection_that_leaves_one_replica_stays_listed_while_another_has_it() {
    let server = Server::start(&[]);
    let options = mixed(&server);
    let (a, b) = (replica(&options, "a"), replica(&options, "b"));
    for table in [&a, &b] {
        until("two replicas", async || table.stats().replicas == 2).await;
    }
    let keys = [
        key("agent_tracker2:conn_by_agent_id", A.0),
        key("agent_tracker2:conn_by_project_id", 3),
    ];
    let listed = || {
        let listed = keys.iter().map(|key| client(&server).hexists(key, "1"));
        listed.collect::<Result<Vec<bool>, _>>().unwrap()
    };
    for table in [&a, &b] {
        table.set_presence(A, presence(3, "moves"));
    }
    // By each of them, and by the records of both.
    hears(&*a, &PresenceQuery::All, &["moves"; 3]).await;
    until("both records", async || listed() == [true, true]).await;
    for key in &keys {
        let _: () = client(&server).hdel(key, "1").unwrap();
    }

    a.set_presence(A, None);
    until("both records to be written again", async || {
        listed() == [true, true]
    })
    .await;
    hears(&*a, &PresenceQuery::All, &["moves"; 2]).await;

    b.set_presence(A, None);
    until("both to be removed", async || listed() == [false, false]).await;
}

#[tokio::test]
async fn without_the_option_nothing_of_it_is_written_or_asked_for() {
    let server = Server::start(&[]);
    let mut gitlab = client(&server);
    let _: () = gitlab.hset(owners_of(A), THEIRS, value(300, b"")).unwrap();
    let a = replica(&server.options(), "a");
    let b = replica(&server.options(), "b");

    b.set_presence(AgentId(8), presence(3, "here"));
    b.announce(AgentId(8));
    knows(&*a, AgentId(8), &[owner("b")]).await;
    hears(&*a, &PresenceQuery::All, &["here"]).await;
    knows(&*a, A, &[]).await;

    let keys = server.cli(&["keys", "*tracker2*"]);
    assert_eq!(keys.lines().count(), 1, "{keys}");
}

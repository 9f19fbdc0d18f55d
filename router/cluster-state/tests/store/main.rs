//! One suite for every routing table: in memory, and in Redis in all its forms; and what Redis alone can do wrong.

#![allow(clippy::unwrap_used, reason = "a test may fail by it")]

mod gitlab_kas;
mod poll_states;
mod server;
mod single;
mod tables;

use std::{sync::Arc, time::Duration};

use cluster_state::{
    AgentId, ChannelEvent, ClusterStore as _, PresenceQuery, RoutingTable,
    memory::MemoryStore,
    redis::{RedisStore, SentinelTls, Servers},
};
use redis::Commands as _;
use server::{Certificates, Cluster, SecureSentinel, Sentinels, Server, text};
use single::Single;
use tables::{A, hears, knows, owner, presence, replica, replica_with, two, until};

/// What every table must do, seen by two replicas of it.
async fn conforms(a: Arc<dyn RoutingTable>, b: Arc<dyn RoutingTable>) {
    let mut changes = b.changes(A);
    assert_eq!(b.owners(A).await, []);
    assert_eq!(b.last_seen(A).await, None);
    changes.mark_unchanged();

    a.announce(A);
    let woken = tokio::time::timeout(Duration::from_secs(60), changes.changed()).await;
    assert!(woken.is_ok(), "an announcement wakes those who wait");
    knows(&*b, A, &[owner("a")]).await;
    assert_eq!(b.last_seen(A).await, Some(Duration::ZERO));
    knows(&*a, A, &[]).await;

    b.announce(A);
    knows(&*a, A, &[owner("b")]).await;
    knows(&*b, A, &[owner("a")]).await;

    changes.mark_unchanged();
    a.retract(A);
    let woken = tokio::time::timeout(Duration::from_secs(60), changes.changed()).await;
    assert!(woken.is_ok(), "a retraction wakes those who wait");
    knows(&*b, A, &[]).await;
    knows(&*a, A, &[owner("b")]).await;

    presence_conforms(&*a, &*b).await;
    for id in 100..200 {
        b.announce(AgentId(id));
    }
    knows(&*a, AgentId(199), &[owner("b")]).await;
    b.leave().await;
    knows(&*a, AgentId(199), &[]).await;
    hears(&*a, &PresenceQuery::All, &[]).await;
    knows(&*a, A, &[]).await;
    until("the agent to be gone", async || {
        a.last_seen(A).await.is_some_and(|ago| !ago.is_zero())
    })
    .await;
}

/// All replicas find the presence of all; afterwards only b has any.
async fn presence_conforms(a: &dyn RoutingTable, b: &dyn RoutingTable) {
    let other = AgentId(70);
    let (both, one) = (
        PresenceQuery::Agents(vec![A, other]),
        PresenceQuery::Agents(vec![A]),
    );
    a.set_presence(A, presence(1, "a/one"));
    b.set_presence(A, presence(1, "b one"));
    b.set_presence(other, presence(2, "b other"));
    for table in [a, b] {
        hears(table, &both, &["a/one", "b one", "b other"]).await;
        hears(table, &one, &["a/one", "b one"]).await;
        hears(table, &PresenceQuery::Groups(vec![2]), &["b other"]).await;
        hears(table, &PresenceQuery::Groups(vec![3]), &[]).await;
    }

    a.set_presence(A, presence(3, "a two"));
    hears(b, &one, &["a two", "b one"]).await;
    hears(b, &PresenceQuery::Groups(vec![1]), &["b one"]).await;
    hears(b, &PresenceQuery::Groups(vec![1, 3]), &["a two", "b one"]).await;
    a.set_presence(A, None);
    hears(b, &PresenceQuery::All, &["b one", "b other"]).await;
}

#[tokio::test]
async fn memory_conforms() {
    let store = MemoryStore::default();
    let (a, b) = (store.table(owner("a")), store.table(owner("b")));
    conforms(Arc::new(a), Arc::new(b)).await;
}

#[tokio::test]
async fn a_single_redis_conforms() {
    let redis = Single::start("a_single_redis_conforms").await;
    let (a, b) = two(&redis.options()).await;
    conforms(a, b).await;
}

#[tokio::test]
async fn a_redis_behind_sentinels_conforms_and_fails_over() {
    let mut redis = Sentinels::start();
    let (a, b) = two(&redis.options()).await;
    a.announce(A);
    knows(&*b, A, &[owner("a")]).await;

    redis.servers[0].kill();

    // What the old master had not passed on is written again.
    a.announce(AgentId(8));
    let replica = &redis.servers[1];
    until("the other server to be the master", async || {
        replica
            .cli(&["info", "replication"])
            .contains("role:master")
    })
    .await;
    until("the new master to have both agents", async || {
        [7, 8].iter().all(|id| {
            let key = format!("gitlab-kas:kas:agent:{{{id}}}");
            replica.cli(&["hexists", &key, "a"]).trim() == "1"
        })
    })
    .await;
    for table in [&a, &b] {
        until("the table to be authoritative", async || {
            table.is_authoritative()
        })
        .await;
    }
    a.retract(A);
    a.retract(AgentId(8));
    knows(&*b, A, &[]).await;
    knows(&*b, AgentId(8), &[]).await;
}

#[tokio::test]
async fn a_cluster_conforms_and_survives_a_failover_and_a_moved_slot() {
    let mut cluster = Cluster::start();
    let options = cluster.options();
    let (a, b) = two(&options).await;
    let agents: Vec<_> = (1..=30).map(AgentId).collect();
    for agent in &agents {
        a.announce(*agent);
    }
    for agent in &agents {
        knows(&*b, *agent, &[owner("a")]).await;
    }

    cluster.nodes[0].kill();
    for agent in &agents[..15] {
        a.retract(*agent);
    }
    for agent in &agents[..15] {
        knows(&*b, *agent, &[]).await;
    }
    for agent in &agents[15..] {
        knows(&*b, *agent, &[owner("a")]).await;
    }

    let id = |node: &Server| node.cli(&["cluster", "myid"]).trim().to_owned();
    let (from, to) = (id(&cluster.nodes[1]), id(&cluster.nodes[2]));
    let entry = format!("127.0.0.1:{}", cluster.nodes[1].port);
    let moved = std::process::Command::new("redis-cli")
        .args(["--cluster", "reshard", &entry, "--cluster-from", &from])
        .args([
            "--cluster-to",
            &to,
            "--cluster-slots",
            "5000",
            "--cluster-yes",
        ])
        .output()
        .unwrap();
    assert!(
        moved.status.success(),
        "{}",
        String::from_utf8_lossy(&moved.stdout)
    );
    for agent in &agents[15..] {
        a.retract(*agent);
    }
    for agent in &agents {
        knows(&*b, *agent, &[]).await;
    }
    conforms_afterwards(a, b).await;
}

/// The rest of the suite where the agents are known already.
async fn conforms_afterwards(a: Arc<dyn RoutingTable>, b: Arc<dyn RoutingTable>) {
    let agent = AgentId(1000);
    a.announce(agent);
    knows(&*b, agent, &[owner("a")]).await;
    a.leave().await;
    knows(&*b, agent, &[]).await;
}

#[tokio::test]
async fn a_prefix_and_a_database_keep_others_out_and_another_client_reads_them() {
    let server = Server::start(&[]);
    let mut options = server.options();
    options.key_prefix = "mine".into();
    options.database = 3;
    let (a, b) = two(&options).await;
    a.announce(A);
    knows(&*b, A, &[owner("a")]).await;

    let url = format!("redis://127.0.0.1:{}/3", server.port);
    let mut other = redis::Client::open(url).unwrap().get_connection().unwrap();
    let url: String = other.hget("mine:kas:agent:{7}", "a").unwrap();
    let expires_in: i64 = other.ttl("mine:kas:agent:{7}").unwrap();
    let lease: String = other.hget("mine:kas:replicas", "b").unwrap();

    assert_eq!(url, "grpc://a");
    assert!(expires_in > 24 * 3600, "{expires_in}");
    assert!(lease.contains(r#""url":"grpc://b""#), "{lease}");
    assert!(
        server.cli(&["keys", "*"]).trim().is_empty(),
        "database 0 is empty"
    );
}

#[tokio::test]
async fn an_acl_user_with_a_password_is_let_in_by_a_unix_socket_too() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("redis.sock");
    let user = ["--user", "joe", "on", ">secret", "~gitlab-kas:*", "+@all"];
    let server = Server::start(&[&["--unixsocket", text(&socket)], &user[..]].concat());
    let mut options = server.options();
    options.username = Some("joe".into());
    options.password = Some("secret".into());
    let a = replica(&options, "a");
    options.servers = Servers::Unix(socket);
    let b = replica(&options, "b");

    a.announce(A);

    knows(&*b, A, &[owner("a")]).await;
    assert!(!format!("{options:?}").contains("secret"));
}

#[tokio::test]
async fn tls_with_a_client_certificate_is_spoken() {
    let certificates = Certificates::create();
    let (certificate, key) = (certificates.certificate(), certificates.key());
    let port = server::free_port();
    let port_text = port.to_string();
    let _server = Server::on(
        0,
        &[
            "--tls-port",
            &port_text,
            "--tls-cert-file",
            text(&certificate),
            "--tls-key-file",
            text(&key),
            "--tls-ca-cert-file",
            text(&certificate),
        ],
    );
    let mut options = cluster_state::redis::RedisOptions::new(Servers::Single(
        format!("127.0.0.1:{port}").parse().unwrap(),
    ));
    options.tls = Some(certificates.client());
    let (a, b) = two(&options).await;

    a.announce(A);

    knows(&*b, A, &[owner("a")]).await;
}

#[tokio::test]
async fn a_sentinel_with_tls_leads_to_a_redis_without_and_to_the_next_one() {
    let certificates = Certificates::create();
    let password = ["--requirepass", "within", "--masterauth", "within"];
    let options = [&["--repl-diskless-sync-delay", "0"], &password[..]].concat();
    let master = Server::start(&options);
    let (port, of_master) = (master.port, master.port.to_string());
    let follow = ["--replicaof", "127.0.0.1", &of_master];
    let replica = Server::start(&[&options[..], &follow].concat());
    let info = |server: &Server| server.cli(&["--pass", "within", "info", "replication"]);
    until("a replica that follows", async || {
        info(&replica).contains("master_link_status:up")
    })
    .await;
    let tls_port = server::free_port();
    let more = format!(
        "sentinel auth-pass mm within\ntls-port {tls_port}\n{}",
        certificates.lines()
    );
    let mut site = SecureSentinel::start(vec![master, replica], port, tls_port, &more);
    let mut options = site.options();
    options.password = Some("within".into());
    options.sentinel_tls = SentinelTls::Own(Some(certificates.client()));
    let (a, b) = two(&options).await;
    a.announce(A);
    knows(&*b, A, &[owner("a")]).await;

    // A sentinel hears of the replica from its master, every ten seconds.
    until("the sentinel to know the replica", async || {
        site.knows_a_replica(&certificates)
    })
    .await;
    site.servers[0].kill();

    a.announce(AgentId(8));
    let replica = &site.servers[1];
    until("the new master to have both agents", async || {
        info(replica).contains("role:master")
            && [7, 8].iter().all(|id| {
                let key = format!("gitlab-kas:kas:agent:{{{id}}}");
                let there = replica.cli(&["--pass", "within", "hexists", &key, "a"]);
                there.trim() == "1"
            })
    })
    .await;
}

#[tokio::test]
async fn a_sentinel_in_clear_leads_to_a_redis_with_tls() {
    let certificates = Certificates::create();
    let (certificate, key) = (certificates.certificate(), certificates.key());
    let (port, sentinel_port) = (server::free_port(), server::free_port());
    let (port_text, certificate, key) = (port.to_string(), text(&certificate), text(&key));
    let files = ["--tls-cert-file", certificate, "--tls-key-file", key];
    let listens = ["--tls-port", &port_text, "--tls-ca-cert-file", certificate];
    let master = Server::on(0, &[&listens[..], &files].concat());
    let more = format!("tls-replication yes\n{}", certificates.lines());
    let site = SecureSentinel::start(vec![master], port, sentinel_port, &more);
    let mut options = site.options();
    options.tls = Some(certificates.client());
    options.sentinel_tls = SentinelTls::Own(None);
    let (a, b) = two(&options).await;

    a.announce(A);

    knows(&*b, A, &[owner("a")]).await;
}

#[tokio::test]
async fn an_emptied_redis_gets_everything_again() {
    let server = Server::start(&[]);
    let (a, b) = two(&server.options()).await;
    for id in 1..=500 {
        a.announce(AgentId(id));
    }
    a.set_presence(A, presence(1, "here"));
    knows(&*b, AgentId(500), &[owner("a")]).await;
    hears(&*b, &PresenceQuery::All, &["here"]).await;

    server.cli(&["flushall"]);

    until("all agents to be there again", async || {
        server.cli(&["dbsize"]).trim() == "502"
    })
    .await;
    hears(&*b, &PresenceQuery::All, &["here"]).await;
    knows(&*b, AgentId(500), &[owner("a")]).await;
    knows(&*b, AgentId(501), &[]).await;
}

#[tokio::test]
async fn a_redis_that_is_killed_and_comes_back_empty_loses_nothing_that_is_held() {
    let mut server = Server::start(&[]);
    let (a, b) = two(&server.options()).await;
    for id in 1..=3 {
        a.announce(AgentId(id));
    }
    knows(&*b, AgentId(1), &[owner("a")]).await;
    knows(&*b, AgentId(2), &[owner("a")]).await;

    server.kill();
    until("the table not to be authoritative", async || {
        !b.is_authoritative()
    })
    .await;
    knows(&*b, AgentId(1), &[owner("a")]).await;
    // Whom b never asked for may be at any replica.
    knows(&*b, AgentId(3), &[owner("a")]).await;
    a.retract(AgentId(2));
    a.announce(AgentId(4));
    let _again = Server::on(server.port, &[]);

    until("the table to be authoritative", async || {
        b.is_authoritative()
    })
    .await;
    knows(&*b, AgentId(1), &[owner("a")]).await;
    knows(&*b, AgentId(2), &[]).await;
    knows(&*b, AgentId(3), &[owner("a")]).await;
    knows(&*b, AgentId(4), &[owner("a")]).await;
}

#[tokio::test]
async fn a_frozen_redis_is_done_without_and_caught_up_with() {
    let redis = Single::start("a_frozen_redis_is_done_without_and_caught_up_with").await;
    let (a, b) = two(&redis.options()).await;
    a.announce(A);
    knows(&*b, A, &[owner("a")]).await;

    redis.freeze().await;
    a.announce(AgentId(8));
    a.retract(A);
    until("the table not to be authoritative", async || {
        !b.is_authoritative()
    })
    .await;
    knows(&*b, AgentId(8), &[owner("a")]).await;
    redis.thaw().await;

    until("the table to be authoritative", async || {
        b.is_authoritative()
    })
    .await;
    knows(&*b, AgentId(8), &[owner("a")]).await;
    knows(&*b, A, &[]).await;
}

#[tokio::test]
async fn a_change_that_happens_while_the_reader_is_cut_off_is_noticed() {
    let server = Server::start(&[]);
    let (a, b) = two(&server.options()).await;
    a.announce(A);
    knows(&*b, A, &[owner("a")]).await;

    for _ in 0..5 {
        server.cli(&["client", "kill", "type", "normal", "skipme", "yes"]);
        a.retract(A);
        knows(&*b, A, &[]).await;
        server.cli(&["client", "kill", "type", "normal", "skipme", "yes"]);
        a.announce(A);
        knows(&*b, A, &[owner("a")]).await;
    }
}

#[tokio::test]
async fn a_replica_may_start_before_its_redis() {
    let port = server::free_port();
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    let options = cluster_state::redis::RedisOptions::new(Servers::Single(address));
    let (a, b) = (replica(&options, "a"), replica(&options, "b"));
    a.announce(A);
    assert!(!a.is_authoritative());

    let _server = Server::on(port, &[]);

    knows(&*b, A, &[owner("a")]).await;
}

#[tokio::test]
async fn the_presence_of_a_replica_that_dies_is_removed() {
    let server = Server::start(&[]);
    let (a, b) = two(&server.options()).await;
    a.set_presence(A, presence(1, "here"));
    hears(&*b, &PresenceQuery::All, &["here"]).await;
    assert_eq!(
        server
            .cli(&["exists", "gitlab-kas:kas:presence:{a}"])
            .trim(),
        "1"
    );

    drop(a);

    hears(&*b, &PresenceQuery::All, &[]).await;
    until("the key to be gone", async || {
        server
            .cli(&["exists", "gitlab-kas:kas:presence:{a}"])
            .trim()
            == "0"
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_connects_costs_two_commands_and_a_few_for_all() {
    const AGENTS: i64 = 1000;
    let server = Server::start(&[]);
    let (a, _b) = two(&server.options()).await;
    server.cli(&["config", "resetstat"]);

    for id in 1..=AGENTS {
        a.set_presence(AgentId(id), presence(id, "here"));
        a.announce(AgentId(id));
    }

    let last = format!("a/{AGENTS}/{AGENTS}/here");
    until("the last agent", async || {
        let score = server.cli(&["zscore", "gitlab-kas:kas:presence:{a}", &last]);
        score.trim() == "0"
    })
    .await;
    let all = (AGENTS + 2).to_string();
    until("all agents", async || server.cli(&["dbsize"]).trim() == all).await;
    // A key is there before its EXPIRE is.
    until("an EXPIRE for each agent", async || {
        calls(&command_stats(&server), "expire") >= AGENTS
    })
    .await;
    let stats = command_stats(&server);
    let calls = |command: &str| calls(&stats, command);
    assert_eq!(
        calls("expire"),
        AGENTS,
        "as often as HSET, for agents: {stats}"
    );
    assert!(calls("zadd") < AGENTS / 10, "{stats}");
    assert_eq!(calls("zrem") + calls("zremrangebylex"), 0, "{stats}");
}

fn command_stats(server: &Server) -> String {
    server.cli(&["info", "commandstats"])
}

/// How often Redis was given a command, by its own statistics.
fn calls(stats: &str, command: &str) -> i64 {
    let line = stats
        .lines()
        .find_map(|it| it.strip_prefix(&format!("cmdstat_{command}:calls=")));
    let calls = line.and_then(|it| it.split(',').next());
    calls.map_or(0, |it| it.parse().unwrap())
}

#[tokio::test]
async fn a_message_reaches_all_who_listen_also_after_they_were_cut_off() {
    let server = Server::start(&[]);
    let connect = || RedisStore::connect(&server.options()).unwrap();
    let (speaker, listener) = (connect(), connect());
    let (speaker, heard) = (speaker.channel("events"), listener.channel("events"));
    let (sender, mut receiver) = tokio::sync::mpsc::channel(100);
    let listening = tokio::spawn(async move {
        heard.listen(&mut |it| sender.try_send(it).unwrap()).await;
    });
    let next = async |receiver: &mut tokio::sync::mpsc::Receiver<ChannelEvent>| {
        let next = tokio::time::timeout(Duration::from_secs(30), receiver.recv());
        next.await.unwrap().unwrap()
    };
    assert_eq!(next(&mut receiver).await, ChannelEvent::Gap);
    speaker.publish("one".into()).await.unwrap();
    // The first connection counts as one that was made again.
    while next(&mut receiver).await != ChannelEvent::Message("one".into()) {}

    server.cli(&["client", "kill", "type", "pubsub"]);
    assert_eq!(next(&mut receiver).await, ChannelEvent::Gap);
    until("the speaker to be back", async || {
        speaker.publish("two".into()).await.is_ok()
    })
    .await;
    assert_eq!(
        next(&mut receiver).await,
        ChannelEvent::Message("two".into())
    );

    listening.abort();
}

/// What went wrong before the first connection is no loss of it.
#[tokio::test]
async fn a_store_that_came_late_counts_as_connected() {
    let port = server::free_port();
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    let options = cluster_state::redis::RedisOptions::new(Servers::Single(address));
    let store = cluster_state::redis::RedisStore::connect(&options).unwrap();
    let mut numbers = prometheus_client::registry::Registry::default();
    store.metrics().register(&mut numbers);
    server::turn_away(port, 3).await;

    let _server = Server::on(port, &[]);
    until("the first connection", async || is_connected(&numbers)).await;
    let _table = replica_with(store, "a");
    let other = replica(&options, "b");
    until("two replicas", async || other.stats().replicas == 2).await;

    assert!(is_connected(&numbers));
}

fn is_connected(numbers: &prometheus_client::registry::Registry) -> bool {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, numbers).unwrap();
    text.contains("routing_store_connected 1")
}

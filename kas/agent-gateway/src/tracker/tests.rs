//! Which processes are connected, and for how long.

use std::time::Duration;

use cluster_state::{ConnectionEvent, Owner, RecordSubject, RecordsPage, memory::MemoryStore};

use super::{away::KNOWN_TTL, *};

const AGENT: AgentId = AgentId(7);

fn tracker(store: &MemoryStore, name: &str) -> Arc<Tracker> {
    let me = Owner {
        replica: ReplicaId::new(name),
        url: String::new(),
    };
    Tracker::new(Arc::new(store.table(me)))
}

fn agent() -> AgentInfo {
    AgentInfo {
        id: AGENT,
        name: "a".into(),
        project_id: 3,
        project_path: "g/p".into(),
        default_branch: "main".into(),
    }
}

fn meta(pod: &str, git_version: Option<&str>) -> AgentMeta {
    AgentMeta {
        version: "v1".into(),
        pod_namespace: "ns".into(),
        pod_name: pod.into(),
        kubernetes_version: git_version.map(|it| proto::agent::entity::KubernetesVersion {
            git_version: it.into(),
            ..Default::default()
        }),
        ..AgentMeta::default()
    }
}

async fn ids(tracker: &Tracker) -> Vec<i64> {
    let all = tracker.connected(&PresenceQuery::All).await.unwrap();
    all.iter().map(|it| it.connection_id).collect()
}

#[tokio::test]
async fn a_process_is_there_once_whatever_it_calls_and_as_long_as_one_call_lasts() {
    let tracker = tracker(&MemoryStore::default(), "a");

    let stream = tracker.streaming(&agent(), &meta("p", None), true).unwrap();
    let first = ids(&tracker).await;
    let registered = tracker.register(&agent(), 42, &meta("p", Some("v1.33")));
    let registered = registered.unwrap();
    let all = tracker.connected(&PresenceQuery::All).await.unwrap();
    drop(stream);

    assert_eq!(first.len(), 1);
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!((all[0].connection_id, all[0].project_id), (42, 3));
    let kubernetes = all[0].agent_meta.clone().unwrap().kubernetes_version;
    assert_eq!(kubernetes.unwrap().git_version, "v1.33");
    assert_eq!(ids(&tracker).await, [42]);
    drop(registered);
    assert!(ids(&tracker).await.is_empty());
}

#[tokio::test]
async fn processes_on_several_replicas_are_listed_on_each_and_each_once() {
    let store = MemoryStore::default();
    let (a, b) = (tracker(&store, "a"), tracker(&store, "b"));

    let _both = a.streaming(&agent(), &meta("p", None), true);
    let _both = (_both, b.register(&agent(), 42, &meta("p", None)));
    let _other = b.register(&agent(), 43, &meta("q", None));

    assert_eq!(ids(&a).await, [42, 43]);
    assert_eq!(ids(&b).await, [42, 43]);
    let by = |wanted| async move { ids_of(&a, wanted).await };
    let (group, other) = (
        PresenceQuery::Groups(vec![3]),
        PresenceQuery::Agents(vec![AgentId(8)]),
    );
    assert_eq!(by(group).await, 2);
    assert_eq!(ids_of(&b, other).await, 0);
}

async fn ids_of(tracker: &Tracker, wanted: PresenceQuery) -> usize {
    tracker.connected(&wanted).await.unwrap().len()
}

#[tokio::test]
async fn who_says_too_little_is_there_only_if_nothing_more_will_come() {
    let tracker = tracker(&MemoryStore::default(), "a");

    let modern = tracker.streaming(&agent(), &AgentMeta::default(), true);
    let old = tracker.streaming(&agent(), &AgentMeta::default(), false);

    assert!(modern.is_none());
    assert_eq!(ids(&tracker).await.len(), 1);
    drop(old);
    assert!(ids(&tracker).await.is_empty());
}

#[tokio::test]
async fn one_that_leaves_is_gone_at_once_and_the_next_in_its_pod_is_not() {
    let tracker = tracker(&MemoryStore::default(), "a");
    let _first = tracker.register(&agent(), 1, &meta("p", None));
    let _again = tracker.register(&agent(), 2, &meta("p", None));

    tracker.unregister(AGENT, 1);

    assert_eq!(ids(&tracker).await, [2]);
}

#[tokio::test(start_paused = true)]
async fn who_registers_no_more_is_gone_though_the_connection_lasts() {
    let tracker = tracker(&MemoryStore::default(), "a");
    let connection = Registrations::default();
    let register = |pod| {
        let here = tracker.register(&agent(), pod, &meta(&format!("p{pod}"), None));
        let here = here.unwrap();
        connection.add(AGENT, pod, here);
    };
    register(1);
    register(2);

    for _ in 0..3 {
        tokio::time::advance(std::time::Duration::from_secs(300)).await;
        register(2);
    }

    assert_eq!(ids(&tracker).await, [2]);
    connection.remove(AGENT, 2);
    assert!(ids(&tracker).await.is_empty());
}

#[tokio::test]
async fn what_a_process_says_is_bounded() {
    let tracker = tracker(&MemoryStore::default(), "a");

    let _here = tracker.register(&agent(), 1, &meta(&"ü".repeat(10_000), None));

    let all = tracker.connected(&PresenceQuery::All).await.unwrap();
    let name = all[0].agent_meta.clone().unwrap().pod_name;
    assert_eq!(name.len(), 252, "whole characters");
}

#[tokio::test(start_paused = true)]
async fn an_agent_has_a_hundred_processes_and_one_more_is_refused() {
    let tracker = tracker(&MemoryStore::default(), "a");
    let register = |pod: i64| tracker.register(&agent(), pod, &meta(&format!("p{pod}"), None));
    let mut here: Vec<_> = (0..100).map(|pod| register(pod).unwrap()).collect();

    assert_eq!(register(100).unwrap_err(), RegisterError::TooMany);
    assert!(
        tracker
            .streaming(&agent(), &meta("q", None), true)
            .is_none()
    );
    assert_eq!(ids(&tracker).await.len(), 100);

    here.pop();
    assert!(register(100).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_process_registers_once_a_second_and_others_do_not_wait_for_it() {
    let tracker = tracker(&MemoryStore::default(), "a");
    let register = |pod| tracker.register(&agent(), pod, &meta("", None));

    let often = (0..50).filter(|_| register(1).is_ok()).count();

    assert_eq!(often, 5);
    assert!(register(2).is_ok());
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    assert!(register(1).is_ok());
    assert_eq!(register(1).unwrap_err(), RegisterError::TooOften);
}

#[tokio::test]
async fn a_registration_without_the_clusters_version_does_not_take_it_back() {
    let tracker = tracker(&MemoryStore::default(), "a");

    let _first = tracker.register(&agent(), 42, &meta("p", Some("v1.33")));
    let _late = tracker.register(&agent(), 42, &meta("p", None));
    let all = tracker.connected(&PresenceQuery::All).await.unwrap();

    let kubernetes = all[0].agent_meta.clone().unwrap().kubernetes_version;
    assert_eq!(kubernetes.unwrap().git_version, "v1.33");
}

/// GitLab's agentk names no version in its streams, in an empty message.
#[tokio::test]
async fn an_empty_version_in_a_stream_is_none() {
    let tracker = tracker(&MemoryStore::default(), "a");

    let _registered = tracker.register(&agent(), 42, &meta("p", Some("v1.33")));
    let _stream = tracker.streaming(&agent(), &meta("p", Some("")), true);

    let all = tracker.connected(&PresenceQuery::All).await.unwrap();
    let kubernetes = all[0].agent_meta.clone().unwrap().kubernetes_version;
    assert_eq!(kubernetes.unwrap().git_version, "v1.33");
}

fn origin() -> Arc<Origin> {
    Origin::new(
        "192.0.2.7:4711".parse().unwrap(),
        runtime::listen::Scheme::Wss,
    )
}

/// What is listed: the number, the version of Kubernetes, since when.
async fn listed(tracker: &Tracker) -> Vec<(i64, String, Option<prost_types::Timestamp>)> {
    let all = tracker.connected(&PresenceQuery::All).await.unwrap();
    let listed = all.into_iter().map(|it| {
        let meta = it.agent_meta.unwrap_or_default();
        let version = meta.kubernetes_version.unwrap_or_default().git_version;
        (it.connection_id, version, it.connected_at)
    });
    listed.collect()
}

/// What was recorded, the oldest first: what, and why.
async fn recorded(tracker: &Tracker) -> Vec<(ConnectionEvent, String)> {
    let subject = RecordSubject::Agent(AGENT);
    let read = tracker.log().read(subject, RecordsPage::default()).await;
    let mut read = read.unwrap();
    read.reverse();
    read.into_iter().map(|it| (it.event, it.reason)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_renewed_keeps_all_that_an_earlier_connection_told() {
    let tracker = tracker(&MemoryStore::default(), "a");
    let stream = || {
        let stream = tracker.streaming_from(&agent(), &meta("p", None), true, &origin());
        stream.unwrap()
    };
    let mut renewed = stream();
    // A load balancer carries each call on a connection of its own, which ends with the call.
    drop(tracker.register(&agent(), 42, &meta("p", Some("v1.33"))));
    let before = listed(&tracker).await;
    assert_eq!(before.len(), 1);
    assert_eq!(before[0].1, "v1.33");

    for _ in 0..20 {
        renewed.ends(End::RENEWED);
        drop(renewed);
        assert_eq!(listed(&tracker).await, before, "no gap between two streams");
        renewed = stream();
        assert_eq!(listed(&tracker).await, before);
        tokio::time::advance(Duration::from_secs(45)).await;
        for (agent, id) in tracker.agenda.due(Instant::now()) {
            tracker.look(agent, id, Instant::now());
        }
    }

    let connected = (ConnectionEvent::Connected, String::new());
    assert_eq!(recorded(&tracker).await, [connected], "once");
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_a_load_balancer_brought_is_no_connection_that_was_lost() {
    let tracker = tracker(&MemoryStore::default(), "a");

    // At this replica there is never more of the process: its streams go elsewhere.
    for _ in 0..4 {
        let from = origin();
        let registered = tracker.register_from(&agent(), 42, &meta("p", Some("v1.33")), &from);
        from.ends(End::ONE_CALL);
        drop(registered.unwrap());
        for _ in 0..10 {
            tokio::time::advance(Duration::from_secs(30)).await;
            for (agent, id) in tracker.agenda.due(Instant::now()) {
                tracker.look(agent, id, Instant::now());
            }
        }
    }
    tokio::time::advance(KNOWN_TTL).await;
    for (agent, id) in tracker.agenda.due(Instant::now()) {
        tracker.look(agent, id, Instant::now());
    }

    let connected = (ConnectionEvent::Connected, String::new());
    assert_eq!(recorded(&tracker).await, [connected], "once");
}

#[tokio::test]
async fn what_one_replica_was_told_is_known_wherever_the_stream_is_renewed() {
    let store = MemoryStore::default();
    let (a, b) = (tracker(&store, "a"), tracker(&store, "b"));
    let mut first = a.streaming(&agent(), &meta("p", None), true).unwrap();
    drop(b.register(&agent(), 42, &meta("p", Some("v1.33"))));
    let before = listed(&a).await;
    assert_eq!(before[0].1, "v1.33");

    first.ends(End::RENEWED);
    drop(first);
    let second = b.streaming(&agent(), &meta("p", None), true).unwrap();

    for tracker in [&a, &b] {
        let now = listed(tracker).await;
        assert_eq!(now.len(), 1, "{now:?}");
        assert_eq!((&now[0].1, &now[0].2), (&before[0].1, &before[0].2));
    }
    drop(second);
    assert_eq!(
        listed(&a).await.len(),
        1,
        "until a moment after the first left"
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_is_lost_is_gone_at_once_and_is_known_again_when_it_is_back() {
    let tracker = tracker(&MemoryStore::default(), "a");
    let register = |version| {
        let meta = meta("p", version);
        tracker.register_from(&agent(), 42, &meta, &origin())
    };
    let first = register(Some("v1.33")).unwrap();

    drop(first);
    assert_eq!(listed(&tracker).await, []);
    tokio::time::advance(RECONNECT_GRACE).await;
    for (agent, id) in tracker.agenda.due(Instant::now()) {
        tracker.look(agent, id, Instant::now());
    }
    let _back = register(None).unwrap();

    assert_eq!(listed(&tracker).await[0].1, "v1.33");
    let subject = RecordSubject::Agent(AGENT);
    let records = tracker.log().read(subject, RecordsPage::default()).await;
    let records = records.unwrap();
    let of = |event| records.iter().filter(move |it| it.event == event);
    assert_eq!(of(ConnectionEvent::Connected).count(), 2);
    let lost: Vec<_> = of(ConnectionEvent::Disconnected).collect();
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].reason, End::LOST.reason);
    assert_eq!((&*lost[0].instance, &*lost[0].scheme), ("ns/p", "wss"));
    assert_eq!(lost[0].remote_addr, "192.0.2.7:4711");
    assert!(lost[0].duration_ms.is_some());
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_one_that_stays_away_is_forgotten() {
    let store = MemoryStore::default();
    let tracker = tracker(&store, "a");
    for pod in 0..100 {
        let meta = meta(&format!("p{pod}"), Some("v1.33"));
        let mut one = tracker.register(&agent(), pod, &meta).unwrap();
        one.ends(if pod % 2 == 0 {
            End::LOST
        } else {
            End::RENEWED
        });
    }

    for _ in 0..3 {
        tokio::time::advance(KNOWN_TTL / 2).await;
        for (agent, id) in tracker.agenda.due(Instant::now()) {
            tracker.look(agent, id, Instant::now());
        }
    }

    assert!(tracker.lock(AGENT).is_empty());
    assert!(tracker.agenda.all().is_empty());
}

/// The instance and the version of a refusal's record.
fn refused(tracker: &Tracker, origin: &Arc<Origin>, registered: &Registrations) -> [String; 2] {
    let record = tracker.refusal_at(AGENT, origin, registered);
    assert_eq!(record.remote_addr, "192.0.2.7:4711");
    [record.instance, record.version]
}

#[tokio::test]
async fn a_refused_tunnel_is_recorded_with_its_process_where_only_one_is_on_its_connection() {
    let tracker = tracker(&MemoryStore::default(), "a");
    let (connection, second, nobody) = (origin(), origin(), Registrations::default());
    let unknown = [String::new(), String::new()];
    let known = ["ns/p".to_owned(), "v1".to_owned()];
    assert_eq!(refused(&tracker, &connection, &nobody), unknown);

    let stream = tracker.streaming_from(&agent(), &meta("p", None), true, &connection);
    assert_eq!(refused(&tracker, &connection, &nobody), known);
    assert_eq!(refused(&tracker, &second, &nobody), unknown);
    // On its other connection the same process registers.
    let registrations = Registrations::default();
    let guard = tracker.register_from(&agent(), 42, &meta("p", None), &second);
    registrations.add(AGENT, 42, guard.unwrap());
    assert_eq!(refused(&tracker, &second, &registrations), known);
    tracker
        .register_from(&agent(), 42, &meta("p", None), &connection)
        .map(drop)
        .unwrap();
    assert_eq!(refused(&tracker, &second, &registrations), known);

    // Behind a load balancer it may be either.
    let other = tracker.streaming_from(&agent(), &meta("q", None), true, &connection);
    assert_eq!(refused(&tracker, &connection, &nobody), unknown);
    drop(other);
    assert_eq!(refused(&tracker, &connection, &nobody), known);
    drop((stream, registrations));
    assert_eq!(refused(&tracker, &connection, &nobody), unknown);
}

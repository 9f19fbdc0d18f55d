//! What an agent gets from kas, over real sockets: authentication, tunnels,
//! configuration, registration, and what happens to wrong ones.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::{path::PathBuf, sync::Arc, time::Duration};

use agent_gateway::{AgentGateway, AgentMetrics, DrainSettings, Services, Settings, Tracker};
use cluster_state::PresenceQuery;
use cluster_state::{AgentId, Owner, ReplicaId, RoutingTable, memory::MemoryStore};
use control_plane::standalone::{
    Standalone, edit,
    tokens::{TokenEntry, TokenKind},
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{HeaderMap, Uri};
use proto::agent::{
    agent_configuration::rpc::{
        ConfigurationRequest, agent_configuration_client::AgentConfigurationClient,
    },
    agent_registrar::rpc::{
        RegisterRequest, UnregisterRequest, agent_registrar_client::AgentRegistrarClient,
    },
    agent_tracker::ConnectedAgentInfo,
    entity::AgentMeta,
    reverse_tunnel::{
        info::{AgentDescriptor, Method, Service},
        rpc::{
            ConnectRequest, Descriptor, connect_request::Msg,
            reverse_tunnel_client::ReverseTunnelClient,
        },
    },
};
use router::{Need, Registry};
use runtime::{
    connect::{ConnectOptions, Target, connect},
    drain::Drain,
    grpc::Channel,
    listen::{AgentAcceptor, AgentAcceptorOptions, bind},
};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tower::ServiceExt as _;

const AGENT: AgentId = AgentId(1);

struct Kas {
    address: String,
    store: MemoryStore,
    gateway: Arc<AgentGateway>,
    registry: Arc<Registry>,
    tracker: Arc<Tracker>,
    drain: Drain,
    file: PathBuf,
    token: String,
    control_plane: Arc<Standalone>,
    _directory: tempfile::TempDir,
}

impl Kas {
    async fn start() -> Self {
        Self::with_limit(1000).await
    }

    async fn with_limit(connections_per_token_per_minute: u32) -> Self {
        Self::with(connections_per_token_per_minute, Duration::from_secs(7200)).await
    }

    async fn processes(&self) -> Vec<ConnectedAgentInfo> {
        self.tracker.connected(&PresenceQuery::All).await.unwrap()
    }

    async fn aged(max_connection_age: Duration) -> Self {
        Self::with(1000, max_connection_age).await
    }

    async fn with(connections_per_token_per_minute: u32, max_connection_age: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("agents.yaml");
        let token = TokenKind::Agent.generate().unwrap();
        let entry = TokenEntry::new(&token, jiff::Timestamp::now());
        edit(&file, |document| {
            document.create_agent("test", Some(AGENT.0), entry)
        })
        .unwrap();
        let control_plane = Arc::new(Standalone::open(&file).unwrap());
        tokio::spawn(control_plane.clone().follow(CancellationToken::new()));

        let store = MemoryStore::default();
        let me = Owner {
            replica: ReplicaId::new("a"),
            url: String::new(),
        };
        let table = Arc::new(store.table(me));
        let registry = Registry::new(table.clone());
        let tracker = Tracker::new(table.clone());
        let services =
            Services::standard(control_plane.clone(), tracker.clone(), String::new(), None);
        let settings = Settings {
            max_connection_age,
            connections_per_token_per_minute,
            drain: DrainSettings {
                last_tunnel_timeout: Duration::from_secs(3600),
                ..DrainSettings::default()
            },
            ..Settings::new(services)
        };
        let gateway = AgentGateway::new(
            settings,
            control_plane.clone(),
            registry.clone(),
            table,
            AgentMetrics::default(),
        );
        let listener = bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().to_string();
        let drain = Drain::new();
        let acceptor = AgentAcceptor::new(AgentAcceptorOptions::default());
        tokio::spawn(
            gateway
                .clone()
                .follow(ReplicaId::new("a"), CancellationToken::new()),
        );
        tokio::spawn(gateway.clone().serve(listener, acceptor, drain.clone()));
        let token = token.expose().to_owned();
        Self {
            address,
            gateway,
            store,
            registry,
            tracker,
            drain,
            file,
            token,
            control_plane,
            _directory: directory,
        }
    }

    async fn channel(&self, scheme: &str, token: &str) -> Channel {
        let target = Target::parse(&format!("{scheme}://{}/any/path", self.address)).unwrap();
        let connected = connect(&target, &ConnectOptions::default()).await.unwrap();
        let handshake = runtime::grpc::client_settings().handshake(connected.io);
        let (send, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        let mut metadata = HeaderMap::new();
        metadata.insert("authorization", format!("Bearer {token}").parse().unwrap());
        metadata.insert("user-agent", "gitlab-agent/v16.5.0/test".parse().unwrap());
        Channel::new(send, Uri::from_static("http://kas"), metadata)
    }

    async fn connected(&self, wanted: bool) {
        let mut changes = self.store.changes(AGENT);
        let there = changes.wait_for(|_| self.store.owners(AGENT).is_empty() != wanted);
        tokio::time::timeout(Duration::from_secs(60), there)
            .await
            .unwrap()
            .unwrap();
    }
}

fn descriptor() -> ConnectRequest {
    let service = Service {
        name: "test.Echo".into(),
        methods: vec![Method {
            name: "Echo".into(),
        }],
    };
    let agent_descriptor = Some(AgentDescriptor {
        services: vec![service],
    });
    ConnectRequest {
        msg: Some(Msg::Descriptor(Descriptor { agent_descriptor })),
    }
}

async fn within<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .unwrap()
}

async fn until(condition: impl Fn() -> bool) {
    within(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// A request stream that says `first` and then stays open.
fn open(
    first: ConnectRequest,
) -> impl futures_util::Stream<Item = ConnectRequest> + Send + 'static {
    use futures_util::StreamExt;
    futures_util::stream::iter([first]).chain(futures_util::stream::pending())
}

#[tokio::test]
async fn tunnels_wait_in_the_registry_until_their_connection_ends_on_both_transports() {
    for scheme in ["ws", "grpc"] {
        let kas = Kas::start().await;
        let mut client = ReverseTunnelClient::new(kas.channel(scheme, &kas.token).await);
        let tunnel = tokio::spawn(async move { client.connect(open(descriptor())).await });
        kas.connected(true).await;
        assert_eq!(kas.registry.tunnels(AGENT).idle, 1);

        tunnel.abort();

        kas.connected(false).await;
        assert_eq!(kas.registry.tunnels(AGENT).idle, 0);
    }
}

#[tokio::test]
async fn idle_tunnels_end_well_when_draining() {
    let kas = Kas::start().await;
    let mut client = ReverseTunnelClient::new(kas.channel("ws", &kas.token).await);
    let tunnel = tokio::spawn(async move { client.connect(open(descriptor())).await });
    kas.connected(true).await;

    kas.drain.start();

    let ended = tokio::time::timeout(Duration::from_secs(60), tunnel)
        .await
        .unwrap()
        .unwrap();
    let mut messages = ended
        .expect("OK, so that agents reopen at once")
        .into_inner();
    assert_eq!(messages.message().await.unwrap(), None);
}

#[tokio::test]
async fn a_tunnel_stays_until_the_agent_is_seen_elsewhere() {
    let kas = Kas::start().await;
    let channel = kas.channel("ws", &kas.token).await;
    let mut tunnels = FuturesUnordered::new();
    for _ in 0..2 {
        let mut client = ReverseTunnelClient::new(channel.clone());
        tunnels.push(tokio::spawn(async move {
            client.connect(open(descriptor())).await
        }));
    }
    until(|| kas.registry.tunnels(AGENT).idle == 2).await;

    kas.drain.start();
    let first = within(tunnels.next()).await.unwrap().unwrap();
    assert!(first.is_ok(), "{first:?}");
    assert_eq!(kas.registry.tunnels(AGENT).idle, 1);
    let other = Owner {
        replica: ReplicaId::new("b"),
        url: String::new(),
    };
    kas.store.table(other).announce(AGENT);

    let second = within(tunnels.next()).await.unwrap().unwrap();
    assert!(second.is_ok(), "{second:?}");
}

#[tokio::test]
async fn a_tunnel_that_is_given_back_while_its_connection_leaves_ends_then() {
    let kas = Kas::start().await;
    let mut client = ReverseTunnelClient::new(kas.channel("ws", &kas.token).await);
    let tunnel = tokio::spawn(async move { client.connect(open(descriptor())).await });
    kas.connected(true).await;
    let need = Need {
        method: "/test.Echo/Echo".into(),
        impersonation: false,
        upgrade: false,
        caller: "user:ana".into(),
    };
    let reserved = kas.registry.take(AGENT, &need).unwrap();

    kas.drain.start();
    let other = Owner {
        replica: ReplicaId::new("b"),
        url: String::new(),
    };
    kas.store.table(other).announce(AGENT);
    assert!(kas.gateway.agents_moved(Duration::from_secs(60)).await);
    drop(reserved);

    assert!(within(tunnel).await.unwrap().is_ok());
}

#[tokio::test]
async fn an_old_connection_s_tunnel_stays_until_the_agent_has_another_here() {
    let kas = Kas::aged(Duration::from_secs(1)).await;
    let old = kas.channel("ws", &kas.token).await;
    let mut tunnels = FuturesUnordered::new();
    for _ in 0..2 {
        let mut client = ReverseTunnelClient::new(old.clone());
        tunnels.push(tokio::spawn(async move {
            client.connect(open(descriptor())).await
        }));
    }

    let first = within(tunnels.next()).await.unwrap().unwrap();
    assert!(first.is_ok(), "{first:?}");
    let mut client = ReverseTunnelClient::new(kas.channel("ws", &kas.token).await);
    let new = tokio::spawn(async move { client.connect(open(descriptor())).await });

    let second = within(tunnels.next()).await.unwrap().unwrap();
    assert!(second.is_ok(), "{second:?}");
    new.abort();
}

#[tokio::test]
async fn a_wrong_token_a_missing_descriptor_and_unknown_methods_get_their_status() {
    let kas = Kas::start().await;
    let mut stranger = ReverseTunnelClient::new(kas.channel("ws", "nonsense").await);
    let refused = stranger.connect(open(descriptor())).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::Unauthenticated, "unauthenticated")
    );

    let mut agent = ReverseTunnelClient::new(kas.channel("ws", &kas.token).await);
    let wrong = ConnectRequest {
        msg: Some(Msg::Header(Default::default())),
    };
    let refused = agent.connect(open(wrong)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(
        refused.message(),
        "transition from 0 to 2 is not allowed. Allowed: [1]"
    );
    assert_eq!(
        agent
            .connect(open(ConnectRequest { msg: None }))
            .await
            .unwrap_err()
            .code(),
        Code::InvalidArgument
    );

    let channel = kas.channel("ws", &kas.token).await;
    let mut flux = proto::agent::flux::rpc::git_lab_flux_client::GitLabFluxClient::new(channel);
    let refused = flux
        .reconcile_projects(proto::agent::flux::rpc::ReconcileProjectsRequest::default())
        .await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert_eq!(
        refused.message(),
        "unknown service gitlab.agent.flux.rpc.GitLabFlux"
    );
}

#[tokio::test]
async fn configuration_is_sent_at_once_and_on_every_change_but_not_twice() {
    let kas = Kas::start().await;
    let mut client = AgentConfigurationClient::new(kas.channel("ws", &kas.token).await);
    let mut stream = client
        .get_configuration(ConfigurationRequest::default())
        .await
        .unwrap()
        .into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first.configuration.as_ref().unwrap().agent_id, AGENT.0);

    let text = std::fs::read_to_string(&kas.file).unwrap();
    let changed = text.replacen(
        "tokens:",
        "config: {observability: {logging: {level: debug}}}\n  tokens:",
        1,
    );
    let written = kas.file.with_extension("new");
    std::fs::write(&written, changed).unwrap();
    std::fs::rename(&written, &kas.file).unwrap();
    kas.control_plane
        .reload_if_changed(jiff::Timestamp::now())
        .unwrap();

    let second = stream.message().await.unwrap().unwrap();
    assert_ne!(first.commit_id, second.commit_id);

    let known = ConfigurationRequest {
        commit_id: second.commit_id,
        ..Default::default()
    };
    let mut again = client.get_configuration(known).await;
    // Nothing to send: not even headers are due before something changes.
    if let Ok(stream) = &mut again {
        let silent =
            tokio::time::timeout(Duration::from_millis(200), stream.get_mut().message()).await;
        assert!(silent.is_err());
    }
}

#[tokio::test]
async fn processes_register_and_unregister() {
    let kas = Kas::start().await;
    let mut client = AgentRegistrarClient::new(kas.channel("grpc", &kas.token).await)
        .send_compressed(tonic::codec::CompressionEncoding::Gzip);
    let agent_meta = Some(AgentMeta {
        version: "v16.5.0".into(),
        ..Default::default()
    });
    client
        .register(RegisterRequest {
            agent_meta: agent_meta.clone(),
            pod_id: 7,
        })
        .await
        .unwrap();
    let connected = kas.processes().await;
    assert_eq!(connected.len(), 1);
    assert_eq!(connected[0].connection_id, 7);

    client
        .unregister(UnregisterRequest {
            agent_meta,
            pod_id: 7,
        })
        .await
        .unwrap();

    assert!(kas.processes().await.is_empty());
}

#[tokio::test]
async fn a_process_that_registered_goes_with_its_connection() {
    let kas = Kas::start().await;
    let mut client = AgentRegistrarClient::new(kas.channel("grpc", &kas.token).await);
    let request = RegisterRequest {
        agent_meta: None,
        pod_id: 7,
    };
    // An agent's connection carries more than one call; one that does not may be a load balancer's.
    client.register(request.clone()).await.unwrap();
    client.register(request).await.unwrap();
    assert_eq!(kas.processes().await.len(), 1);

    drop(client);

    let gone = async {
        while !kas.processes().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone)
        .await
        .unwrap();
}

#[tokio::test]
async fn methods_of_older_and_newer_agents_are_answered_as_upstream_does() {
    let kas = Kas::start().await;
    let channel = kas.channel("grpc", &kas.token).await;
    let unknown_service = |name: &str| format!("unknown service {name}");
    let unknown_method =
        |service: &str, method: &str| format!("unknown method {method} for service {service}");
    let configuration = "gitlab.agent.agent_configuration.rpc.AgentConfiguration";
    let registrar = "gitlab.agent.agent_registrar.rpc.AgentRegistrar";
    let tunnel = "gitlab.agent.reverse_tunnel.rpc.ReverseTunnel";
    let table = [
        // Up to 14.x.
        (
            "agentrpc.Kas/GetConfiguration",
            unknown_service("agentrpc.Kas"),
        ),
        (
            "gitlab.agent.gitops.rpc.Gitops/GetObjectsToSynchronize",
            "manifests are not delivered (gitops): GitLab removed it in 2025; use Flux in place of \
             gitops.manifest_projects"
                .to_owned(),
        ),
        // Ours, and not configured.
        (
            "gitlab.agent.kas_events.rpc.Collector/Report",
            unknown_service("gitlab.agent.kas_events.rpc.Collector"),
        ),
        (
            "kas.events.rpc.Collector/Report",
            unknown_service("kas.events.rpc.Collector"),
        ),
        // Later, or renamed.
        (
            "gitlab.agent.agentk_rpc.AgentRegistrar/Register",
            unknown_service("gitlab.agent.agentk_rpc.AgentRegistrar"),
        ),
        (
            "gitlab.agent.agent2kas_tunnel.rpc.ReverseTunnel/Connect",
            unknown_service("gitlab.agent.agent2kas_tunnel.rpc.ReverseTunnel"),
        ),
        (
            &format!("{configuration}/WatchConfiguration"),
            unknown_method(configuration, "WatchConfiguration"),
        ),
        (
            &format!("{registrar}/Hello"),
            unknown_method(registrar, "Hello"),
        ),
        (
            &format!("{tunnel}/Disconnect"),
            unknown_method(tunnel, "Disconnect"),
        ),
        (
            "nonsense",
            "malformed method name: \"/nonsense\"".to_owned(),
        ),
    ];
    for (path, words) in table {
        let request =
            http::Request::post(format!("/{path}")).header("content-type", "application/grpc");
        let request = request.body(tonic::body::Body::empty()).unwrap();

        let response = channel.clone().oneshot(request).await.unwrap();

        let status = tonic::Status::from_header_map(response.headers()).unwrap();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unimplemented, words.as_str())
        );
    }
}

#[tokio::test]
async fn the_limit_counts_connections_and_not_the_tunnels_on_them() {
    let kas = Kas::with_limit(1).await;
    let mut first = AgentRegistrarClient::new(kas.channel("ws", &kas.token).await);
    for _ in 0..50 {
        let request = UnregisterRequest::default();
        first.unregister(request).await.unwrap();
    }

    let mut second = AgentRegistrarClient::new(kas.channel("ws", &kas.token).await);
    let refused = second
        .register(RegisterRequest::default())
        .await
        .unwrap_err();

    assert_eq!(refused.code(), Code::ResourceExhausted);
    first.register(RegisterRequest::default()).await.unwrap();
}

#[tokio::test]
async fn a_revoked_token_ends_the_connection_of_its_agent() {
    let kas = Kas::start().await;
    let mut client = ReverseTunnelClient::new(kas.channel("ws", &kas.token).await);
    let tunnel = tokio::spawn(async move { client.connect(open(descriptor())).await });
    kas.connected(true).await;

    edit(&kas.file, |document| document.revoke_agent("test")).unwrap();

    kas.connected(false).await;
    tokio::time::timeout(Duration::from_secs(60), tunnel)
        .await
        .unwrap()
        .unwrap()
        .ok();
    let mut again = ReverseTunnelClient::new(kas.channel("ws", &kas.token).await);
    let refused = again.connect(open(descriptor())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

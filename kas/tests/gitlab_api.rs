//! The port that GitLab calls, over real sockets: TCP, TLS and a Unix socket;
//! health for anybody, reflection for whoever has the secret.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::{path::Path, sync::Arc, time::Duration};

use agent_gateway::Tracker;
use cluster_state::{Owner, ReplicaId, memory::MemoryStore};
use control_plane::notifications::{Event, Notifications};
use http::{HeaderMap, Uri};
use kas::gitlab_api::{GitLabApi, Services, Settings};
use proto::agent::{
    event::{GitPushEvent, Project},
    notifications::rpc::{GitPushEventRequest, notifications_client::NotificationsClient},
    server_info::rpc::{GetServerInfoRequest, server_info_client::ServerInfoClient},
};
use runtime::{
    connect::{ConnectOptions, Target, connect},
    drain::Drain,
    grpc::Channel,
    jwt::{self, Secret},
    listen::{AnyListener, PlainAcceptor, bind, bind_unix},
    tls::{ClientTls, ClientTlsOptions, H2, Identity, ServerTls},
};
use tests::certs::Certs;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tower::ServiceExt as _;

const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;

struct Api {
    notifications: Notifications,
    drain: Drain,
}

impl Api {
    async fn start(listener: AnyListener, tls: Option<ServerTls>) -> Self {
        let notifications = Notifications::new(None);
        let me = Owner {
            replica: ReplicaId::new("a"),
            url: String::new(),
        };
        let tracker = Tracker::new(Arc::new(MemoryStore::default().table(me)));
        let settings = Settings {
            secret: secret(),
            max_connection_age: Duration::from_secs(3600),
            directions: String::new(),
        };
        let services = Services::new(notifications.clone(), tracker);
        let api = GitLabApi::new(settings, services).await;
        let drain = Drain::new();
        drain.spawn(api.serve(listener, PlainAcceptor::new(tls), drain.clone()));
        Self {
            notifications,
            drain,
        }
    }

    async fn on_tcp() -> (Self, String) {
        let listener = bind("127.0.0.1:0").await.unwrap();
        let url = format!("grpc://{}", listener.local_addr());
        (Self::start(AnyListener::Tcp(listener), None).await, url)
    }
}

fn secret() -> Secret {
    Secret::new(vec![7; 32])
}

fn token() -> HeaderMap {
    let token = jwt::sign(&secret(), "gitlab.example.com", "gitlab-kas").unwrap();
    let value = format!("bearer {token}").parse().unwrap();
    HeaderMap::from_iter([(http::header::AUTHORIZATION, value)])
}

async fn channel<S>(io: S, metadata: HeaderMap) -> Channel
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let settings = runtime::grpc::client_settings();
    let (send, connection) = settings.handshake(io).await.unwrap();
    tokio::spawn(connection);
    Channel::new(send, Uri::from_static("http://kas"), metadata)
}

async fn dial(url: &str, tls: Option<ClientTls>, metadata: HeaderMap) -> Channel {
    let options = ConnectOptions {
        tls,
        ..ConnectOptions::default()
    };
    let target = Target::parse(url).unwrap();
    channel(connect(&target, &options).await.unwrap().io, metadata).await
}

async fn version(channel: Channel) -> Result<String, tonic::Status> {
    let mut client = ServerInfoClient::new(channel);
    let answer = client.get_server_info(GetServerInfoRequest {}).await?;
    Ok(answer.into_inner().current_server_info.unwrap().version)
}

#[tokio::test]
async fn a_unix_socket_serves_as_a_port_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let listener = AnyListener::Unix(bind_unix(Path::new(&path)).unwrap());
    let _api = Api::start(listener, None).await;
    let connect =
        async |metadata| channel(UnixStream::connect(&path).await.unwrap(), metadata).await;

    assert_eq!(
        version(connect(token()).await).await.unwrap(),
        env!("CARGO_PKG_VERSION")
    );
    let refused = version(connect(HeaderMap::new()).await).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn tls_is_spoken_where_there_is_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::create(folder.path()).unwrap();
    let identity = Identity {
        certificate: certs.certificate.clone(),
        key: certs.key.clone(),
    };
    let tls = ServerTls::load(identity, &[H2]).unwrap();
    let listener = bind("127.0.0.1:0").await.unwrap();
    let url = format!("grpcs://localhost:{}", listener.local_addr().port());
    let _api = Api::start(AnyListener::Tcp(listener), Some(tls)).await;

    let trusting = ClientTls::load(&ClientTlsOptions {
        ca_files: vec![certs.ca.clone()],
        only_ca_files: true,
        ..ClientTlsOptions::default()
    });

    let channel = dial(&url, Some(trusting.unwrap()), token()).await;
    assert!(version(channel).await.is_ok());
}

#[tokio::test]
async fn a_push_is_heard_by_who_listens() {
    let (api, url) = Api::on_tcp().await;
    let mut events = api.notifications.subscribe();
    let mut client = NotificationsClient::new(dial(&url, None, token()).await);
    let event = GitPushEvent {
        project: Some(Project {
            id: 3,
            full_path: "group/config".into(),
        }),
    };

    let request = GitPushEventRequest { event: Some(event) };
    client.git_push_event(request).await.unwrap();

    let Event::GitPush(push) = events.recv().await.unwrap() else {
        panic!("a push");
    };
    assert_eq!((push.project_id, &*push.project_path), (3, "group/config"));
}

#[tokio::test]
async fn a_message_longer_than_its_method_takes_is_refused() {
    let (_api, url) = Api::on_tcp().await;
    let mut client = NotificationsClient::new(dial(&url, None, token()).await);
    let event = |length| {
        let project = Some(Project {
            id: 3,
            full_path: "p".repeat(length),
        });
        let event = Some(GitPushEvent { project });
        GitPushEventRequest { event }
    };

    let refused = client.git_push_event(event(64 << 10)).await.unwrap_err();

    assert_eq!(refused.code(), Code::ResourceExhausted);
    client.git_push_event(event(1 << 10)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nobody_is_known_is_closed_after_half_a_minute() {
    let (_api, url) = Api::on_tcp().await;
    let stranger = dial(&url, None, HeaderMap::new()).await;
    let mut watch = HealthClient::new(stranger.clone());
    let request = HealthCheckRequest::default();
    let mut watched = watch.watch(request).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status, SERVING);
    let known = dial(&url, None, token()).await;
    version(known.clone()).await.unwrap();
    let start = tokio::time::Instant::now();

    watched.message().await.unwrap_err();

    assert!(start.elapsed() <= Duration::from_secs(31));
    assert!(version(stranger).await.is_err());
    version(known).await.unwrap();
}

#[tokio::test]
async fn health_is_told_to_anybody_until_the_replica_leaves() {
    let (api, url) = Api::on_tcp().await;
    let mut client = HealthClient::new(dial(&url, None, HeaderMap::new()).await);
    let request = |service: &str| HealthCheckRequest {
        service: service.into(),
    };
    for service in ["", "gitlab.agent.agent_tracker.rpc.AgentTracker"] {
        let answer = client.check(request(service)).await.unwrap();
        assert_eq!(answer.into_inner().status, SERVING);
    }
    let unknown = client.check(request("nobody")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let mut watched = client.watch(request("")).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status, SERVING);

    api.drain.start();

    let told = watched.message().await.unwrap().unwrap();
    assert_eq!(told.status, NOT_SERVING);
}

async fn reflect(
    channel: Channel,
    asked: MessageRequest,
) -> Result<MessageResponse, tonic::Status> {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(asked),
    };
    let requests = futures_util::stream::iter([request]);
    let mut client = ServerReflectionClient::new(channel);
    let answers = client.server_reflection_info(requests).await?;
    let answer = answers.into_inner().message().await?.unwrap();
    Ok(answer.message_response.unwrap())
}

#[tokio::test]
async fn reflection_lists_and_describes_what_is_served() {
    let (_api, url) = Api::on_tcp().await;
    let channel = dial(&url, None, token()).await;

    let listed = reflect(channel.clone(), MessageRequest::ListServices(String::new())).await;
    let tracker = "gitlab.agent.agent_tracker.rpc.AgentTracker".to_owned();
    let described = reflect(
        channel,
        MessageRequest::FileContainingSymbol(tracker.clone()),
    )
    .await;
    let stranger = dial(&url, None, HeaderMap::new()).await;
    let refused = reflect(stranger, MessageRequest::ListServices(String::new())).await;

    let MessageResponse::ListServicesResponse(listed) = listed.unwrap() else {
        panic!("a list");
    };
    let names: Vec<_> = listed.service.iter().map(|it| it.name.as_str()).collect();
    for name in [
        tracker.as_str(),
        "gitlab.agent.notifications.rpc.Notifications",
        "gitlab.agent.server_info.rpc.ServerInfo",
        "grpc.health.v1.Health",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert!(
        !names.iter().any(|it| it.contains("ReverseTunnel")),
        "{names:?}"
    );
    assert!(matches!(
        described.unwrap(),
        MessageResponse::FileDescriptorResponse(_)
    ));
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn what_later_gitlabs_call_besides_is_refused_as_unknown() {
    let (_api, url) = Api::on_tcp().await;
    let channel = dial(&url, None, token()).await;
    for (path, words) in [
        (
            "gitlab.agent.autoflow.rpc.AutoFlow/CloudEvent",
            "unknown service gitlab.agent.autoflow.rpc.AutoFlow",
        ),
        (
            "gitlab.agent.managed_resources.rpc.Provisioner/GetEnvironmentTemplate",
            "unknown service gitlab.agent.managed_resources.rpc.Provisioner",
        ),
        (
            "gitlab.agent.events_platform.rpc.EventsPlatform/Publish",
            "unknown service gitlab.agent.events_platform.rpc.EventsPlatform",
        ),
        ("gitlab.agent.agent_tracker.rpc.AgentTracker/Hello", ""),
    ] {
        let request =
            http::Request::post(format!("/{path}")).header("content-type", "application/grpc");
        let request = request.body(tonic::body::Body::empty()).unwrap();

        let response = channel.clone().oneshot(request).await.unwrap();

        let status = tonic::Status::from_header_map(response.headers()).unwrap();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unimplemented, words)
        );
    }
}

//! Agents' modules reach GitLab's API for them, over real sockets: agents' port, kas's HTTP client, the double.

use std::sync::Arc;

use agent_gateway::{AgentGateway, AgentMetrics, Services, Settings, make_request};
use bytes::Bytes;
use cluster_state::{Owner, ReplicaId, memory::MemoryStore};
use futures_util::{StreamExt, stream};
use router::Registry;
use runtime::{
    drain::Drain,
    listen::{AgentAcceptor, AgentAcceptorOptions, bind},
};
use tests::{
    gitlab_double::{Caller, Endpoint, Fault, FaultKind, Rails},
    module_request::{ModuleRequest, data, read, trailer},
};
use tokio::sync::oneshot;
use tonic::Code;

use crate::fixture::{Fixture, usual};

const SCANNER: &str = "starboard_vulnerability";
/// As many requests as an agent may have in progress.
const AGENTS_SHARE: usize = 8;

/// kas with the method of modules at its agents' port.
struct Site {
    fixture: Fixture,
    port: u16,
    _drain: Drain,
}

impl Site {
    async fn start() -> Self {
        let fixture = Fixture::start(usual()).await;
        let me = Owner {
            replica: ReplicaId::new("a"),
            url: String::new(),
        };
        let table = Arc::new(MemoryStore::default().table(me));
        let services = Services::default().with(make_request(fixture.gitlab.module_api()));
        let settings = Settings::new(services);
        let gateway = AgentGateway::new(
            settings,
            Arc::new(fixture.gitlab.clone()),
            Registry::new(table.clone()),
            table,
            AgentMetrics::default(),
        );
        let listener = bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().port();
        let drain = Drain::new();
        let acceptor = AgentAcceptor::new(AgentAcceptorOptions::default());
        tokio::spawn(gateway.serve(listener, acceptor, drain.clone()));
        Self {
            fixture,
            port,
            _drain: drain,
        }
    }

    async fn agent(&self, token: &str) -> (Caller, Rails) {
        let connected = Rails::connect(self.port, Some(token)).await.unwrap();
        (connected.caller(), connected)
    }

    fn fails(&self, kind: FaultKind, times: Option<u32>) {
        let fault = Fault::at(Endpoint::Modules, kind, times);
        self.fixture.double.change(|it| it.faults = vec![fault]);
    }

    fn asked(&self) -> u64 {
        self.fixture.asked(Endpoint::Modules)
    }
}

fn policies() -> ModuleRequest {
    ModuleRequest::new(SCANNER, "GET", "/policies_configuration")
}

fn scan_result() -> ModuleRequest {
    ModuleRequest::new(SCANNER, "POST", "/scan_result").header("Content-Type", "application/json")
}

#[tokio::test]
async fn a_module_reaches_what_is_below_its_name_as_its_agent() {
    let site = Site::start().await;
    let (agent, _connection) = site.agent("agent-5-a").await;

    let policies = policies()
        .query("a b", "c&d")
        .header("Accept", "application/json")
        .header("Authorization", "Bearer agent-6")
        .header("Gitlab-Kas-Api-Request", "forged")
        .header("X-Forwarded-For", "10.0.0.1")
        .header("Private-Token", "stolen");
    let read = policies.send(&agent, b"").await.unwrap();
    let reconciled = ModuleRequest::new("remote_development", "POST", "/reconcile")
        .header("Content-Type", "application/json")
        .send(&agent, b"{}")
        .await
        .unwrap();
    let put = ModuleRequest::new(SCANNER, "PUT", "/")
        .send(&agent, b"{\"a\":1}")
        .await;
    let missing = ModuleRequest::new("newer", "DELETE", "/x/1")
        .send(&agent, b"")
        .await;

    assert_eq!(
        (read.status, read.body.as_slice()),
        (200, &br#"{"configurations":[]}"#[..])
    );
    assert_eq!(reconciled.status, 201);
    assert_eq!(put.unwrap().body, br#"{"uuid":"0b1"}"#);
    assert_eq!(missing.unwrap().status, 404, "a refusal is an answer");
    let calls = site.fixture.double.module_calls();
    let seen: Vec<_> = calls
        .iter()
        .map(|it| {
            (
                it.agent,
                it.method.as_str(),
                it.target.as_str(),
                it.body_bytes,
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (
                5,
                "GET",
                "starboard_vulnerability/policies_configuration?a%20b=c%26d",
                0
            ),
            (5, "POST", "remote_development/reconcile", 2),
            (5, "PUT", "starboard_vulnerability/", 7),
            (5, "DELETE", "newer/x/1", 0),
        ]
    );
    let mut names: Vec<_> = calls[0].headers.keys().map(|it| it.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept",
            "authorization",
            "gitlab-kas-api-request",
            "host",
            "user-agent"
        ]
    );
    assert_eq!(calls[1].headers["content-length"], "2");
    assert!(
        calls[0].headers["user-agent"]
            .to_str()
            .unwrap()
            .starts_with("gitlab-kas/")
    );
}

#[tokio::test]
async fn no_path_leads_to_another_api() {
    let site = Site::start().await;
    let (agent, _connection) = site.agent("agent-5-a").await;

    for (module, path) in [
        (SCANNER, "/../../agent_info"),
        (SCANNER, "/%2e%2e/agent_info"),
        ("..", "/agent_info"),
        ("a/../..", "/agent_info"),
        (SCANNER, "//a"),
        (SCANNER, ""),
    ] {
        let refused = ModuleRequest::new(module, "GET", path)
            .send(&agent, b"")
            .await;
        assert_eq!(
            refused.unwrap_err().code(),
            Code::InvalidArgument,
            "{module} {path}"
        );
    }
    let (stranger, _connection) = site.agent("nobody").await;
    let refused = policies().send(&stranger, b"").await.unwrap_err();

    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(
        (site.asked(), site.fixture.asked(Endpoint::Unknown)),
        (0, 0)
    );
}

#[tokio::test]
async fn bodies_of_any_size_pass_both_ways() {
    let site = Site::start().await;
    let (agent, _connection) = site.agent("agent-5-a").await;
    let body = vec![b'x'; 9 << 20];

    let sent = scan_result().send(&agent, &body).await.unwrap();
    site.fails(FaultKind::Flood, Some(1));
    let large = policies().send(&agent, b"").await.unwrap();

    assert_eq!(sent.status, 200);
    let call = site.fixture.double.module_calls().remove(0);
    assert_eq!(call.body_bytes, body.len());
    assert_eq!(call.headers["transfer-encoding"], "chunked");
    assert_eq!((large.status, large.body.len()), (200, 3 << 20));
}

#[tokio::test]
async fn what_is_in_memory_is_repeated_where_that_does_no_harm() {
    let site = Site::start().await;
    let (agent, _connection) = site.agent("agent-5-a").await;

    site.fails(FaultKind::Status(502), Some(2));
    let read = policies().send(&agent, b"").await.unwrap();
    assert_eq!((read.status, site.asked()), (200, 3));

    site.fails(FaultKind::Status(503), Some(1));
    let posted = scan_result().send(&agent, b"{}").await.unwrap();
    assert_eq!(
        (posted.status, site.asked()),
        (200, 5),
        "it was not looked at"
    );

    site.fails(FaultKind::Status(502), None);
    let unknown = scan_result().send(&agent, b"{}").await.unwrap();
    assert_eq!(
        (unknown.status, site.asked()),
        (502, 6),
        "it may have been done"
    );

    site.fails(FaultKind::Busy(60), None);
    let busy = policies().send(&agent, b"").await.unwrap();
    assert_eq!((busy.status, site.asked()), (429, 7));

    site.fails(FaultKind::Status(503), Some(1));
    let streamed = scan_result()
        .send(&agent, &vec![b'x'; 1 << 20])
        .await
        .unwrap();
    assert_eq!(
        (streamed.status, site.asked()),
        (503, 8),
        "its body is gone"
    );
}

#[tokio::test]
async fn a_gitlab_that_breaks_off_is_unavailable_and_others_are_asked_on() {
    let site = Site::start().await;
    let (agent, _connection) = site.agent("agent-5-a").await;
    site.fails(FaultKind::Down, None);

    let refused = scan_result().send(&agent, b"{}").await.unwrap_err();

    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(refused.message(), "gRPC -> HTTP: GitLab cannot be reached");
    site.fixture.recovers();
    assert_eq!(policies().send(&agent, b"").await.unwrap().status, 200);
}

#[tokio::test]
async fn an_agent_with_its_share_in_progress_waits_for_itself_only() {
    let site = Site::start().await;
    let (greedy, _connection) = site.agent("agent-5-a").await;
    let (bystander, _connection) = site.agent("agent-6").await;
    let half = data(Bytes::from_static(b"half"));
    // Past what is read ahead, so that GitLab waits for the rest.
    let long = data(Bytes::from(vec![b'x'; 512 << 10]));
    let mut held = Vec::new();
    for number in 0..AGENTS_SHARE {
        let (finish, finished) = oneshot::channel::<()>();
        let rest = stream::once(async {
            finished.await.ok();
            trailer()
        });
        let begin = if number % 2 == 0 { &half } else { &long };
        let messages = stream::iter([begin.clone()]).chain(rest);
        held.push((scan_result().open(&greedy, messages).await.unwrap(), finish));
    }

    let refused = policies().send(&greedy, b"").await.unwrap_err();
    let served = policies().send(&bystander, b"").await.unwrap();

    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(
        refused
            .message()
            .contains("the limit for one is reached (8)"),
        "{refused:?}"
    );
    assert_eq!(served.status, 200);
    for (answer, finish) in held {
        finish.send(()).unwrap();
        assert_eq!(read(answer).await.unwrap().status, 200);
    }
    assert_eq!(policies().send(&greedy, b"").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_body_that_ends_before_its_trailer_is_refused_and_never_sent_as_whole() {
    let site = Site::start().await;
    let (agent, _connection) = site.agent("agent-5-a").await;
    let long = || data(Bytes::from(vec![b'x'; 512 << 10]));

    let request = scan_result();
    let send = async |messages: Vec<_>| {
        let opened = request.open(&agent, stream::iter(messages)).await;
        read(opened.unwrap()).await
    };

    let short = send(vec![data(Bytes::from_static(b"{"))])
        .await
        .unwrap_err();
    let streamed = send(vec![long(), long()]).await.unwrap_err();
    let twice = send(vec![trailer(), long()]).await.unwrap();

    for refused in [short, streamed] {
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    assert_eq!(twice.status, 200, "what follows the trailer is not read");
    let calls = site.fixture.double.module_calls();
    assert_eq!(
        calls.iter().map(|it| it.body_bytes).collect::<Vec<_>>(),
        [0]
    );
}

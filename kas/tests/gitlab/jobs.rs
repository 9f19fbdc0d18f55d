//! Runners ask for jobs at the agents' port, and get what GitLab says.

use std::{sync::Arc, time::Duration};

use agent_gateway::{AgentGateway, AgentMetrics, Services, Settings, Tracker};
use cluster_state::{Owner, ReplicaId, memory::MemoryStore};
use futures_util::future::join_all;
use http::Request;
use proto::agent::{
    agent_registrar::rpc::{RegisterRequest, agent_registrar_client::AgentRegistrarClient},
    job_router::rpc::{GetJobRequest, GetJobResponse, job_router_client::JobRouterClient},
    runner::rpc::{
        GetJobRequest as OldRequest, job_router_client::JobRouterClient as OldJobRouterClient,
    },
};
use proto::join::rpc::{JoinRequest, joiner_client::JoinerClient};
use router::Registry;
use runtime::{
    drain::Drain,
    listen::{AgentAcceptor, AgentAcceptorOptions, bind},
};
use serde_json::{Value, json};
use tests::gitlab_double::{Endpoint, Fault, FaultKind, Rails};
use tonic::{Code, Response, Status};
use tower::{Service as _, ServiceExt as _};

use crate::fixture::{FORGETFUL, Fixture};

const MIB: usize = 1 << 20;

/// An agents' port in front of a double.
struct Port {
    fixture: Fixture,
    number: u16,
}

impl Port {
    async fn start(routes_jobs: bool) -> Self {
        let fixture = Fixture::start(FORGETFUL).await;
        let plane = Arc::new(fixture.gitlab.clone());
        let me = Owner {
            replica: ReplicaId::new("a"),
            url: String::new(),
        };
        let table = Arc::new(MemoryStore::default().table(me));
        let tracker = Tracker::new(table.clone());
        let mut services = Services::standard(plane.clone(), tracker, String::new(), None);
        if routes_jobs {
            for method in agent_gateway::route_jobs(&fixture.gitlab) {
                services = services.with(method);
            }
        }
        let settings = Settings::new(services);
        let registry = Registry::new(table.clone());
        let metrics = AgentMetrics::default();
        let gateway = AgentGateway::new(settings, plane, registry, table, metrics);
        let listener = bind("127.0.0.1:0").await.unwrap();
        let number = listener.local_addr().port();
        let acceptor = AgentAcceptor::new(AgentAcceptorOptions::default());
        tokio::spawn(gateway.serve(listener, acceptor, Drain::new()));
        Self { fixture, number }
    }

    /// A connection of somebody with this token.
    async fn connect(&self, token: &str) -> Rails {
        Rails::connect(self.number, Some(token)).await.unwrap()
    }

    async fn job(&self, token: &str, size: usize) -> Result<Response<GetJobResponse>, Status> {
        let rails = self.connect(token).await;
        let mut client = JobRouterClient::new(rails.caller()).max_decoding_message_size(32 * MIB);
        let job_request = asked(token, size).to_string().into();
        let request = GetJobRequest { job_request };
        client.get_job(of_kind(request, Some("runner"))).await
    }

    async fn code(&self, token: &str) -> Code {
        match self.job(token, 0).await {
            Ok(_) => Code::Ok,
            Err(status) => status.code(),
        }
    }
}

/// What a runner sends, so large.
fn asked(token: &str, size: usize) -> Value {
    json!({"token": token, "info": {"name": "x".repeat(size)}})
}

fn of_kind<T>(message: T, kind: Option<&'static str>) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let metadata = request.metadata_mut();
    if let Some(kind) = kind {
        metadata.insert("gitlab-agent-type", kind.parse().unwrap());
    }
    metadata.insert("x-request-id", "r-1".parse().unwrap());
    request
}

#[tokio::test]
async fn a_runner_gets_gitlabs_own_answer_under_both_names_of_the_service() {
    let port = Port::start(true).await;

    let busy = port.job("glrt-busy", 0).await.unwrap();
    let idle = port.job("glrt-idle", 0).await.unwrap();
    let rails = port.connect("glrt-busy").await;
    let job_request = asked("glrt-busy", 0).to_string().into();
    let old = of_kind(OldRequest { job_request }, Some("runner"));
    let old = OldJobRouterClient::new(rails.caller()).get_job(old).await;

    assert_eq!(
        busy.metadata().get("x-gitlab-last-update").unwrap(),
        "queue-7"
    );
    let expected = json!({"id": 4711, "asked": asked("glrt-busy", 0)});
    for job in [
        busy.into_inner().job_response,
        old.unwrap().into_inner().job_response,
    ] {
        assert_eq!(serde_json::from_slice::<Value>(&job).unwrap(), expected);
    }
    assert!(idle.into_inner().job_response.is_empty(), "there is none");
}

#[tokio::test]
async fn gitlabs_refusals_reach_the_runner() {
    let port = Port::start(true).await;

    let unknown = port.job("glrt-nobody", 0).await.unwrap_err();
    port.fixture.fails(FaultKind::Busy(1));
    let throttled = port.job("glrt-busy", 0).await.unwrap_err();
    port.fixture.fails(FaultKind::Status(502));
    let ill = port.job("glrt-busy", 0).await.unwrap_err();
    port.fixture.fails(FaultKind::Down);
    let away = port.job("glrt-busy", 0).await.unwrap_err();

    assert_eq!(unknown.code(), Code::PermissionDenied, "{unknown}");
    assert_eq!(unknown.message(), "GitLab answers 403 403 Forbidden");
    assert_eq!(throttled.code(), Code::ResourceExhausted, "{throttled}");
    assert_eq!(ill.code(), Code::Unavailable, "{ill}");
    assert_eq!(away.code(), Code::Unavailable, "{away}");
}

#[tokio::test]
async fn each_kind_of_agent_may_do_its_own_things_only() {
    let port = Port::start(true).await;
    let rails = port.connect("agent-5-a").await;
    let job = async |kind| {
        let request = of_kind(GetJobRequest::default(), kind);
        let mut client = JobRouterClient::new(rails.caller());
        client.get_job(request).await.unwrap_err().code()
    };
    let register = async |kind| {
        let request = of_kind(RegisterRequest::default(), kind);
        let mut client = AgentRegistrarClient::new(rails.caller());
        let answer = client.register(request).await;
        answer.map_or_else(|status| status.code(), |_| Code::Ok)
    };

    for kind in [None, Some("agentk")] {
        assert_eq!(job(kind).await, Code::PermissionDenied, "{kind:?}");
        assert_eq!(register(kind).await, Code::Ok, "{kind:?}");
    }
    for kind in [Some("runnerc"), Some("agentw"), Some("else")] {
        assert_eq!(job(kind).await, Code::Unimplemented, "{kind:?}");
        assert_eq!(register(kind).await, Code::Unimplemented, "{kind:?}");
    }
    assert_eq!(register(Some("runner")).await, Code::PermissionDenied);
    let runner = port.connect("glrt-busy").await;
    let request = of_kind(RegisterRequest::default(), None);
    let mut client = AgentRegistrarClient::new(runner.caller());
    let refused = client.register(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(port.fixture.asked(Endpoint::JobRequest), 0);
}

#[tokio::test]
async fn what_is_not_served_is_said_at_once_and_asks_nobody() {
    let port = Port::start(false).await;
    let rails = port.connect("glrt-busy").await;
    let mut caller = rails.caller();

    assert_eq!(port.code("glrt-busy").await, Code::Unimplemented);
    for method in [
        "gitlab.agent.managed_resources.rpc.Provisioner/EnsureEnvironment",
        "gitlab.agent.autoflow.rpc.AutoFlow/CloudEvent",
        "gitlab.agent.events_platform.rpc.EventsPlatform/Publish",
        "gitlab.agent.runner_controller.rpc.RunnerController/AdmitJob",
    ] {
        let request = Request::post(format!("/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(tonic::body::Body::empty());
        let ready = caller.ready().await.unwrap();
        let answer = ready.call(request.unwrap()).await.unwrap();

        assert_eq!(answer.headers()["grpc-status"], "12", "{method}");
    }
    assert_eq!(port.fixture.double.counters(), Default::default());
}

#[tokio::test]
async fn a_runner_has_its_part_of_the_requests_and_others_have_theirs() {
    const OF_ONE: usize = 32;
    let port = Port::start(true).await;
    let hang = Fault::at(Endpoint::JobRequest, FaultKind::Hang, Some(32));
    port.fixture.double.change(|it| it.faults = vec![hang]);

    let greedy = join_all((0..OF_ONE).map(|_| port.job("glrt-busy", 0)));
    let others = async {
        let all = async || (port.fixture.asked(Endpoint::JobRequest) >= 32).then_some(());
        let waiting = tests::wait::until("all that one may have", Duration::from_secs(60), all);
        waiting.await.unwrap();
        (port.code("glrt-busy").await, port.code("glrt-idle").await)
    };
    let (same, other) = tokio::select! {
        _ = greedy => panic!("they are held"),
        codes = others => codes,
    };

    assert_eq!((same, other), (Code::ResourceExhausted, Code::Ok));
}

#[tokio::test]
async fn messages_of_ten_mebibytes_pass_and_larger_ones_do_not() {
    let port = Port::start(true).await;

    let large = port.job("glrt-busy", 9 * MIB).await.unwrap();
    let too_large = port.job("glrt-busy", 11 * MIB).await.unwrap_err();

    assert!(large.into_inner().job_response.len() > 9 * MIB);
    assert_eq!(too_large.code(), Code::ResourceExhausted, "{too_large}");
    assert_eq!(port.fixture.asked(Endpoint::JobRequest), 1);
}

#[tokio::test]
async fn who_shows_a_join_token_is_told_that_gitlab_registers_agents() {
    let port = Port::start(false).await;
    let rails = port.connect("kasjoin-x").await;

    let request = JoinRequest {
        token_sha256: vec![0; 32].into(),
    };
    let refused = JoinerClient::new(rails.caller()).join(request).await;

    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let told = refused.message();
    assert!(told.contains("registered in GitLab"), "{told}");
}

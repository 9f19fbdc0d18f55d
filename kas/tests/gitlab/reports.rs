//! What GitLab is told of usage, and what it says of projects and of agents
//! that wait to be dialled.

use std::time::Duration;

use control_plane::{
    AuthError, ControlPlane, Token,
    usage::{AccessKind, Usage},
};
use router::AgentId;
use tests::gitlab_double::{Endpoint, FaultKind, Paths};
use tokio_util::sync::CancellationToken;

use crate::fixture::{FORGETFUL, Fixture, usual};

fn used() -> Usage {
    let usage = Usage::default();
    usage.allowed(AccessKind::Ci, 11, AgentId(5), 3);
    usage
}

#[tokio::test]
async fn a_report_is_tried_once_and_kept_when_it_is_not_taken() {
    let fixture = Fixture::start(FORGETFUL).await;
    let usage = used();

    for kind in [
        FaultKind::Status(502),
        FaultKind::Status(401),
        FaultKind::Down,
    ] {
        let before = fixture.asked(Endpoint::UsageMetrics);
        fixture.fails(kind);
        let posted = fixture.gitlab.client().post_usage(&usage.report()).await;
        assert!(posted.is_err());
        assert_eq!(fixture.asked(Endpoint::UsageMetrics), before + 1);
    }
    fixture.recovers();
    fixture
        .gitlab
        .client()
        .post_usage(&usage.report())
        .await
        .unwrap();

    let reports = fixture.double.usage();
    assert_eq!(reports[0]["counters"]["k8s_api_proxy_request"], 1);
}

#[tokio::test]
async fn the_last_report_is_sent_when_the_server_stops_and_an_empty_one_never() {
    let fixture = Fixture::start(FORGETFUL).await;
    let (usage, stop) = (used(), CancellationToken::new());
    let hour = Duration::from_secs(3600);
    stop.cancel();

    let report = |usage: &Usage, period| {
        let gitlab = fixture.gitlab.clone();
        gitlab.report_usage(usage.clone(), period, stop.clone())
    };
    report(&usage, Duration::ZERO).await;
    assert_eq!(
        fixture.asked(Endpoint::UsageMetrics),
        0,
        "zero reports nothing"
    );
    report(&usage, hour).await;
    report(&usage, hour).await;

    assert_eq!(fixture.asked(Endpoint::UsageMetrics), 1);
    assert!(usage.report().is_empty());
}

#[tokio::test]
async fn events_for_gitlabs_usage_pages_are_sent_once_and_kept_while_gitlab_is_ill() {
    let fixture = Fixture::start(FORGETFUL).await;
    fixture.double.change(|it| it.paths = Paths::New);
    let usage = used();
    let agent = fixture
        .gitlab
        .agent_by_token(&Token::new("agent-5-a"))
        .await;
    usage.registered(&agent.unwrap(), "v18.1.0", "linux/amd64");
    let post = async || {
        let report = usage.event_report();
        let posted = fixture.gitlab.client().post_agent_events(&report).await;
        posted.inspect(|()| usage.events_reported(&report))
    };

    fixture.fails(FaultKind::Status(502));
    post().await.unwrap_err();
    fixture.recovers();
    post().await.unwrap();

    assert!(usage.event_report().is_empty());
    let expected = serde_json::json!({
        "k8s_api_proxy_requests_unique_users_via_ci_access": [{"user_id": 11, "project_id": 3}],
        "register_agent_at_kas":
            [{"project_id": 3, "agent_version": "v18.1.0", "architecture": "amd64"}],
    });
    assert_eq!(fixture.double.events(), [expected]);
}

#[tokio::test]
async fn a_gitlab_that_knows_no_events_gets_usage_and_is_left_alone() {
    let fixture = Fixture::start(FORGETFUL).await;
    let (usage, stop) = (used(), CancellationToken::new());
    let reporting = fixture.gitlab.clone();
    let period = Duration::from_millis(10);
    let reporting = tokio::spawn(reporting.report_usage(usage.clone(), period, stop.clone()));
    let unknown = async || (fixture.asked(Endpoint::Unknown) > 0).then_some(());
    let asked = tests::wait::until("GitLab to be asked", Duration::from_secs(60), unknown);
    asked.await.unwrap();

    for user in 20..30 {
        usage.allowed(AccessKind::Ci, user, AgentId(5), 3);
        let empty = async || usage.event_report().is_empty().then_some(());
        let emptied = tests::wait::until("the events to go", Duration::from_secs(60), empty);
        emptied.await.unwrap();
    }
    stop.cancel();
    reporting.await.unwrap();

    assert_eq!(fixture.asked(Endpoint::Unknown), 1);
    assert!(!fixture.double.usage().is_empty());
}

#[tokio::test]
async fn whether_an_agent_may_read_a_project_is_asked_once() {
    let fixture = Fixture::start(usual()).await;
    let token = Token::new("agent-7");
    let may = async |token: &Token, path: &str| fixture.gitlab.may_read_project(token, path).await;

    for _ in 0..2 {
        assert_eq!(may(&token, "other/config").await, Ok(true));
        assert_eq!(may(&token, "group/app").await, Ok(true));
        assert_eq!(may(&token, "group/secret").await, Ok(false));
        assert_eq!(may(&Token::new("nobody"), "group/app").await, Ok(false));
    }

    assert_eq!(fixture.asked(Endpoint::VerifyProjectAccess), 4);
    fixture.fails(FaultKind::Status(502));
    assert_eq!(may(&token, "group/app").await, Ok(true), "it is remembered");
    let unknown = may(&token, "group/new").await;
    assert!(
        matches!(unknown, Err(AuthError::Unavailable(_))),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn agents_that_wait_to_be_dialled_are_listed_where_gitlab_has_such() {
    let fixture = Fixture::start(FORGETFUL).await;
    let listed = async || fixture.gitlab.client().receptive_agents().await;

    assert!(listed().await.unwrap().is_empty(), "an old GitLab has none");
    fixture.double.change(|it| it.paths = Paths::New);
    let agents = listed().await.unwrap();
    fixture.fails(FaultKind::Garbage);

    assert_eq!(agents[0].id, AgentId(7));
    assert!(listed().await.is_err());
}

#[tokio::test]
async fn agents_that_are_to_be_dialled_are_followed_and_stay_while_gitlab_is_away() {
    let fixture = Fixture::start(FORGETFUL).await;
    fixture.double.change(|it| it.paths = Paths::New);
    let mut listed = fixture.gitlab.receptive_agents();
    let stop = CancellationToken::new();
    let following = fixture
        .gitlab
        .clone()
        .follow_receptive_agents(Duration::from_millis(20), stop.clone());
    let following = tokio::spawn(following);

    let one = listed.wait_for(|agents| agents.len() == 1);
    let one = tokio::time::timeout(Duration::from_secs(60), one).await;
    assert_eq!(one.unwrap().unwrap()[0].id, AgentId(7));
    fixture.fails(FaultKind::Garbage);
    let asked = fixture.asked(Endpoint::ReceptiveAgents);
    let more = async {
        while fixture.asked(Endpoint::ReceptiveAgents) < asked + 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), more)
        .await
        .unwrap();

    assert_eq!(listed.borrow().len(), 1);
    stop.cancel();
    following.await.unwrap();
}

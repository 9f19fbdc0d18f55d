//! GitLab slow, down, or failing.

use std::time::Duration;

use control_plane::{AuthError, CachePolicy, ControlPlane, DenyReason, Token};
use futures_util::future::join_all;
use tests::gitlab_double::{Endpoint, Fault, FaultKind};

use crate::fixture::{FORGETFUL, Fixture, ci, pat, usual};

/// Answers end quickly, and count on for as long as `grace`.
fn short(grace: Duration) -> CachePolicy {
    CachePolicy {
        ttl: Duration::from_secs(1),
        error_ttl: Duration::from_secs(1),
        grace,
        ..CachePolicy::default()
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn what_fails_for_a_moment_is_repeated() {
    let fixture = Fixture::start(FORGETFUL).await;
    let token = Token::new("agent-5-a");
    for kind in [FaultKind::Status(502), FaultKind::Down] {
        let twice = Fault::at(Endpoint::AgentInfo, kind, Some(2));
        fixture.double.change(|it| it.faults = vec![twice]);

        fixture.gitlab.agent_by_token(&token).await.unwrap();
    }

    let counters = fixture.double.counters();
    assert_eq!(counters.with(Endpoint::AgentInfo, 502), 2);
    assert_eq!(counters.with(Endpoint::AgentInfo, 200), 2);
}

#[tokio::test]
async fn a_refusal_is_not_repeated() {
    let fixture = Fixture::start(FORGETFUL).await;

    for status in [400, 401, 403, 429, 501] {
        fixture.fails(FaultKind::Status(status));
        let endpoint = Endpoint::AllowedAgents;
        let before = fixture.asked(endpoint);
        fixture.authorize(&ci("job-100"), 5).await.unwrap_err();
        assert_eq!(fixture.asked(endpoint) - before, 1, "{status}");
        tokio::time::sleep(if status == 429 {
            SECOND
        } else {
            Duration::ZERO
        })
        .await;
    }
}

#[tokio::test]
async fn a_gitlab_that_keeps_failing_is_left_alone_and_tried_again() {
    let fixture = Fixture::start(FORGETFUL).await;
    fixture.fails(FaultKind::Status(503));
    let ask = async || fixture.authorize(&pat("pat-alice"), 5).await;

    for _ in 0..50 {
        ask().await.unwrap_err();
    }
    let away = ask().await.unwrap_err().to_string();
    let asked = fixture.asked(Endpoint::AuthorizeProxyUser);
    fixture.recovers();
    let again = tests::wait::until("GitLab to be tried again", 30 * SECOND, async || {
        ask().await.ok()
    });
    again.await.unwrap();

    assert!(
        away.contains("GitLab has not answered for")
            && away.contains("last: HTTP status code: 503"),
        "{away}"
    );
    assert!(asked < 15, "{asked} requests");
    // Other calls were never held back.
    fixture.authorize(&ci("job-100"), 5).await.unwrap();
}

#[tokio::test]
async fn many_who_ask_the_same_cost_one_question() {
    let fixture = Fixture::start(usual()).await;
    let slow = Fault::everywhere(FaultKind::Slow(200));
    fixture.double.change(|it| it.faults = vec![slow]);
    let (job, user, token) = (ci("job-100"), pat("pat-alice"), Token::new("agent-5-a"));

    let jobs = join_all((0..100).map(|at| fixture.authorize(&job, 5 + at % 2)));
    let users = join_all((0..100).map(|_| fixture.authorize(&user, 5)));
    let agents = join_all((0..100).map(|_| fixture.gitlab.agent_by_token(&token)));
    let (jobs, users, agents) = tokio::join!(jobs, users, agents);

    assert!(jobs.iter().all(Result::is_ok) && users.iter().all(Result::is_ok));
    assert!(agents.iter().all(Result::is_ok));
    for endpoint in [
        Endpoint::AllowedAgents,
        Endpoint::AuthorizeProxyUser,
        Endpoint::AgentInfo,
    ] {
        assert_eq!(fixture.asked(endpoint), 1, "{endpoint:?}");
    }
}

#[tokio::test]
async fn within_the_grace_known_callers_and_agents_keep_working_and_others_do_not() {
    let fixture = Fixture::start(short(600 * SECOND)).await;
    let (user, token) = (pat("pat-alice"), Token::new("agent-5-a"));
    let agent = fixture.gitlab.agent_by_token(&token).await.unwrap();
    let granted = fixture.authorize(&user, 5).await.unwrap();
    let refused = fixture.authorize(&pat("pat-bob"), 5).await.unwrap_err();
    tokio::time::sleep(2 * SECOND).await;

    for kind in [
        FaultKind::Down,
        FaultKind::Status(500),
        FaultKind::Html,
        FaultKind::Hang,
    ] {
        fixture.fails(kind.clone());

        assert_eq!(
            fixture.authorize(&user, 5).await.as_ref(),
            Ok(&granted),
            "{kind:?}"
        );
        assert_eq!(
            fixture.gitlab.agent_by_token(&token).await.as_ref(),
            Ok(&agent),
            "{kind:?}"
        );
    }
    fixture.fails(FaultKind::Down);
    let stranger = fixture.authorize(&pat("pat-stranger"), 5).await;
    let other_agent = fixture.authorize(&user, 6).await;
    let still_refused = fixture.authorize(&pat("pat-bob"), 5).await;

    assert!(!refused.is_retryable());
    for answer in [stranger, other_agent, still_refused] {
        assert!(
            matches!(answer, Err(DenyReason::Unavailable(_))),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn after_the_grace_everybody_is_refused_with_the_true_reason() {
    let fixture = Fixture::start(short(SECOND)).await;
    let (user, job, token) = (pat("pat-alice"), ci("job-100"), Token::new("agent-5-a"));
    fixture.authorize(&user, 5).await.unwrap();
    fixture.authorize(&job, 5).await.unwrap();
    fixture.gitlab.agent_by_token(&token).await.unwrap();

    fixture.fails(FaultKind::Down);
    tokio::time::sleep(3 * SECOND).await;
    let user = fixture.authorize(&user, 5).await.unwrap_err().to_string();
    let job = fixture.authorize(&job, 5).await.unwrap_err().to_string();
    let agent = fixture.gitlab.agent_by_token(&token).await.unwrap_err();

    assert_eq!(
        user,
        "the control plane cannot be asked: Failed to authorize user session: GitLab cannot be reached"
    );
    assert_eq!(
        job,
        "the control plane cannot be asked: Failed to get allowed agents for CI job token: GitLab cannot be reached"
    );
    assert_eq!(
        agent,
        AuthError::Unavailable("GitLab cannot be reached".into())
    );
}

#[tokio::test]
async fn a_refusal_counts_in_the_grace_too() {
    let fixture = Fixture::start(short(600 * SECOND)).await;
    let user = pat("pat-alice");
    fixture.authorize(&user, 5).await.unwrap();
    tokio::time::sleep(2 * SECOND).await;

    fixture.double.change(|it| it.users[0].agents.clear());

    let refused = fixture.authorize(&user, 5).await.unwrap_err();
    assert!(!refused.is_retryable(), "{refused}");
    fixture.fails(FaultKind::Down);
    assert!(
        fixture.authorize(&user, 5).await.is_err(),
        "what was granted before is forgotten"
    );
}

#[tokio::test]
async fn who_is_refused_is_asked_about_again_soon() {
    let fixture = Fixture::start(short(Duration::ZERO)).await;
    let bob = pat("pat-bob");
    for _ in 0..5 {
        fixture.authorize(&bob, 5).await.unwrap_err();
    }
    assert_eq!(fixture.asked(Endpoint::AuthorizeProxyUser), 1);

    fixture
        .double
        .change(|it| it.users[1].agents = it.users[0].agents.clone());

    let granted = async || fixture.authorize(&bob, 5).await.ok();
    tests::wait::until("the new right", 30 * SECOND, granted)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_reason_comes_before_the_patience_of_those_who_wait_ends() {
    let fixture = Fixture::start(FORGETFUL).await;
    fixture.fails(FaultKind::Hang);

    let answer = tokio::time::timeout(10 * SECOND, fixture.authorize(&pat("pat-alice"), 5)).await;

    let why = answer
        .expect("an answer within 10 s")
        .unwrap_err()
        .to_string();
    assert!(why.contains("GitLab gave no answer within"), "{why}");
}

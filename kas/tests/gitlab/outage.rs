//! GitLab slow, down, or failing.

use std::time::Duration;

use control_plane::{AuthError, CachePolicy, ControlPlane, DenyReason, Token};
use futures_util::future::join_all;
use runtime::connect::ProxySetting;
use tests::{
    gitlab_double::{Endpoint, Fault, FaultKind, GitLabDouble, Scenario},
    ports,
};

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

    // While the outage is young they wait for its end, and then hear of it at once.
    for _ in 0..50 {
        ask().await.unwrap_err();
    }
    let away = ask().await.unwrap_err().to_string();
    let asked = fixture.asked(Endpoint::AuthorizeProxyUser);
    fixture.recovers();
    let again = tests::wait::until("GitLab to be tried again", 60 * SECOND, async || {
        ask().await.ok()
    });
    again.await.unwrap();

    assert!(
        away.contains("GitLab has not answered for")
            && away.contains("last: HTTP status code: 503"),
        "{away}"
    );
    assert!(asked < 60, "{asked} requests");
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
    let (stranger, bob) = (pat("pat-stranger"), pat("pat-bob"));
    let (stranger, other_agent, still_refused) = tokio::join!(
        fixture.authorize(&stranger, 5),
        fixture.authorize(&user, 6),
        fixture.authorize(&bob, 5),
    );

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
    let (user, job, agent) = tokio::join!(
        fixture.authorize(&user, 5),
        fixture.authorize(&job, 5),
        fixture.gitlab.agent_by_token(&token),
    );
    let (user, job) = (user.unwrap_err().to_string(), job.unwrap_err().to_string());
    let agent = agent.unwrap_err();

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
    tests::wait::until("the new right", 60 * SECOND, granted)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_reason_comes_before_the_patience_of_those_who_wait_ends() {
    let fixture = Fixture::start(FORGETFUL).await;
    fixture.fails(FaultKind::Hang);

    // As long as the users' port and agents wait.
    let answer = tokio::time::timeout(25 * SECOND, fixture.authorize(&pat("pat-alice"), 5)).await;

    let why = answer
        .expect("an answer within 25 s")
        .unwrap_err()
        .to_string();
    assert!(why.contains("GitLab gave no answer within"), "{why}");
}

/// A GitLab that knows so many jobs, each of which may use agent 5.
fn with_jobs(count: usize) -> Scenario {
    let mut scenario = Scenario::sample();
    let job = scenario.jobs[0].clone();
    scenario.jobs = (0..count)
        .map(|number| tests::gitlab_double::Job {
            token: format!("job-of-many-{number}"),
            ..job.clone()
        })
        .collect();
    scenario
}

fn of_many(number: usize) -> control_plane::Credentials {
    ci(&format!("job-of-many-{number}"))
}

#[tokio::test]
async fn one_caller_who_is_throttled_shuts_nobody_else_out() {
    let fixture = Fixture::start(FORGETFUL).await;
    fixture.double.change(|it| it.jobs = with_jobs(27).jobs);
    let kinds = [FaultKind::Busy(60), FaultKind::Status(500)];
    for (number, kind) in kinds.into_iter().enumerate() {
        let throttled = Fault::at(Endpoint::AllowedAgents, kind, Some(1));
        let one = of_many(number);
        fixture.double.change(|it| it.faults = vec![throttled]);
        let asked = fixture.asked(Endpoint::AllowedAgents);
        let first = tokio::spawn({
            let gitlab = fixture.gitlab.clone();
            async move { gitlab.authorize(&one, router::AgentId(5)).await }
        });
        let met = async || (fixture.asked(Endpoint::AllowedAgents) > asked).then_some(());
        tests::wait::until("the one to be throttled", 60 * SECOND, met)
            .await
            .unwrap();

        let others: Vec<_> = (2..27).map(of_many).collect();
        let served = join_all(others.iter().map(|it| fixture.authorize(it, 5))).await;

        let refused: Vec<_> = served.iter().filter_map(|it| it.as_ref().err()).collect();
        assert!(refused.is_empty(), "{refused:?}");
        // Where it is not told to wait for long it is repeated, and served.
        drop(first.await.unwrap());
    }
}

/// Callers, four in a second, while GitLab is away for the first three: each that got no answer in time.
async fn lost(fixture: &Fixture, patience: Duration, count: usize) -> Vec<String> {
    let callers = (0..count).map(|number| async move {
        tokio::time::sleep(SECOND / 4 * u32::try_from(number).unwrap()).await;
        let who = of_many(number);
        let answer = tokio::time::timeout(patience, fixture.authorize(&who, 5)).await;
        match answer {
            Ok(Ok(_)) => None,
            Ok(Err(why)) => Some(format!("{number}: {why}")),
            Err(_) => Some(format!("{number}: no answer in time")),
        }
    });
    join_all(callers).await.into_iter().flatten().collect()
}

#[tokio::test]
async fn a_gitlab_that_is_away_for_three_seconds_costs_no_caller_who_waits_five() {
    const CALLERS: usize = 46;
    let (failing, gone) = (
        Fixture::start(FORGETFUL).await,
        Fixture::start(FORGETFUL).await,
    );
    let outages = [(&failing, FaultKind::Status(502)), (&gone, FaultKind::Down)];
    let outages = outages.map(|(fixture, kind)| async move {
        fixture.double.change(|it| *it = with_jobs(CALLERS));
        fixture.fails(kind);
        let back = async {
            tokio::time::sleep(3 * SECOND).await;
            fixture.recovers();
        };
        tokio::join!(lost(fixture, 5 * SECOND, CALLERS), back).0
    });
    let (port, double) = (ports::free(), GitLabDouble::start(with_jobs(1)).await);
    let unplugged = Fixture::with(
        double.unwrap(),
        FORGETFUL,
        |it| it.address.0 = format!("http://127.0.0.1:{port}"),
        ProxySetting::None,
    );
    let plugged_in = async {
        tokio::time::sleep(3 * SECOND).await;
        let address = format!("127.0.0.1:{port}");
        GitLabDouble::listen(with_jobs(CALLERS), &address, None).await
    };

    let (others, (refused, double)) = tokio::join!(join_all(outages), async {
        tokio::join!(lost(&unplugged, 5 * SECOND, CALLERS), plugged_in)
    },);

    drop(double.unwrap());
    assert_eq!(refused, [""; 0], "connections were refused");
    assert_eq!(others, [[""; 0]; 2], "502, and connections that end");
}

#[tokio::test]
async fn a_gitlab_that_answers_after_twelve_seconds_costs_no_caller() {
    const CALLERS: usize = 47;
    let fixture = Fixture::start(FORGETFUL).await;
    fixture.double.change(|it| {
        *it = with_jobs(CALLERS);
        it.faults = vec![Fault::everywhere(FaultKind::Slow(12_000))];
    });

    let lost = lost(&fixture, 25 * SECOND, CALLERS).await;

    assert_eq!(lost, [""; 0]);
}

#[tokio::test]
async fn a_refusal_of_a_proxy_in_front_of_gitlab_is_not_remembered() {
    let fixture = Fixture::start(usual()).await;
    let (job, user, token) = (ci("job-100"), pat("pat-alice"), Token::new("agent-5-a"));
    fixture.fails(FaultKind::Page(401));

    let (to_job, to_user, to_agent) = tokio::join!(
        fixture.authorize(&job, 5),
        fixture.authorize(&user, 5),
        fixture.gitlab.agent_by_token(&token),
    );
    fixture.recovers();

    for refusal in [to_job.unwrap_err(), to_user.unwrap_err()] {
        assert!(matches!(refusal, DenyReason::Unavailable(_)), "{refusal}");
    }
    let refusal = to_agent.unwrap_err();
    assert!(matches!(refusal, AuthError::Unavailable(_)), "{refusal}");
    fixture.authorize(&job, 5).await.unwrap();
    fixture.authorize(&user, 5).await.unwrap();
    fixture.gitlab.agent_by_token(&token).await.unwrap();
}

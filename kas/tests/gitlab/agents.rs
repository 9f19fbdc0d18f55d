//! `agent_info` and `agent_configuration`.

use std::time::Duration;

use control_plane::{AuthError, CachePolicy, ControlPlane, Token, gitlab::CallError};
use router::AgentId;
use serde_json::json;
use tests::gitlab_double::{Endpoint, FaultKind, Scenario};
use tokio_util::sync::CancellationToken;

use crate::fixture::{FORGETFUL, Fixture, usual};

#[tokio::test]
async fn a_token_is_its_agents() {
    let fixture = Fixture::start(FORGETFUL).await;

    let agent = fixture
        .gitlab
        .agent_by_token(&Token::new("agent-5-b"))
        .await
        .unwrap();

    assert_eq!((agent.id, agent.name.as_str()), (AgentId(5), "production"));
    assert_eq!(
        (agent.project_id, agent.project_path.as_str()),
        (3, "group/config")
    );
    assert_eq!(fixture.gitlab.agent(AgentId(5)).await, Some(agent));
    assert_eq!(fixture.double.counters().with(Endpoint::AgentInfo, 200), 1);
}

#[tokio::test]
async fn each_refusal_of_an_agent_has_its_name() {
    let fixture = Fixture::start(FORGETFUL).await;
    let ask = async |token: &str| {
        fixture
            .gitlab
            .agent_by_token(&Token::new(token))
            .await
            .unwrap_err()
    };

    assert_eq!(ask("nobody").await, AuthError::UnknownToken);
    fixture.fails(FaultKind::Status(403));
    assert_eq!(ask("agent-5-a").await, AuthError::Forbidden);
    fixture.fails(FaultKind::Status(404));
    assert_eq!(ask("agent-5-a").await, AuthError::NoAgent);
    for (kind, words) in [
        (FaultKind::Status(418), "HTTP status code: 418"),
        (FaultKind::Status(302), "HTTP status code: 302"),
        (FaultKind::Busy(60), "HTTP status code: 429"),
    ] {
        fixture.fails(kind.clone());
        let error = ask("agent-5-a").await;
        assert!(
            matches!(&error, AuthError::Unavailable(why) if why.contains(words)),
            "{kind:?}: {error}"
        );
    }
}

#[tokio::test]
async fn garbage_is_no_answer() {
    for (kind, words) in [
        (FaultKind::Garbage, "cannot be used: EOF"),
        (
            FaultKind::Html,
            "expected application/json, but got \"text/html\"",
        ),
        (FaultKind::Flood, "longer than"),
    ] {
        let fixture = Fixture::start(FORGETFUL).await;
        fixture.fails(kind);

        let error = fixture
            .gitlab
            .agent_by_token(&Token::new("agent-5-a"))
            .await
            .unwrap_err();

        assert!(
            matches!(&error, AuthError::Unavailable(why) if why.contains(words)),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_renamed_path_is_found_and_kept() {
    let fixture = Fixture::start(FORGETFUL).await;
    fixture.double.change(|it| {
        *it = Scenario {
            paths: tests::gitlab_double::Paths::New,
            ..it.clone()
        }
    });
    let good = Token::new("agent-5-a");

    for _ in 0..3 {
        fixture.gitlab.agent_by_token(&good).await.unwrap();
    }
    let refused = fixture.gitlab.agent_by_token(&Token::new("nobody")).await;

    assert_eq!(refused, Err(AuthError::UnknownToken));
    assert_eq!(fixture.asked(Endpoint::NewAgentInfo), 4);
    assert_eq!(
        fixture.asked(Endpoint::Unknown),
        1,
        "the old path is tried once"
    );
}

#[tokio::test]
async fn another_secret_and_another_clock_are_not_taken_for_a_bad_token() {
    let fixture = Fixture::start(usual()).await;
    let token = Token::new("agent-5-a");
    let why = |error: AuthError| match error {
        AuthError::Unavailable(why) => why,
        other => panic!("{other:?}"),
    };

    fixture
        .double
        .change(|it| it.secret_seed = "another".into());
    let secret = why(fixture.gitlab.agent_by_token(&token).await.unwrap_err());
    fixture.double.change(|it| it.clock_ahead = 300);
    let clock = why(fixture.gitlab.agent_by_token(&token).await.unwrap_err());
    fixture.double.change(|it| *it = Scenario::sample());

    assert!(
        secret.contains("KAS JWT authentication invalid; is gitlab.authentication_secret_file"),
        "{secret}"
    );
    assert!(
        clock.contains("clocks of GitLab and this server are") && clock.contains("s apart"),
        "{clock}"
    );
    fixture.gitlab.agent_by_token(&token).await.unwrap();
}

#[tokio::test]
async fn an_agents_file_is_told_to_gitlab() {
    let fixture = Fixture::start(FORGETFUL).await;
    let client = fixture.gitlab.client();
    let file = json!({"ci_access": {"projects": [{"id": "group/app"}]}});

    client
        .post_agent_configuration(AgentId(5), &file)
        .await
        .unwrap();
    let gone = client
        .post_agent_configuration(AgentId(99), &json!({}))
        .await;

    assert_eq!(fixture.double.configurations(), [(5, file)]);
    assert!(
        matches!(gone, Err(CallError::Status { status: 404, .. })),
        "{gone:?}"
    );
}

#[tokio::test]
async fn an_idle_agent_whose_token_is_revoked_is_noticed() {
    let soon = CachePolicy {
        ttl: Duration::from_secs(1),
        ..usual()
    };
    let fixture = Fixture::start(soon).await;
    let (good, bad) = (Token::new("agent-6"), Token::new("agent-5-a"));
    for token in [&good, &bad] {
        fixture.gitlab.agent_by_token(token).await.unwrap();
    }
    let staying = fixture.gitlab.configuration(AgentId(6), "").unwrap();
    let mut leaving = fixture.gitlab.configuration(AgentId(5), "").unwrap();
    let mut revision = fixture.gitlab.revision();
    let stop = CancellationToken::new();
    let following = tokio::spawn(fixture.gitlab.clone().recheck_tokens(stop.clone()));

    fixture.double.change(|it| it.agents[0].tokens.clear());
    let noticed = async {
        leaving.changed().await.expect_err("its stream ends");
        revision.changed().await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(60), noticed)
        .await
        .unwrap();

    assert!(staying.has_changed().is_ok());
    assert_eq!(
        fixture.gitlab.agent_by_token(&bad).await,
        Err(AuthError::UnknownToken)
    );
    fixture.gitlab.agent_by_token(&good).await.unwrap();
    stop.cancel();
    following.await.unwrap();
}

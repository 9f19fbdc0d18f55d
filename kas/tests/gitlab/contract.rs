//! Each call × each thing that GitLab may answer: what comes of it, with its reason.

use std::time::Duration;

use control_plane::{
    AuthError, DenyReason, RefusedKind, Token,
    usage::{AccessKind, Usage},
};
use futures_util::{FutureExt, future::BoxFuture};
use router::AgentId;
use serde_json::json;
use tests::gitlab_double::FaultKind;

use crate::fixture::{FORGETFUL, Fixture, ci, pat, session};

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It was taken for good.
    Good,
    /// A clear no.
    No,
    /// The credentials are no good.
    Unauthenticated,
    /// They are, and may not.
    Forbidden,
    /// There is nothing of that name.
    NotFound,
    /// Nobody can say; the text says why.
    Unknown,
}

use Outcome::{Forbidden, Good, No, NotFound, Unauthenticated, Unknown};

type Made = (Outcome, String);
type Call = fn(&Fixture) -> BoxFuture<'_, Made>;

/// The calls, and what they make of 400, 401, 403, 404 and of a 200 that is no JSON.
const CALLS: [(&str, Call, [Outcome; 5]); 8] = [
    (
        "agent_info",
        agent_info,
        [Unknown, Unauthenticated, Forbidden, NotFound, Unknown],
    ),
    (
        "allowed_agents",
        |it| authorize(it, ci("job-100")),
        [Unknown, Unauthenticated, Forbidden, NotFound, Unknown],
    ),
    // Who may not use an agent must not learn whether it exists.
    (
        "authorize_proxy_user by token",
        |it| authorize(it, pat("pat-alice")),
        [
            Unauthenticated,
            Unauthenticated,
            Unauthenticated,
            Unauthenticated,
            Unknown,
        ],
    ),
    (
        "authorize_proxy_user by session",
        |it| authorize(it, session("session alice+1", "csrf-alice")),
        [
            Unauthenticated,
            Unauthenticated,
            Unauthenticated,
            Unauthenticated,
            Unknown,
        ],
    ),
    (
        "verify_project_access",
        verify_project_access,
        [Unknown, No, No, No, Good],
    ),
    (
        "agent_configuration",
        agent_configuration,
        [Unknown, Unknown, Unknown, Unknown, Good],
    ),
    (
        "usage_metrics",
        usage_metrics,
        [Unknown, Unknown, Unknown, Unknown, Good],
    ),
    // A GitLab that does not know the path has none.
    (
        "receptive_agents",
        receptive_agents,
        [Unknown, Unknown, Unknown, Good, Unknown],
    ),
];

fn agent_info(fixture: &Fixture) -> BoxFuture<'_, Made> {
    async {
        let token = Token::new("agent-5-a");
        let answer = fixture.gitlab.registered(&token).await;
        let outcome = match &answer {
            Ok(_) => Good,
            Err(AuthError::UnknownToken | AuthError::Expired { .. }) => Unauthenticated,
            Err(AuthError::Forbidden) => Forbidden,
            Err(AuthError::NoAgent) => NotFound,
            Err(AuthError::Unavailable(_) | AuthError::TooManyUnknownCredentials) => Unknown,
        };
        (outcome, words(answer))
    }
    .boxed()
}

fn authorize(fixture: &Fixture, who: control_plane::Credentials) -> BoxFuture<'_, Made> {
    async move {
        let answer = fixture.authorize(&who, 5).await;
        let outcome = match &answer {
            Ok(_) => Good,
            Err(DenyReason::Refused { kind, .. }) => match kind {
                RefusedKind::Unauthenticated => Unauthenticated,
                RefusedKind::Forbidden => Forbidden,
                RefusedKind::NotFound => NotFound,
            },
            Err(DenyReason::Unavailable(_) | DenyReason::TooManyUnknownCredentials) => Unknown,
            Err(other) => panic!("{other:?}"),
        };
        (outcome, words(answer))
    }
    .boxed()
}

fn verify_project_access(fixture: &Fixture) -> BoxFuture<'_, Made> {
    async {
        let token = Token::new("agent-7");
        let answer = fixture.gitlab.may_read_project(&token, "group/app").await;
        let outcome = match &answer {
            Ok(true) => Good,
            Ok(false) => No,
            Err(_) => Unknown,
        };
        (outcome, words(answer))
    }
    .boxed()
}

fn agent_configuration(fixture: &Fixture) -> BoxFuture<'_, Made> {
    async {
        let client = fixture.gitlab.client();
        told(
            client
                .post_agent_configuration(AgentId(5), &json!({}))
                .await,
        )
    }
    .boxed()
}

fn usage_metrics(fixture: &Fixture) -> BoxFuture<'_, Made> {
    async {
        let usage = Usage::default();
        usage.allowed(AccessKind::Ci, 11, AgentId(5), 3);
        told(fixture.gitlab.client().post_usage(&usage.report()).await)
    }
    .boxed()
}

fn receptive_agents(fixture: &Fixture) -> BoxFuture<'_, Made> {
    async { told(fixture.gitlab.client().receptive_agents().await) }.boxed()
}

fn told<T, E: std::fmt::Display>(answer: Result<T, E>) -> Made {
    let outcome = if answer.is_ok() { Good } else { Unknown };
    (outcome, words(answer))
}

fn words<T, E: std::fmt::Display>(answer: Result<T, E>) -> String {
    answer.err().map_or_else(String::new, |it| it.to_string())
}

/// A call of a new fixture, where GitLab answers all so.
async fn made(call: Call, kind: FaultKind) -> Made {
    let fixture = Fixture::start(FORGETFUL).await;
    fixture.fails(kind);
    call(&fixture).await
}

#[tokio::test]
async fn each_call_gives_each_refusal_its_meaning() {
    for (name, call, expected) in CALLS {
        for (status, expected) in [400, 401, 403, 404].into_iter().zip(expected) {
            let (outcome, words) = made(call, FaultKind::Status(status)).await;

            assert_eq!(outcome, expected, "{name} {status}: {words}");
            let explained = match expected {
                Unknown => words.contains(&format!("HTTP status code: {status}")),
                Unauthenticated | Forbidden | NotFound => !words.is_empty(),
                Good | No => true,
            };
            assert!(explained, "{name} {status}: {words}");
        }
    }
}

#[tokio::test]
async fn no_call_takes_a_failure_for_an_answer() {
    let failures = [
        (FaultKind::Status(500), "HTTP status code: 500"),
        (FaultKind::Status(501), "HTTP status code: 501"),
        (FaultKind::Status(502), "HTTP status code: 502"),
        (FaultKind::Status(503), "HTTP status code: 503"),
        (FaultKind::Status(302), "HTTP status code: 302"),
        (FaultKind::Page(401), "HTTP status code 401"),
        (FaultKind::Page(403), "HTTP status code 403"),
        (FaultKind::Page(404), "HTTP status code 404"),
        (FaultKind::Busy(1), "HTTP status code: 429"),
        (FaultKind::Down, "GitLab cannot be reached"),
    ];
    let calls = CALLS.into_iter().flat_map(|(name, call, _)| {
        let failures = failures.clone().into_iter();
        failures.map(move |(kind, reason)| async move {
            let (outcome, words) = made(call, kind.clone()).await;

            assert_eq!(outcome, Unknown, "{name} {kind:?}: {words}");
            assert!(words.contains(reason), "{name} {kind:?}: {words}");
        })
    });
    // Each is repeated for as long as callers wait for the end of an outage.
    futures_util::future::join_all(calls).await;
}

#[tokio::test]
async fn what_is_no_answer_is_told_from_one() {
    for (name, call, expected) in CALLS {
        for (kind, reason) in [
            (FaultKind::Garbage, "cannot be used"),
            (FaultKind::Html, "expected application/json"),
        ] {
            let (outcome, words) = made(call, kind.clone()).await;

            assert_eq!(outcome, expected[4], "{name} {kind:?}: {words}");
            assert!(
                outcome == Good || words.contains(reason),
                "{name} {kind:?}: {words}"
            );
        }
    }
}

#[tokio::test]
async fn no_call_waits_for_ever() {
    let calls = CALLS.map(|(name, call, _)| async move {
        let answer = tokio::time::timeout(Duration::from_secs(25), made(call, FaultKind::Hang));
        (name, answer.await)
    });

    for (name, answer) in futures_util::future::join_all(calls).await {
        let (outcome, words) = answer.unwrap_or_else(|_| panic!("{name} waits"));
        assert_eq!(outcome, Unknown, "{name}: {words}");
        assert!(words.contains("no answer within"), "{name}: {words}");
    }
}

#[tokio::test]
async fn a_wrong_secret_of_this_server_is_nobodys_refusal() {
    for (name, call, _) in CALLS {
        let fixture = Fixture::start(FORGETFUL).await;
        fixture
            .double
            .change(|it| it.secret_seed = "another".into());

        let (outcome, words) = call(&fixture).await;

        // This call carries the job's token only.
        let expected = if name == "allowed_agents" {
            Good
        } else {
            Unknown
        };
        let unknown_path = name == "receptive_agents" && outcome == Good;
        assert!(outcome == expected || unknown_path, "{name}: {words}");
        assert!(
            outcome == Good || words.contains("authentication_secret_file"),
            "{name}: {words}"
        );
    }
}

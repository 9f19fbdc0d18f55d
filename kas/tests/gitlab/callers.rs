//! Who may use which agent, and as whom: jobs, tokens, sessions.

use control_plane::{Access, Credentials, DenyReason, RefusedKind};
use proto::agent::kubernetes_api::rpc::ImpersonationConfig;
use tests::gitlab_double::{Endpoint, FaultKind};

use crate::fixture::{FORGETFUL, Fixture, ci, pat, session, usual};

/// What somebody gets for an agent.
enum Verdict {
    /// In, as the agent itself.
    Agent(&'static str),
    /// In, as somebody: username, groups, extra values.
    As(
        &'static str,
        &'static [&'static str],
        &'static [(&'static str, &'static str)],
    ),
    /// Out, and why.
    Refused(RefusedKind, &'static str),
    /// Nobody can say.
    Unavailable(&'static str),
}

use RefusedKind::{Forbidden, Unauthenticated};
use Verdict::{Agent, As, Refused, Unavailable};

const ALICE: &[&str] = &[
    "gitlab:user",
    "gitlab:project_role:8:guest",
    "gitlab:project_role:8:developer",
    "gitlab:group_role:2:maintainer",
];

/// Who × agent × `access_as`: every verdict with its name.
fn matrix() -> Vec<(&'static str, Credentials, i64, Verdict)> {
    let alice = || session("session alice+1", "csrf-alice");
    vec![
        (
            "a job as itself, with environment and groups in GitLab's order",
            ci("job-100"),
            5,
            As(
                "gitlab:ci_job:100",
                &[
                    "gitlab:ci_job",
                    "gitlab:group:2",
                    "gitlab:group_env_tier:2:production",
                    "gitlab:group:1",
                    "gitlab:group_env_tier:1:production",
                    "gitlab:project:8",
                    "gitlab:project_env:8:prod-eu",
                    "gitlab:project_env_tier:8:production",
                ],
                &[
                    ("agent.gitlab.com/id", "5"),
                    ("agent.gitlab.com/config_project_id", "3"),
                    ("agent.gitlab.com/project_id", "8"),
                    ("agent.gitlab.com/ci_pipeline_id", "90"),
                    ("agent.gitlab.com/ci_job_id", "100"),
                    ("agent.gitlab.com/username", "alice"),
                    ("agent.gitlab.com/environment_slug", "prod-eu"),
                    ("agent.gitlab.com/environment_tier", "production"),
                ],
            ),
        ),
        ("a job as the agent", ci("job-100"), 6, Agent("ci_job:100")),
        (
            "a job as itself, without environment or groups",
            ci("job-101"),
            5,
            As(
                "gitlab:ci_job:101",
                &["gitlab:ci_job", "gitlab:project:9"],
                &[
                    ("agent.gitlab.com/id", "5"),
                    ("agent.gitlab.com/config_project_id", "3"),
                    ("agent.gitlab.com/project_id", "9"),
                    ("agent.gitlab.com/ci_pipeline_id", "91"),
                    ("agent.gitlab.com/ci_job_id", "101"),
                    ("agent.gitlab.com/username", "bob"),
                ],
            ),
        ),
        (
            "a job where nothing is said",
            ci("job-101"),
            6,
            Agent("ci_job:101"),
        ),
        (
            "a job as somebody who is written down",
            ci("job-101"),
            7,
            As(
                "deployer",
                &["deployers", "ops"],
                &[("team", "a"), ("team", "b")],
            ),
        ),
        (
            "a job for an agent that is not its",
            ci("job-100"),
            7,
            Refused(Forbidden, "agentId is not allowed"),
        ),
        (
            "a job for an agent that is not",
            ci("job-100"),
            404,
            Refused(Forbidden, "agentId is not allowed"),
        ),
        (
            "a job that is over",
            ci("job-102"),
            5,
            Refused(
                Forbidden,
                "CI job token: HTTP status code: 403 for path /api/v4/job/allowed_agents \
                with reason 403 Forbidden - Job is not running",
            ),
        ),
        (
            "nobody's job token",
            ci("nobody"),
            5,
            Refused(
                Unauthenticated,
                "CI job token: HTTP status code: 401 for path /api/v4/job/allowed_agents \
                with reason 401 Unauthorized",
            ),
        ),
        (
            "a user's token as a job's",
            ci("pat-alice"),
            5,
            Refused(Unauthenticated, "CI job token: HTTP status code: 401"),
        ),
        (
            "a job whose rule is of another time",
            ci("job-103"),
            5,
            Unavailable("access_as of agent 5 has no key that is known"),
        ),
        (
            "a user as themselves, by token",
            pat("pat-alice"),
            5,
            As(
                "gitlab:user:alice",
                ALICE,
                &[
                    ("agent.gitlab.com/id", "5"),
                    ("agent.gitlab.com/username", "alice"),
                    ("agent.gitlab.com/access_type", "personal_access_token"),
                    ("agent.gitlab.com/config_project_id", "3"),
                ],
            ),
        ),
        (
            "a user as themselves, by session",
            alice(),
            5,
            As(
                "gitlab:user:alice",
                ALICE,
                &[
                    ("agent.gitlab.com/id", "5"),
                    ("agent.gitlab.com/username", "alice"),
                    ("agent.gitlab.com/access_type", "session_cookie"),
                    ("agent.gitlab.com/config_project_id", "3"),
                ],
            ),
        ),
        (
            "a user as the agent, by token",
            pat("pat-alice"),
            6,
            Agent("user:alice"),
        ),
        (
            "a user as the agent, by session",
            alice(),
            6,
            Agent("user:alice"),
        ),
        (
            "nobody's token",
            pat("nobody"),
            5,
            Refused(Unauthenticated, "GitLab says: 401 Unauthorized"),
        ),
        (
            "a job's token as a user's",
            pat("job-100"),
            5,
            Refused(Unauthenticated, "GitLab says: 401 Unauthorized"),
        ),
        (
            "a token for something else",
            pat("pat-alice-api"),
            5,
            Refused(
                Unauthenticated,
                "GitLab lets this user not use agent 5, or there is no such agent",
            ),
        ),
        (
            "a user without a role",
            pat("pat-bob"),
            5,
            Refused(
                Unauthenticated,
                "GitLab lets this user not use agent 5, or there is no such agent",
            ),
        ),
        (
            "a user for an agent that is not",
            pat("pat-bob"),
            404,
            Refused(
                Unauthenticated,
                "GitLab lets this user not use agent 404, or there is no such agent",
            ),
        ),
        (
            "an agent that is not for users",
            pat("pat-alice"),
            7,
            Refused(
                Unauthenticated,
                "GitLab says: 401 Unauthorized - Feature disabled for agent",
            ),
        ),
        (
            "a session without a role",
            session("session bob", "csrf-bob"),
            5,
            Refused(
                Unauthenticated,
                "GitLab lets this user not use agent 5, or there is no such agent",
            ),
        ),
        (
            "a session without its CSRF token",
            session("session alice+1", ""),
            5,
            Refused(
                Unauthenticated,
                "GitLab says: 401 Unauthorized - CSRF token does not match",
            ),
        ),
        (
            "a session with another's CSRF token",
            session("session alice+1", "csrf-bob"),
            5,
            Refused(
                Unauthenticated,
                "GitLab says: 401 Unauthorized - CSRF token does not match",
            ),
        ),
        (
            "a session that is over",
            session("session old", "csrf"),
            5,
            Refused(
                Unauthenticated,
                "GitLab says: 401 Unauthorized - Invalid session",
            ),
        ),
        (
            "a session that is signed out",
            session("session nobody", "csrf-nobody"),
            5,
            Refused(
                Unauthenticated,
                "GitLab says: 401 Unauthorized - Invalid user in session",
            ),
        ),
        (
            "a cookie that is none",
            session("scrambled", "csrf-alice"),
            5,
            Refused(
                Unauthenticated,
                "GitLab says: 400 Bad request - Invalid access_key",
            ),
        ),
    ]
}

fn check(name: &str, answer: &Result<Access, DenyReason>, agent: i64, verdict: &Verdict) {
    match (verdict, answer) {
        (Agent(who), Ok(access)) => {
            assert_eq!(access.agent.id.0, agent, "{name}");
            assert_eq!(access.identity.to_string(), *who, "{name}");
            assert_eq!(access.impersonation, None, "{name}");
        }
        (As(username, groups, extra), Ok(access)) => {
            assert_eq!(access.agent.id.0, agent, "{name}");
            let whom = access.impersonation.as_ref().expect(name);
            assert_eq!(whom.username, *username, "{name}");
            assert_eq!(whom.groups, *groups, "{name}");
            assert_eq!(flat(whom), *extra, "{name}");
        }
        (Refused(kind, part), Err(DenyReason::Refused { kind: got, words })) => {
            assert_eq!(got, kind, "{name}: {words}");
            assert!(words.starts_with(part), "{name}: {words}");
        }
        (Unavailable(part), Err(DenyReason::Unavailable(why))) => {
            assert!(why.contains(part), "{name}: {why}");
        }
        (_, answer) => panic!("{name}: {answer:?}"),
    }
}

fn flat(whom: &ImpersonationConfig) -> Vec<(&str, &str)> {
    let pairs = whom.extra.iter();
    pairs
        .flat_map(|extra| {
            extra
                .val
                .iter()
                .map(|val| (extra.key.as_str(), val.as_str()))
        })
        .collect()
}

#[tokio::test]
async fn who_may_use_which_agent_and_as_whom() {
    let fixture = Fixture::start(FORGETFUL).await;

    for (name, who, agent, verdict) in matrix() {
        check(name, &fixture.authorize(&who, agent).await, agent, &verdict);
    }
}

/// The same in any order with everything remembered: no answer is another's.
#[tokio::test]
async fn remembered_answers_are_those_that_were_given() {
    let fixture = Fixture::start(usual()).await;
    let rounds = matrix().into_iter().chain(matrix().into_iter().rev());

    for (name, who, agent, verdict) in rounds.chain(matrix()) {
        check(name, &fixture.authorize(&who, agent).await, agent, &verdict);
    }

    let jobs = ["job-100", "job-101", "job-102", "nobody", "pat-alice"].len() as u64;
    let never_remembered = 3;
    assert_eq!(
        fixture.asked(Endpoint::AllowedAgents),
        jobs + never_remembered
    );
}

#[tokio::test]
async fn nobody_is_let_in_when_gitlab_cannot_say() {
    let kinds = [
        (FaultKind::Status(500), "HTTP status code: 500"),
        (FaultKind::Status(502), "with reason 502 Bad Gateway"),
        (FaultKind::Status(400), "HTTP status code: 400"),
        (FaultKind::Busy(1), "HTTP status code: 429"),
        (FaultKind::Down, "GitLab cannot be reached"),
        (FaultKind::Garbage, "cannot be used"),
        (FaultKind::Html, "expected application/json"),
        (FaultKind::Page(401), "is a proxy in front of GitLab?"),
    ];
    let verdicts = kinds.map(|(kind, words)| async move {
        let fixture = Fixture::start(FORGETFUL).await;
        fixture.fails(kind.clone());

        let (job, user) = (ci("job-100"), pat("pat-alice"));
        let (job, user) = tokio::join!(fixture.authorize(&job, 5), fixture.authorize(&user, 5));

        let (job, user) = (job.unwrap_err(), user.unwrap_err());
        let job = job.to_string();
        assert!(
            job.contains("Failed to get allowed agents for CI job token: ") && job.contains(words),
            "{kind:?}: {job}"
        );
        let user = user.to_string();
        let refused = kind == FaultKind::Status(400);
        assert!(
            refused || user.contains("Failed to authorize user session: ") && user.contains(words),
            "{kind:?}: {user}"
        );
    });
    futures_util::future::join_all(verdicts).await;
}

/// Says what a remembered answer costs, as this build has it.
#[tokio::test]
async fn a_remembered_answer_asks_nobody() {
    const TIMES: u32 = 20_000;
    let fixture = Fixture::start(usual()).await;
    let (job, user) = (ci("job-100"), pat("pat-alice"));
    for who in [&job, &user] {
        fixture.authorize(who, 5).await.unwrap();
    }

    let began = tokio::time::Instant::now();
    for _ in 0..TIMES {
        fixture.authorize(&job, 5).await.unwrap();
        fixture.authorize(&user, 5).await.unwrap();
    }
    let each = began.elapsed() / (2 * TIMES);

    tests::parts::say(&format!("a remembered authorisation costs {each:?}"));
    assert_eq!(fixture.asked(Endpoint::AllowedAgents), 1);
    assert_eq!(fixture.asked(Endpoint::AuthorizeProxyUser), 1);
}

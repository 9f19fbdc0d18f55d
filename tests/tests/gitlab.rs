//! kas with GitLab as its control plane, as a process: agents and callers with
//! GitLab's tokens, refusals in GitLab's words, and a GitLab that goes away.

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{Method, Request, Response};
use rcgen::{KeyPair, PKCS_ED25519};
use serde_json::{Value, json};
use tests::{
    certs::Certs,
    gitlab_double::{Endpoint, Fault, FaultKind, Paths, Scenario},
    gitlab_rig::{GitLabRig, Times},
    http::send,
    ports, programs,
    wait::until,
};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
const USUAL: Times = Times {
    good: 300,
    refused: 1,
    agents_grace: 3600,
    callers_grace: 600,
};
/// Answers end at once, and graces soon.
const SHORT: Times = Times {
    good: 1,
    refused: 1,
    agents_grace: 600,
    callers_grace: 10,
};
const ORIGIN: &str = "https://gitlab.example.com";

fn message(answer: &Response<Bytes>) -> String {
    let status: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    status["message"].as_str().unwrap_or_default().to_owned()
}

fn value<'a>(seen: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    let same = seen.iter().filter(|(own, _)| own == name);
    same.map(|(_, value)| value.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_tokens_and_sessions_reach_the_cluster_as_whom_gitlab_says() -> Result<()> {
    let rig = GitLabRig::start(USUAL).await?;
    let _agent = rig
        .connected("production", "agent-5-a", "ci:5:job-100")
        .await?;
    let bearer = |value: &str| {
        rig.request("/echo")
            .header("authorization", format!("Bearer {value}"))
    };

    let job = rig.seen_as(bearer("ci:5:job-100")).await?;
    let user = rig.seen_as(bearer("pat:5:pat-alice")).await?;
    let session = rig
        .seen_as(
            rig.request("/echo")
                .header("cookie", "a=b; _gitlab_kas=session+alice%2B1")
                .header("gitlab-agent-id", "5")
                .header("x-csrf-token", "csrf-alice")
                .header("origin", ORIGIN),
        )
        .await?;
    let query = "/echo?gitlab-agent-id=5&gitlab-csrf-token=csrf-alice";
    let websocket = rig
        .seen_as(
            rig.request(query)
                .header("cookie", "_gitlab_kas=session%20alice%2B1"),
        )
        .await?;

    ensure!(
        value(&job, "impersonate-user") == ["gitlab:ci_job:100"],
        "{job:?}"
    );
    ensure!(
        value(&job, "impersonate-group").contains(&"gitlab:project_env:8:prod-eu"),
        "{job:?}"
    );
    for (seen, access) in [
        (&user, "personal_access_token"),
        (&session, "session_cookie"),
        (&websocket, "session_cookie"),
    ] {
        ensure!(
            value(seen, "impersonate-user") == ["gitlab:user:alice"],
            "{seen:?}"
        );
        let groups = value(seen, "impersonate-group");
        ensure!(
            groups.contains(&"gitlab:group_role:2:maintainer"),
            "{seen:?}"
        );
        ensure!(seen.iter().any(|(_, value)| value == access), "{seen:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_hears_why() -> Result<()> {
    let rig = GitLabRig::start(USUAL).await?;
    let _agent = rig
        .connected("production", "agent-5-a", "ci:5:job-100")
        .await?;

    for (bearer, code, words) in [
        (
            "ci:5:nobody",
            401,
            "CI job token: HTTP status code: 401 for path /api/v4/job/allowed_agents",
        ),
        (
            "ci:5:job-102",
            403,
            "with reason 403 Forbidden - Job is not running",
        ),
        ("ci:7:job-100", 403, "Forbidden: agentId is not allowed"),
        (
            "pat:5:nobody",
            401,
            "Unauthorized: GitLab says: 401 Unauthorized",
        ),
        (
            "pat:5:pat-bob",
            401,
            "GitLab lets this user not use agent 5, or there is no such agent",
        ),
        (
            "pat:99:pat-alice",
            401,
            "GitLab lets this user not use agent 99, or there is no such agent",
        ),
        ("pat:0:pat-alice", 404, "there is no agent with id 0"),
    ] {
        let answer = rig.get(bearer, "/version").await?;
        let text = message(&answer);
        ensure!(
            answer.status() == code && text.contains(words),
            "{bearer}: {answer:?}"
        );
        let marked = answer.headers().contains_key("gitlab-unauthorized");
        ensure!(marked == (code == 401), "{bearer}: {answer:?}");
    }
    let without = rig
        .request("/version")
        .header("cookie", "_gitlab_kas=session%20alice%2B1");
    let without = send(
        without
            .header("gitlab-agent-id", "5")
            .header("x-csrf-token", "")
            .body(Bytes::new())?,
    )
    .await?;
    ensure!(
        message(&without).contains("CSRF token does not match"),
        "{without:?}"
    );
    let log = rig.kas.output();
    for secret in ["job-102", "pat-bob", "agent-5-a", "alice+1", "csrf-alice"] {
        ensure!(!log.contains(secret), "{secret} is in the log");
    }
    Ok(())
}

/// As whom the cluster sees somebody, or the status of the refusal.
type Verdict = Result<Option<&'static str>, u16>;

/// Who uses which agent, and what comes of it.
const WHO: &[(&str, i64, Verdict)] = &[
    ("ci:job-100", 5, Ok(Some("gitlab:ci_job:100"))),
    ("ci:job-100", 6, Ok(None)),
    ("ci:job-101", 7, Ok(Some("deployer"))),
    ("pat:pat-alice", 5, Ok(Some("gitlab:user:alice"))),
    ("pat:pat-alice", 6, Ok(None)),
    ("ci:job-100", 7, Err(403)),
    ("ci:job-102", 5, Err(403)),
    ("ci:nobody", 5, Err(401)),
    ("pat:pat-bob", 5, Err(401)),
    ("pat:pat-alice", 7, Err(401)),
    ("pat:job-100", 5, Err(401)),
    ("ci:pat-alice", 5, Err(401)),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_verb_is_let_in_or_refused_alike() -> Result<()> {
    let rig = GitLabRig::start(USUAL).await?;
    let mut agents = Vec::new();
    for (name, token, bearer) in [
        ("production", "agent-5-a", "pat:5:pat-alice"),
        ("staging", "agent-6", "pat:6:pat-alice"),
        ("private", "agent-7", "ci:7:job-101"),
    ] {
        agents.push(rig.connected(name, token, bearer).await?);
    }

    for (who, agent, expected) in WHO {
        let (kind, token) = who.split_once(':').unwrap_or_default();
        for verb in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
            let request = rig
                .request("/echo")
                .method(verb)
                .header("authorization", format!("Bearer {kind}:{agent}:{token}"));
            let answer = send(request.body(Bytes::new())?).await?;
            let case = format!("{verb} of {who} on {agent}: {answer:?}");
            match expected {
                Err(code) => {
                    ensure!(answer.status() == *code, "{case}");
                    ensure!(verb == "HEAD" || !message(&answer).is_empty(), "{case}");
                }
                Ok(_) if verb == "HEAD" => ensure!(answer.status() == 200, "{case}"),
                Ok(whom) => {
                    let seen = rig.as_whom(&answer)?;
                    let user = value(&seen, "impersonate-user");
                    ensure!(user == whom.iter().copied().collect::<Vec<_>>(), "{case}");
                }
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_shows_a_token_instead_of_headers() -> Result<()> {
    let rig = GitLabRig::start(USUAL).await?;
    let _agent = rig
        .connected("production", "agent-5-a", "ci:5:job-100")
        .await?;
    let session = |csrf: &str| {
        rig.request("/echo?kas-websocket-token-request=true")
            .header("cookie", "_gitlab_kas=session%20alice%2B1")
            .header("gitlab-agent-id", "5")
            .header("x-csrf-token", csrf.to_owned())
            .header("origin", ORIGIN)
    };
    let websocket = |path: &str, token: &str| {
        let protocols = format!("v4.channel.k8s.io, websocket-token.kas.gitlab.com.{token}");
        rig.request(path)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("cookie", "_gitlab_kas=session%20alice%2B1")
            .header("origin", ORIGIN)
            .header("sec-websocket-protocol", protocols)
    };

    let refused = send(session("").body(Bytes::new())?).await?;
    let given = send(session("csrf-alice").body(Bytes::new())?).await?;
    let answer: Value = serde_json::from_slice(given.body())?;
    let token = answer["token"].as_str().unwrap_or_default();
    let opened = send(websocket("/echo", token).body(Bytes::new())?).await?;
    let again = send(websocket("/echo", token).body(Bytes::new())?).await?;
    let elsewhere = send(websocket("/echo/secrets", token).body(Bytes::new())?).await?;
    let otherwise = send(websocket("/echo?a=b", token).body(Bytes::new())?).await?;
    let forged = send(websocket("/echo", "a.b.c").body(Bytes::new())?).await?;

    ensure!(refused.status() == 401, "{refused:?}");
    ensure!(given.status() == 200 && !token.is_empty(), "{given:?}");
    ensure!(given.headers()["cache-control"] == "no-store", "{given:?}");
    ensure!(
        given.headers()["access-control-allow-origin"] == ORIGIN,
        "{given:?}"
    );
    let seen = rig.as_whom(&opened)?;
    ensure!(
        value(&seen, "impersonate-user") == ["gitlab:user:alice"],
        "{opened:?}"
    );
    let body = String::from_utf8_lossy(opened.body());
    ensure!(
        body.contains("v4.channel.k8s.io") && !body.contains("websocket-token"),
        "{body}"
    );
    for (answer, words) in [
        (again, "used already"),
        (elsewhere, "another path"),
        (otherwise, "another path, query"),
        (forged, "JWT validation failed"),
    ] {
        ensure!(
            answer.status() == 401 && message(&answer).contains(words),
            "{answer:?}"
        );
    }
    ensure!(!rig.kas.output().contains(token), "the token is in the log");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_gitlabs_own_pages_may_call_from_a_browser() -> Result<()> {
    let rig = GitLabRig::start(USUAL).await?;
    let preflight = |origin: &str| {
        let request = Request::builder()
            .method(Method::OPTIONS)
            .header("origin", origin);
        let request = request.header(
            "access-control-request-headers",
            "x-csrf-token,gitlab-agent-id",
        );
        request
            .uri(format!("http://127.0.0.1:{}/k8s-proxy/api", rig.users))
            .body(Bytes::new())
    };

    let own = send(preflight(ORIGIN)?).await?;
    let other = send(preflight("https://evil.example.com")?).await?;
    let refused = send(
        rig.request("/api")
            .header("origin", ORIGIN)
            .body(Bytes::new())?,
    )
    .await?;

    ensure!(
        own.status() == 200 && own.headers()["access-control-allow-origin"] == ORIGIN,
        "{own:?}"
    );
    ensure!(
        own.headers()["access-control-allow-headers"] == "x-csrf-token,gitlab-agent-id",
        "{own:?}"
    );
    ensure!(
        other.status() == 403
            && String::from_utf8_lossy(other.body()).contains("allowed_origins")
            && !other.headers().contains_key("access-control-allow-origin"),
        "{other:?}"
    );
    ensure!(refused.status() == 401, "{refused:?}");
    ensure!(
        refused.headers()["access-control-allow-credentials"] == "true",
        "{refused:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_refused_as_upstream_does_and_a_revoked_one_is_cut() -> Result<()> {
    let rig = GitLabRig::start(SHORT).await?;
    let mut stranger = rig.agentk("stranger", "nobody")?;
    stranger.process.wait_for("nauthenticated", SOON).await?;
    let mut agent = rig
        .connected("production", "agent-5-a", "pat:5:pat-alice")
        .await?;

    rig.double.change(|it| it.agents[0].tokens.clear());

    agent.process.wait_for("nauthenticated", SOON).await?;
    ensure!(
        rig.kas.output().contains("GitLab rejected an agent token"),
        "{}",
        rig.kas.tail()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_gitlab_those_who_are_known_keep_working_for_their_grace() -> Result<()> {
    let rig = GitLabRig::start(SHORT).await?;
    let agent = rig
        .connected("production", "agent-5-a", "pat:5:pat-alice")
        .await?;
    let ask = async || rig.get("pat:5:pat-alice", "/version").await;
    ensure!(ask().await?.status() == 200, "before");

    rig.double
        .change(|it| it.faults = vec![Fault::everywhere(FaultKind::Down)]);
    let known = ask().await?;
    let stranger = rig.get("pat:5:pat-bob", "/version").await?;
    let over = async || ask().await.ok().filter(|it| it.status() != 200);
    let refused = until("the end of the grace", SOON, over).await?;
    rig.double.change(|it| it.faults.clear());
    let back = async || ask().await.ok().filter(|it| it.status() == 200);
    until("GitLab to be asked again", SOON, back).await?;

    ensure!(known.status() == 200, "{known:?}");
    for answer in [&stranger, &refused] {
        ensure!(answer.status() == 503, "{answer:?}");
        ensure!(answer.headers().contains_key("retry-after"), "{answer:?}");
        ensure!(message(answer).contains("GitLab "), "{answer:?}");
    }
    ensure!(
        !agent.process.output().contains("nauthenticated"),
        "{}",
        agent.process.tail()
    );
    let counted = rig.metrics().await?;
    for sample in [
        r#"gitlab_requests_total{call="agent_info",outcome="Ok"}"#,
        r#"gitlab_requests_total{call="authorize_proxy_user",outcome="Failed"}"#,
    ] {
        ensure!(counted.contains(sample), "{sample}\n{counted}");
    }
    ensure!(
        rig.double.counters().of(Endpoint::AgentInfo) > 0,
        "it was asked"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_graces_agents_and_callers_hear_that_gitlab_is_away() -> Result<()> {
    let rig = GitLabRig::start(Times {
        agents_grace: 5,
        callers_grace: 3,
        ..SHORT
    })
    .await?;
    let agent = rig
        .connected("production", "agent-5-a", "pat:5:pat-alice")
        .await?;
    let ask = async || rig.get("pat:5:pat-alice", "/version").await;

    rig.double
        .change(|it| it.faults = vec![Fault::everywhere(FaultKind::Down)]);
    let over = async || ask().await.ok().filter(|it| it.status() == 503);
    let caller = until("the end of the callers' grace", SOON, over).await?;
    // A known token, on a connection of its own. One that came too early stays in; a busy machine needs longer to start one.
    let tries = AtomicU32::new(0);
    let refused = async || {
        let name = "late";
        let mut late = rig.agentk(name, "agent-5-a").ok()?;
        let limit = 3 * SECOND * (1 + tries.fetch_add(1, Ordering::Relaxed));
        late.process.wait_for("navailable", limit).await.ok()
    };
    until("the end of the agents' grace", 2 * SOON, refused).await?;
    rig.double.change(|it| it.faults.clear());
    let back = async || ask().await.ok().filter(|it| it.status() == 200);
    until("GitLab to be asked again", SOON, back).await?;

    ensure!(message(&caller).contains("GitLab "), "{caller:?}");
    let log = agent.process.output();
    ensure!(!log.contains("nauthenticated"), "{log}");
    Ok(())
}

/// A key pair as GitLab has it: the private key for kas, and the public one for the agent.
fn agents_keys() -> Result<(String, String)> {
    let keys = KeyPair::generate_for(&PKCS_ED25519)?;
    // Ahead of it PKCS #8 says which kind of key it is.
    let private = &keys.serialize_der()[16..48];
    let encode = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    Ok((encode(private), encode(keys.public_key_raw())))
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_gitlab_lists_are_dialled_in_either_form_with_all_that_it_says_of_them()
-> Result<()> {
    for form in ["auto", "reverse_tunnel"] {
        let folder = tempfile::tempdir()?;
        let certs = Certs::create(&folder.path().join("certs"))?;
        let others = Certs::create(&folder.path().join("others"))?;
        let authority = |certs: &Certs| std::fs::read_to_string(&certs.ca);
        let (private, public) = agents_keys()?;
        let key = folder.path().join("kas.pub");
        std::fs::write(&key, public)?;
        // Not among the names in the certificate.
        let address = format!("127.0.0.2:{}", ports::free());
        let listed = json!({
            "id": 5, "url": format!("grpcs://{address}"), "ca_cert": authority(&certs)?,
            "tls_host": "localhost", "jwt": {"private_key": private}, "mtls": null,
        });
        let mut scenario = Scenario::sample();
        scenario.paths = Paths::New;
        scenario.receptive_agents = vec![listed];
        let line = format!("receptive_agent: {{form: {form}, poll_period: 1s}}");
        let rig = GitLabRig::start_with(scenario, USUAL, &line).await?;
        let files = rig.double.repository(3).await?;
        let file = ".gitlab/agents/production/config.yaml";
        let text = "observability: {logging: {level: debug}}\n";
        let commit = files.commit("main", &[(file, Some(text))]).await?;
        let flags = [
            format!("--api-listen-address={address}"),
            format!("--api-cert-file={}", certs.certificate.display()),
            format!("--api-key-file={}", certs.key.display()),
            format!("--api-jwt-file={}", key.display()),
        ];
        let mut agent = rig.receptive("production", "agent-5-a", &flags)?;

        let answers = async || {
            let answer = rig.get("ci:5:job-100", "/version").await.ok()?;
            (answer.status() == 200).then_some(())
        };
        let served = until("the agent", SOON, answers).await;
        served.with_context(|| format!("{}\n{}", rig.kas.tail(), agent.process.tail()))?;
        agent.process.wait_for(&commit, SOON).await?;

        let other = authority(&others)?;
        rig.double
            .change(|it| it.receptive_agents[0]["ca_cert"] = other.into());
        let refused = async || {
            let metrics = rig.metrics().await.ok()?;
            let state = r#"receptive_agent{agent_id="5",state="tls"} 1"#;
            metrics.contains(state).then_some(())
        };
        let refused = until("the wrong authority", SOON, refused).await;
        refused.with_context(|| format!("{form}\n{}", rig.kas.tail()))?;
    }
    Ok(())
}

/// `RUNNER_ROUTER_CLIENT` names a program over the router client of GitLab Runner (`gitlab-runner/router` of its Go
/// module). Its arguments are GitLab's URL, a runner's token, and how often it asks for a job; each answer is a line of
/// JSON: `job` (a number or null), `healthy`, `last_update`, and in `fallbacks` how often it asked GitLab itself, by the
/// reason that the client counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_runners_own_client_gets_jobs_through_kas_and_asks_gitlab_itself_where_that_is_off()
-> Result<()> {
    let name =
        "a_runners_own_client_gets_jobs_through_kas_and_asks_gitlab_itself_where_that_is_off";
    let Some(client) = programs::given("RUNNER_ROUTER_CLIENT", name)? else {
        return Ok(());
    };
    for routes_jobs in [true, false] {
        let more = format!("job_router: {{enabled: {routes_jobs}}}");
        let rig = GitLabRig::start_with(Scenario::sample(), USUAL, &more).await?;
        for scheme in ["grpc", "ws"] {
            let url = format!("{scheme}://127.0.0.1:{}", rig.agents);
            rig.double.change(|it| it.job_router = Some(url));
            let told = async |token: &str| jobs(&client, &rig.double.url(), token).await;
            let (busy, idle) = (told("glrt-busy").await?, told("glrt-idle").await?);
            let nobody = told("glrt-nobody").await?;

            let bypassed = |times: u32| match routes_jobs {
                true => json!({}),
                false => json!({"router_disabled": times}),
            };
            let queue = if routes_jobs { "queue-7" } else { "" };
            for (told, job, healthy) in [
                (&busy, json!(4711), true),
                (&idle, Value::Null, true),
                (&nobody, Value::Null, false),
            ] {
                for (times, told) in (1..).zip(told) {
                    let told = (&told["job"], &told["healthy"], &told["fallbacks"]);
                    let expected = (&job, &json!(healthy), &bypassed(times));
                    ensure!(
                        told == expected,
                        "{told:?}, not {expected:?}: {}",
                        rig.kas.tail()
                    );
                }
            }
            ensure!(busy[0]["last_update"] == queue, "{busy:?}");
        }
    }
    Ok(())
}

/// What a runner with this token is told when it asks twice.
async fn jobs(client: &Path, gitlab: &str, token: &str) -> Result<[Value; 2]> {
    let mut command = Command::new(client);
    command.args([gitlab, token, "2"]).kill_on_drop(true);
    let output = tokio::time::timeout(SOON, command.output()).await;
    let output = output.context("the runner's client hangs")??;
    let said = String::from_utf8_lossy(&output.stdout);
    let lines = said
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Value>, _>>()?;
    <[Value; 2]>::try_from(lines).map_err(|lines| {
        let complaint = String::from_utf8_lossy(&output.stderr);
        anyhow::anyhow!("{lines:?}, {complaint}")
    })
}

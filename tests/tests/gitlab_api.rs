//! What GitLab asks of kas, as processes: any of three replicas says who is
//! connected to all, and who dies goes; wrong tokens are refused; pushes are
//! passed on; usage is reported.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use proto::agent::agent_tracker::{
    ConnectedAgentInfo, rpc::get_connected_agents_request::Request as By,
};
use proto::agent::entity::GitalyInfo;
use serde_json::Value;
use tests::{
    gitlab_double::{Endpoint, Fault, FaultKind, Rails},
    gitlab_site::GitLabSite,
    http::send,
    parts::{Part, skipped},
    wait::until,
};
use tonic::{Code, Status};

const SOON: Duration = Duration::from_secs(60);

/// Agent, number of the process, pod: of those connected, in order.
fn who(agents: &[ConnectedAgentInfo]) -> Vec<(i64, String)> {
    let pod = |it: &ConnectedAgentInfo| it.agent_meta.clone().unwrap_or_default().pod_name;
    let mut who: Vec<_> = agents.iter().map(|it| (it.agent_id, pod(it))).collect();
    who.sort();
    who
}

/// Waits until GitLab hears of exactly these agents, by number and pod.
async fn hears(
    rails: &Rails,
    ids: &[i64],
    expected: &[(i64, &str)],
) -> Result<Vec<ConnectedAgentInfo>> {
    let expected: Vec<_> = expected
        .iter()
        .map(|(id, pod)| (*id, (*pod).to_owned()))
        .collect();
    let heard = async || {
        let agents = rails.connected_by_agents(ids).await.ok()?;
        (who(&agents) == expected).then_some(agents)
    };
    until(&format!("GitLab to hear of {expected:?}"), SOON, heard).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_replica_knows_who_is_connected_to_any() -> Result<()> {
    if skipped(
        "every_replica_knows_who_is_connected_to_any",
        &[Part::Redis],
    ) {
        return Ok(());
    }
    let site = GitLabSite::start(3).await?;
    let before = jiff_now();
    let _one = site.agentk("one", "agent-5-a", 0)?;
    let _two = site.agentk("two", "agent-5-b", 1)?;
    let _other = site.agentk("other", "agent-7", 1)?;
    let mut gitlab = Vec::new();
    for member in &site.members {
        gitlab.push(site.double.rails(member.api).await?);
    }

    let all = [(5, "one"), (5, "two"), (7, "other")];
    for rails in &gitlab {
        // From then on nothing changes that is known of them.
        until("all agents to have registered", SOON, async || {
            let agents = rails.connected_by_agents(&[5, 6, 7]).await.ok()?;
            let registered = |it: &ConnectedAgentInfo| {
                let meta = it.agent_meta.as_ref();
                meta.is_some_and(|it| it.kubernetes_version.is_some())
            };
            (agents.len() == all.len() && agents.iter().all(registered)).then_some(())
        })
        .await?;
        hears(rails, &[5, 6, 7], &all).await?;
        hears(rails, &[7], &all[2..]).await?;
        hears(rails, &[6], &[]).await?;
        for (by, expected) in [
            (By::AgentId(5), vec!["one", "two"]),
            (By::AgentId(99), vec![]),
            (By::ProjectId(3), vec!["one", "two"]),
            (By::ProjectId(4), vec!["other"]),
            (By::ProjectId(99), vec![]),
        ] {
            let pods = who(&rails.connected(Some(by)).await?);
            let pods: Vec<_> = pods.iter().map(|(_, pod)| pod.as_str()).collect();
            ensure!(pods == expected, "{by:?}: {pods:?}");
        }
        let agentks = who(&rails.connected_agentks(&[5, 6, 7]).await?);
        ensure!(agentks.len() == 3, "{agentks:?}");
        let by_projects = rails.connected_by_projects(&[3, 4, 99]).await?;
        ensure!(by_projects.len() == 3, "{by_projects:?}");
    }
    let agents = gitlab[2].connected_by_agents(&[7]).await?;
    let info = agents.first().context("agent 7")?;
    let meta = info.agent_meta.clone().context("agent_meta")?;
    let version = meta.kubernetes_version.clone();
    let version = version.context("kubernetes_version")?;
    ensure!(
        (info.project_id, info.connection_id > 0) == (4, true),
        "{info:?}"
    );
    ensure!(
        meta.pod_namespace == "default" && !meta.version.is_empty(),
        "{meta:?}"
    );
    ensure!(!version.git_version.is_empty(), "{version:?}");
    let at = info.connected_at.context("connected_at")?.seconds;
    ensure!((before..=jiff_now()).contains(&at), "{at}");
    let versions = gitlab[0].versions().await?;
    ensure!(versions == [(meta.version.clone(), 2)], "{versions:?}");

    site.members[1].process.signal("KILL").await?;

    for rails in [&gitlab[0], &gitlab[2]] {
        hears(rails, &[5, 7], &[(5, "one")]).await?;
    }
    Ok(())
}

fn jiff_now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |it| i64::try_from(it.as_secs()).unwrap_or(i64::MAX))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_comes_or_goes_is_noticed_within_seconds() -> Result<()> {
    if skipped(
        "an_agent_that_comes_or_goes_is_noticed_within_seconds",
        &[Part::Redis],
    ) {
        return Ok(());
    }
    let site = GitLabSite::start(2).await?;
    let rails = site.double.rails(site.members[1].api).await?;
    hears(&rails, &[5], &[]).await?;

    let mut agent = site.agentk("one", "agent-5-a", 0)?;
    hears(&rails, &[5], &[(5, "one")]).await?;
    agent.process.end_by("TERM", SOON).await?;
    hears(&rails, &[5], &[]).await?;

    let agent = site.agentk("again", "agent-5-a", 0)?;
    hears(&rails, &[5], &[(5, "again")]).await?;
    agent.process.signal("KILL").await?;
    hears(&rails, &[5], &[]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_gitlab_is_answered_and_only_sensible_questions() -> Result<()> {
    if skipped(
        "only_gitlab_is_answered_and_only_sensible_questions",
        &[Part::Redis],
    ) {
        return Ok(());
    }
    let site = GitLabSite::start(1).await?;
    let api = site.members[0].api;
    let refusals = [
        (
            Rails::connect(api, None).await?,
            "Request unauthenticated with bearer",
        ),
        (
            Rails::connect(api, Some("a.b.c")).await?,
            "JWT validation failed",
        ),
        (
            site.double
                .rails_with(api, |it| it["aud"] = "gitlab".into())
                .await?,
            "JWT validation failed",
        ),
        (
            site.double
                .rails_with(api, |it| it["exp"] = (jiff_now() - 60).into())
                .await?,
            "JWT validation failed",
        ),
        (
            site.double
                .rails_with(api, |it| it["nbf"] = (jiff_now() + 60).into())
                .await?,
            "JWT validation failed",
        ),
    ];
    for (rails, words) in &refusals {
        for refused in [
            rails.connected(Some(By::AgentId(5))).await.map(drop),
            rails.push(3, "group/config").await,
            rails.server_info().await.map(drop),
        ] {
            let status = refused.err().context("it was let in")?;
            ensure!(
                is(&status, Code::Unauthenticated, words),
                "{words}: {status:?}"
            );
        }
    }

    let rails = site.double.rails(api).await?;
    let any_issuer = site
        .double
        .rails_with(api, |it| it["iss"] = "other.host".into())
        .await?;
    ensure!(
        any_issuer.server_info().await.is_ok(),
        "the issuer is GitLab's host name"
    );
    let version = rails.server_info().await?.version;
    ensure!(version == env!("CARGO_PKG_VERSION"), "{version}");
    for (asked, words) in [
        (rails.connected(None).await.map(drop), "value is required"),
        (rails.push(0, "group/config").await, "project.id"),
        (rails.push(3, "").await, "project.full_path"),
    ] {
        let status = asked.err().context(words)?;
        ensure!(is(&status, Code::InvalidArgument, words), "{status:?}");
    }
    ensure!(
        rails.connected(Some(By::AgentId(-1))).await?.is_empty(),
        "nobody"
    );
    Ok(())
}

fn is(status: &Status, code: Code, words: &str) -> bool {
    status.code() == code && status.message().contains(words)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_gitlab_hears_that_nobody_can_say() -> Result<()> {
    if skipped(
        "without_redis_gitlab_hears_that_nobody_can_say",
        &[Part::Redis],
    ) {
        return Ok(());
    }
    let mut site = GitLabSite::start(2).await?;
    let rails = site.double.rails(site.members[0].api).await?;
    rails.push(3, "group/config").await?;
    site.redis.process.end_by("KILL", SOON).await?;

    let asked = rails.connected(Some(By::ProjectId(3))).await;
    let pushed = rails.push(3, "group/config").await;

    let status = asked.err().context("who is connected")?;
    ensure!(
        is(
            &status,
            Code::Unavailable,
            "GetConnectionsByProjectId() failed"
        ),
        "{status:?}"
    );
    let status = pushed.err().context("a push")?;
    ensure!(
        is(&status, Code::Unavailable, "Failed to publish"),
        "{status:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_reported_once_and_by_each_replica_for_itself() -> Result<()> {
    if skipped(
        "usage_is_reported_once_and_by_each_replica_for_itself",
        &[Part::Redis],
    ) {
        return Ok(());
    }
    let mut site = GitLabSite::start(2).await?;
    let _agent = site.agentk("one", "agent-5-a", 0)?;
    let users = site.members[1].users;
    let ask = async |bearer: &str| -> Result<u16> {
        let request = Request::get(format!("http://127.0.0.1:{users}/k8s-proxy/version"));
        let request = request.header("authorization", format!("Bearer {bearer}"));
        Ok(send(request.body(Bytes::new())?).await?.status().as_u16())
    };
    site.double.change(|it| {
        it.faults = vec![Fault::at(
            Endpoint::UsageMetrics,
            FaultKind::Status(500),
            None,
        )];
    });
    let connected = async || (ask("pat:5:pat-alice").await.ok()? == 200).then_some(());
    until("the agent", SOON, connected).await?;
    ensure!(ask("ci:5:job-100").await? == 200, "the job");
    ensure!(ask("pat:5:pat-bob").await? == 401, "who is refused");
    let refused = async || {
        let counters = site.double.counters();
        (counters.with(Endpoint::UsageMetrics, 500) > 0).then_some(())
    };
    until("a report that is not taken", SOON, refused).await?;
    site.double.change(|it| it.faults.clear());

    let first = async || site.double.usage().into_iter().next();
    let report = until("a report", SOON, first).await?;
    ensure!(ask("ci:5:job-100").await? == 200, "the job again");
    site.members[1].process.end_by("TERM", SOON).await?;

    let count = |report: &Value, name: &str| report["counters"][name].as_u64().unwrap_or(0);
    let ids = |name: &str| report["unique_counters"][name].clone();
    ensure!(
        count(&report, "k8s_api_proxy_requests_via_ci_access") == 1,
        "{report}"
    );
    ensure!(
        count(&report, "k8s_api_proxy_requests_via_pat_access") >= 1,
        "{report}"
    );
    ensure!(
        ids("agent_users_using_ci_tunnel") == serde_json::json!([1, 11]),
        "{report}"
    );
    let agents = ids("k8s_api_proxy_requests_unique_agents_via_ci_access");
    ensure!(agents == serde_json::json!([5]), "{report}");
    let all = site.double.usage();
    let by_ci = all
        .iter()
        .map(|it| count(it, "k8s_api_proxy_requests_via_ci_access"));
    ensure!(
        by_ci.sum::<u64>() == 2,
        "the last one too, and each once: {all:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_that_a_project_has_files_for_are_listed() -> Result<()> {
    if skipped(
        "the_agents_that_a_project_has_files_for_are_listed",
        &[Part::Redis],
    ) {
        return Ok(());
    }
    let site = GitLabSite::start(1).await?;
    let rails = site.double.rails(site.members[0].api).await?;
    let (repository, gitaly) = site.double.place(3);
    let list = async || rails.config_files(repository.clone(), gitaly.clone()).await;
    let files = site.double.repository(3).await?;
    let empty = list().await?;
    let file = |agent: &str| format!(".gitlab/agents/{agent}/config.yaml");
    let (one, two) = (file("production"), file("staging"));
    let others = [
        ".gitlab/agents/config.yaml",
        ".gitlab/agents/No_Name/config.yaml",
        "README.md",
    ];
    let all = [&one, &two].map(|it| (it.as_str(), Some("")));
    let all: Vec<_> = all
        .into_iter()
        .chain(others.map(|it| (it, Some(""))))
        .collect();
    files.commit("main", &all).await?;

    let listed = list().await?;
    let wrong = GitalyInfo {
        token: "another".to_owned(),
        ..gitaly.clone()
    };
    let refused = rails.config_files(repository.clone(), wrong).await;

    ensure!(empty.is_empty(), "{empty:?}");
    let expected = [("production", one), ("staging", two)];
    let expected = expected.map(|(agent, file)| (agent.to_owned(), file));
    ensure!(listed == expected, "{listed:?}");
    let status = refused.err().context("a wrong token of Gitaly")?;
    ensure!(
        is(&status, Code::Unavailable, "PathFetcher: "),
        "{status:?}"
    );
    Ok(())
}

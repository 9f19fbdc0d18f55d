//! With a GitLab, which tells of no agent before it comes: who was here and is gone is missed though all replicas are new,
//! by the list and by the metrics that alerts are made of.

use anyhow::{Context, Result, ensure};
use tests::{
    agentk::{Agentk, Links},
    gitlab_site::GitLabSite,
    parts::{Part, skipped},
    stub_api::StubApi,
    wait::until,
};

use super::{LIMIT, ask};

const NAMED: &str = "agent_up{agent_id=\"5\",agent_name=\"production\"} ";
const NAMELESS: &str = "agent_up{agent_id=\"5\",agent_name=\"\"} ";

/// Waits until a metric of a replica has a value.
async fn becomes(site: &GitLabSite, replica: usize, name: &str, value: u64) -> Result<()> {
    let member = &site.members[replica];
    let is = async || (member.sample(name).await? == value).then_some(());
    let is = until(&format!("{name}to be {value} at {replica}"), LIMIT, is).await;
    is.with_context(|| member.process.tail())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_gitlab_an_agent_that_was_here_is_missed_when_all_replicas_are_new() -> Result<()> {
    const NAME: &str = "with_a_gitlab_an_agent_that_was_here_is_missed_when_all_replicas_are_new";
    if skipped(NAME, &[Part::Redis]) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let cluster = StubApi::of_cluster("11111111-aaaa-4aaa-8aaa-aaaaaaaaaaaa").await?;
    let mut site = GitLabSite::start(2).await?;
    let links = Links {
        kas: format!("ws://127.0.0.1:{}", site.members[0].agents),
        ca: None,
        kubeconfig: cluster.kubeconfig(folder.path())?,
    };
    let agent = Agentk::start("agentk", &links, "agent-5-a", folder.path())?;
    let admin = site.members[0].admin;
    let pinned = async || {
        let agent = ask(admin, "/v1/agents/5").await.ok()?;
        let pinned = agent["cluster"].as_str().is_some_and(|it| !it.is_empty());
        (pinned && agent["agent"]["state"] == "connected").then_some(())
    };
    let pinned = until("the agent to be there", LIMIT, pinned).await;
    pinned.with_context(|| site.members[0].process.tail())?;
    becomes(&site, 0, NAMED, 1).await?;
    // The other replica has heard of the pin, and of no name.
    becomes(&site, 1, NAMELESS, 0).await?;

    drop(agent);
    becomes(&site, 0, NAMED, 0).await?;
    for replica in [0, 1] {
        site.replace(replica).await?;
    }

    for replica in [0, 1] {
        becomes(&site, replica, NAMELESS, 0).await?;
        becomes(&site, replica, "agent_series_omitted ", 0).await?;
    }
    let admin = site.members[0].admin;
    let listed = async || {
        let list = ask(admin, "/v1/agents?state=disconnected").await.ok()?;
        (list["agents"][0]["id"] == 5).then_some(list)
    };
    let listed = until("the agent to be listed", LIMIT, listed).await;
    let listed = listed.with_context(|| site.members[0].process.tail())?;
    ensure!(listed["total"] == 1, "{listed:#}");
    let access = ask(admin, "/v1/agents/5/access?user=ana").await?;
    ensure!(
        access["decided_by"] == "gitlab" && access["answer"].is_null(),
        "{access:#}"
    );
    let matrix = ask(admin, "/v1/access").await?;
    let words = matrix["explanation"].as_str().unwrap_or_default();
    ensure!(words.starts_with("GitLab decides"), "{matrix:#}");
    Ok(())
}

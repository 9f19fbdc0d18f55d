//! What users have open: listed and ended through any replica, and ended when its caller is revoked.

use std::{path::Path, time::SystemTime};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use serde_json::Value;
use tests::{
    agentk::{Agentk, Links},
    certs::Certs,
    haproxy::{Front, Haproxy},
    http as client,
    kube::Cluster,
    kubectl::{Kubectl, Streams},
    parts::{Part, say, skipped},
    process::Process,
    replicas::Replicas,
    wait::until,
};

use super::{LIMIT, Site, ask};

/// A number that a replica counts.
pub(super) async fn metric(port: u16, name: &str) -> Result<f64> {
    let text = client::get(&format!("http://127.0.0.1:{port}/metrics"), "").await?;
    let text = String::from_utf8_lossy(text.body()).into_owned();
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name));
    Ok(value
        .with_context(|| format!("no {name}"))?
        .trim()
        .parse()?)
}

/// Waits for as many sessions that match, and gives them.
async fn listed(site: &Site, number: usize, filter: &str, count: usize) -> Result<Vec<Value>> {
    let there = async || {
        let page = site
            .ask(number, &format!("/v1/sessions?{filter}"))
            .await
            .ok()?;
        let found = page["sessions"].as_array()?.clone();
        (page["total"] == count && found.len() == count).then_some(found)
    };
    let what = format!("{count} sessions with {filter:?}");
    let found = until(&what, LIMIT, there).await;
    found.with_context(|| site.tails())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_users_have_open_is_listed_and_ended_through_any_replica() -> Result<()> {
    const NAME: &str = "what_users_have_open_is_listed_and_ended_through_any_replica";
    if skipped(NAME, &[Part::Redis]) {
        return Ok(());
    }
    let site = Site::start().await?;
    let [first, second] = [0, 1].map(|number| {
        let users = site.replicas.members[number].users;
        let path = "/api/v1/namespaces/default/services?watch=true&resourceVersion=1";
        let (url, bearer) = (
            format!("http://127.0.0.1:{users}/k8s-proxy{path}"),
            site.bearer.clone(),
        );
        tokio::spawn(async move { client::get(&url, &bearer).await })
    });

    let all = listed(&site, 0, "", 2).await?;
    ensure!(all[0]["id"].as_str() < all[1]["id"].as_str(), "{all:#?}");
    ensure!(all[0]["replica"] != all[1]["replica"], "{all:#?}");
    for filter in [
        "agent=prod",
        "agent=2",
        "user=ana",
        "user=user:ana",
        "kind=watch",
    ] {
        listed(&site, 1, filter, 2).await?;
    }
    for filter in ["agent=first", "user=bob", "kind=exec"] {
        listed(&site, 1, filter, 0).await?;
    }
    let page = site.ask(1, "/v1/sessions?page_size=1").await?;
    let token = page["next_page_token"].as_str().context("a token")?;
    ensure!(
        page["sessions"][0] == all[0] && page["total"] == 2,
        "{page:#}"
    );
    let page = site
        .ask(0, &format!("/v1/sessions?page_size=1&page_token={token}"))
        .await?;
    ensure!(
        page["sessions"][0] == all[1] && page["next_page_token"] == "",
        "{page:#}"
    );
    let id = all[0]["id"].as_str().context("an id")?;
    let shown = site
        .cli(&["session", "list", "--user", "ana", "-o", "wide"])
        .await?;
    ensure!(
        shown.contains(id) && shown.contains("watch") && shown.contains("prod"),
        "{shown}"
    );

    // Through the one and through the other, each of a session at either.
    let said = site.cli(&["session", "kill", id]).await?;
    ensure!(said.contains("ended watch of user:ana at prod"), "{said}");
    let remaining = listed(&site, 0, "", 1).await?;
    let other = remaining[0]["id"].as_str().context("an id")?;
    let port = site.replicas.members[0].admin;
    let end = |id: &str| {
        let request = Request::delete(format!("http://127.0.0.1:{port}/v1/sessions/{id}"));
        let request = request.body(Bytes::new());
        async { client::send(request?).await }
    };
    let ended = end(other).await?;
    ensure!(ended.status() == 200, "{ended:?}");
    for (id, status) in [(other, 404), ("1", 400)] {
        let refused = end(id).await?;
        ensure!(refused.status() == status, "{refused:?}");
    }

    for watch in [first, second] {
        let answer = tokio::time::timeout(LIMIT, watch).await???;
        let event: Value = serde_json::from_slice(answer.body())?;
        let why = event["object"]["message"].as_str().unwrap_or_default();
        ensure!(
            event["type"] == "ERROR" && why.contains("an operator"),
            "{event:#}"
        );
        ensure!(event["object"]["code"] == 403, "{event:#}");
    }
    for member in &site.replicas.members {
        let ended = "k8s_api_proxy_sessions_ended_total{reason=\"Operator\"}";
        let ended = metric(member.observability, ended).await?;
        ensure!(ended == 1.0, "{ended} were ended");
        let audit = member.process.output();
        let line = audit
            .lines()
            .find(|it| it.contains("an operator ended a session"));
        let line = line.context("no line in the audit log")?;
        ensure!(
            line.contains("this machine") && line.contains("user:ana"),
            "{line}"
        );
    }
    Ok(())
}

/// Two replicas before a real cluster: the tunnels end at the first, users come to the second.
pub(super) struct Revocation {
    pub(super) replicas: Replicas,
    front: Haproxy,
    ca: String,
    pub(super) agent: Agentk,
    /// The agent's.
    pub(super) token: String,
}

impl Revocation {
    pub(super) async fn start(cluster: &Cluster, folder: &Path) -> Result<Self> {
        let replicas = Replicas::start(2, folder).await?;
        let token = replicas.cli(&["agent", "create", "site"]).await?;
        let certs = Certs::create(&folder.join("certs"))?;
        let links = Links {
            kas: format!("grpc://127.0.0.1:{}", replicas.members[0].agents),
            ca: None,
            kubeconfig: cluster.agent_kubeconfig(),
        };
        Ok(Self {
            agent: Agentk::start("agentk", &links, &token, folder)?,
            token,
            front: Haproxy::start(Front::Users, replicas.members[1].users, &certs, folder).await?,
            ca: certs.ca.display().to_string(),
            replicas,
        })
    }

    /// kubectl as a new user, who has a rule of their own.
    pub(super) async fn user(&self, name: &str, folder: &Path) -> Result<Kubectl> {
        let token = self.replicas.cli(&["user", "create", name]).await?;
        let grant = ["access", "grant", "--agent", "site", "--user", name];
        self.replicas
            .cli(&[&grant[..], &["--as", "agent"]].concat())
            .await?;
        let server = format!("https://localhost:{}/k8s-proxy/", self.front.port());
        let place = ["kubeconfig", "site", "--server", &server];
        let who = ["--user", name, "--token", &token];
        let authority = ["--certificate-authority", &self.ca];
        let text = self
            .replicas
            .cli(&[&place[..], &authority, &who].concat())
            .await?;
        let file = folder.join(format!("kubeconfig-{name}"));
        std::fs::write(&file, text + "\n")?;
        let kubectl = Kubectl::new(&file);
        self.serves(&kubectl).await?;
        Ok(kubectl)
    }

    /// Waits until the agent serves.
    pub(super) async fn serves(&self, kubectl: &Kubectl) -> Result<()> {
        let serves = async || kubectl.ok(&["get", "--raw", "/version"]).await.ok();
        let serves = until("the agent to serve", LIMIT, serves).await;
        serves.map(drop).with_context(|| self.tails())
    }

    pub(super) fn tails(&self) -> String {
        let tails = self.replicas.members.iter().map(|it| it.process.tail());
        tails.collect()
    }

    /// Waits until a process has ended, and gives what it said.
    async fn ended(&self, process: &mut Process) -> Result<String> {
        let ended = process.ended(LIMIT).await;
        ended.with_context(|| self.tails())?;
        Ok(process.output())
    }
}

/// An exec of `cat`, which has answered.
pub(super) async fn cat(kubectl: &Kubectl, name: &str, folder: &Path) -> Result<Process> {
    let mut cat = kubectl.start(name, &["exec", "-i", "box", "--", "cat"], folder)?;
    cat.write(&format!("{name} is here\n")).await?;
    cat.wait_for(&format!("{name} is here"), LIMIT).await?;
    Ok(cat)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_loses_what_is_open_at_another_replica_and_a_bystander_does_not()
-> Result<()> {
    const NAME: &str =
        "who_is_revoked_loses_what_is_open_at_another_replica_and_a_bystander_does_not";
    if skipped(NAME, &[Part::Cluster, Part::Haproxy, Part::Redis]) {
        return Ok(());
    }
    Cluster::with_box(revoke).await
}

async fn revoke(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let site = Revocation::start(cluster, folder).await?;
    let stays = site.user("stays", folder).await?;
    let leaves = site.user("leaves", folder).await?;
    let loses = site.user("loses", folder).await?;
    let mut bystander = cat(&stays, "bystander", folder).await?;
    let mut exec = cat(&leaves, "exec", folder).await?;
    let mut spdy = cat(&leaves.over(Streams::Spdy), "spdy", folder).await?;
    let mut logs = loses.start("logs", &["logs", "-f", "box"], folder)?;
    logs.wait_for("tick", LIMIT).await?;
    let mut watch = loses.start("watch", &["get", "pods", "--watch"], folder)?;
    watch.wait_for("box", LIMIT).await?;
    let admin = site.replicas.members[0].admin;
    let open = async || {
        let open = ask(admin, "/v1/sessions?agent=site").await.ok()?;
        let kinds = open["sessions"].as_array()?.iter();
        let mut kinds: Vec<_> = kinds
            .filter_map(|it| it["kind"].as_str().map(str::to_owned))
            .collect();
        kinds.sort_unstable();
        (kinds == ["exec", "exec", "exec", "logs", "watch"]).then_some(())
    };
    until(
        "the sessions to be listed at the other replica",
        LIMIT,
        open,
    )
    .await?;

    let changed = SystemTime::now();
    site.replicas.cli(&["user", "revoke", "leaves"]).await?;
    let said = site.ended(&mut exec).await?;
    let by_spdy = site.ended(&mut spdy).await?;
    let took = changed.elapsed()?;
    say(&format!(
        "a token was revoked, and its execs had ended after {took:?}"
    ));
    for said in [said, by_spdy] {
        ensure!(said.contains("the token is not known"), "{said}");
    }

    // The third rule is that of the one who loses access and keeps the token.
    site.replicas.cli(&["access", "remove", "3"]).await?;
    site.ended(&mut logs).await?;
    let said = site.ended(&mut watch).await?;
    ensure!(said.contains("no access rule allows it"), "{said}");

    bystander.write("still here\n").await?;
    bystander.wait_for("still here", LIMIT).await?;
    // Their clients have ended a moment before they are gone from the list.
    let only = async || {
        let open = ask(admin, "/v1/sessions").await.ok()?;
        (open["total"] == 1).then_some(open)
    };
    let open = until("the bystander alone to be listed", LIMIT, only).await?;
    let id = open["sessions"][0]["id"].as_str().context("an id")?;
    let entry = site.replicas.members[1].observability;
    let ended = metric(
        entry,
        "k8s_api_proxy_sessions_ended_total{reason=\"Revoked\"}",
    )
    .await?;
    ensure!(ended == 4.0, "{ended} were ended");
    let request = Request::delete(format!("http://127.0.0.1:{admin}/v1/sessions/{id}"));
    let answer = client::send(request.body(Bytes::new())?).await?;
    ensure!(answer.status() == 200, "{answer:?}");
    let said = site.ended(&mut bystander).await?;
    ensure!(
        said.contains("an operator of this server ended the session"),
        "{said}"
    );
    Ok(())
}

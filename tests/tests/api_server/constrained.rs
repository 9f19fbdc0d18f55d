//! An agent whose rights are what `agentk rbac --constrained` prints acts as callers within these bounds, whatever the
//! callers themselves may do.

use std::path::Path;

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tests::{
    agentk::{Agentk, Links},
    http as client,
    kas::{Kas, Options},
    kube::Cluster,
    parts::{Part, say, skipped},
    wait::until,
};

use crate::{MAPS, NAMESPACE, SOON};

const NEEDS: &[Part] = &[Part::Cluster];
/// The first minor version that knows these rights.
const SINCE: u32 = 36;
const RIGHTS: &[&str] = &[
    "--constrained",
    "--as-group=gitlab:user",
    "--on=get,list,watch:*",
    "--on=create,patch:configmaps",
];
const WHO_AM_I: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// As whom the agent may act.
const ANA: &[(&str, &str)] = &[
    ("impersonate-user", "gitlab:user:ana"),
    ("impersonate-group", "gitlab:user"),
    ("impersonate-extra-agent.gitlab.com%2fusername", "ana"),
];
/// As whom not.
const OTHERS: [&[(&str, &str)]; 4] = [
    &[
        ("impersonate-user", "root"),
        ("impersonate-group", "system:masters"),
    ],
    &[("impersonate-user", "ana"), ("impersonate-group", "others")],
    &[("impersonate-user", "system:serviceaccount:kube-system:root")],
    &[("impersonate-user", "system:node:node-1")],
];

/// Somebody who asks through kas, and as whom.
struct Caller<'a> {
    users: u16,
    bearer: &'a str,
    acts_as: &'a [(&'a str, &'a str)],
}

impl Caller<'_> {
    async fn asks(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<(StatusCode, String)> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://127.0.0.1:{}/k8s-proxy{path}", self.users))
            .header("authorization", format!("Bearer {}", self.bearer))
            .header("content-type", "application/json");
        for (name, value) in self.acts_as {
            request = request.header(*name, *value);
        }
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let answer = client::send(request.body(body)?).await?;
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        Ok((answer.status(), text))
    }

    async fn may(&self, method: Method, path: &str, body: Option<Value>) -> Result<String> {
        let (status, text) = self.asks(method.clone(), path, body).await?;
        ensure!(status.is_success(), "{method} {path}: {status}: {text}");
        Ok(text)
    }

    /// The cluster says no, and why.
    async fn may_not(
        &self,
        (method, path, body): (Method, &str, Option<Value>),
        why: &str,
    ) -> Result<()> {
        let (status, text) = self.asks(method.clone(), path, body).await?;
        ensure!(
            status == StatusCode::FORBIDDEN && text.contains(why),
            "{method} {path}: {status}: {text}"
        );
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_constrained_rights_acts_as_callers_within_its_bounds() -> Result<()> {
    const NAME: &str = "an_agent_with_constrained_rights_acts_as_callers_within_its_bounds";
    if skipped(NAME, NEEDS) {
        return Ok(());
    }
    let cluster = Cluster::api_server("").await?;
    let checked = async {
        let version = cluster.admin().ok(&["get", "--raw", "/version"]).await?;
        let version: Value = serde_json::from_str(&version)?;
        let minor = version["minor"].as_str().and_then(|it| it.parse().ok());
        if minor.is_some_and(|minor: u32| minor < SINCE) {
            say(&format!("SKIPPED: {NAME} needs Kubernetes 1.{SINCE}"));
            return Ok(());
        }
        let folder = tempfile::tempdir()?;
        within_bounds(&cluster, folder.path()).await
    };
    let checked = checked.await;
    cluster.down().await?;
    checked
}

async fn within_bounds(cluster: &Cluster, folder: &Path) -> Result<()> {
    let kas = Kas::start(Options::default(), folder).await?;
    let token = kas.create_agent("site").await?;
    let links = Links {
        kas: format!("ws://127.0.0.1:{}/", kas.agents),
        ca: None,
        kubeconfig: cluster.with_rights("bounded", RIGHTS, folder).await?,
    };
    let _agent = Agentk::start("agentk", &links, &token, folder)?;
    let id = kas.agent_id("site").await?;
    let user = async |name, access| {
        let token = kas.create_user(name, "site", &[access]).await?;
        anyhow::Ok(format!("pat:{id}:{token}"))
    };
    let (ana, boss, operator) = (
        user("ana", "user").await?,
        user("boss", "user").await?,
        user("operator", "agent").await?,
    );
    let admin = cluster.admin();
    // Aggregated roles such as `edit` are empty here: nobody fills them without a controller manager.
    let role = [
        "create",
        "clusterrole",
        "ana",
        "--resource=configmaps,secrets",
    ];
    let verbs = "--verb=get,list,watch,create,delete";
    admin.ok(&[&role[..], &[verbs]].concat()).await?;
    let binding = ["create", "clusterrolebinding"];
    for (name, role) in [("ana", "ana"), ("boss", "cluster-admin")] {
        let (role, who) = (
            format!("--clusterrole={role}"),
            format!("--user=gitlab:user:{name}"),
        );
        admin
            .ok(&[&binding[..], &[name, &role, &who]].concat())
            .await?;
    }
    let caller = |bearer, acts_as| Caller {
        users: kas.users,
        bearer,
        acts_as,
    };

    people(&caller(&ana, &[]), &caller(&boss, &[])).await?;
    as_others(|acts_as| caller(&operator, acts_as)).await
}

/// What is in the bounds works, as far as the person may; what is not is refused to a cluster's administrator too.
async fn people(ana: &Caller<'_>, boss: &Caller<'_>) -> Result<()> {
    let map = |name: &str| {
        Some(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}))
    };
    // Rights that were just given count a moment later.
    let lists = async |who: &Caller<'_>| {
        let (status, _) = who.asks(Method::GET, MAPS, None).await.ok()?;
        status.is_success().then_some(())
    };
    until("ana's rights", SOON, async || lists(ana).await).await?;
    until("the administrator's rights", SOON, async || {
        lists(boss).await
    })
    .await?;

    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let known = ana.may(Method::POST, WHO_AM_I, Some(review)).await?;
    ensure!(known.contains("gitlab:user:ana"), "{known}");
    ana.may(Method::GET, "/apis", None).await?;
    ana.may(Method::POST, MAPS, map("made")).await?;
    boss.may(Method::GET, "/api/v1/nodes", None).await?;

    let made = format!("{MAPS}/made");
    let secrets = "/api/v1/namespaces/default/secrets";
    ana.may_not((Method::GET, "/api/v1/nodes", None), "gitlab:user:ana")
        .await?;
    for bounded in [ana, boss] {
        let why = "impersonate";
        bounded.may_not((Method::DELETE, &made, None), why).await?;
        bounded
            .may_not((Method::POST, secrets, map("secret")), why)
            .await?;
    }
    Ok(())
}

/// Whoever has the agent's own rights may act as a member of its groups, and as nobody else.
async fn as_others<'a>(caller: impl Fn(&'a [(&'a str, &'a str)]) -> Caller<'a>) -> Result<()> {
    let own = caller(&[]);
    own.may_not(
        (Method::GET, MAPS, None),
        "system:serviceaccount:default:bounded",
    )
    .await?;
    caller(ANA).may(Method::GET, MAPS, None).await?;
    for acts_as in OTHERS {
        caller(acts_as)
            .may_not((Method::GET, NAMESPACE, None), "impersonate")
            .await?;
    }
    Ok(())
}

//! Objects of a real cluster on their way to those who watch, with an agent that
//! has no more rights than `agentk rbac` prints.

mod figures;
mod gitlab;
mod watcher;

use std::{collections::HashMap, path::Path, time::Duration};

use ::http::Request;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use proto::graph::rpc::{Known, Resource};
use serde_json::Value;
use tests::{
    agentk::{Agentk, Links},
    chaos::Chaos,
    http::{self as client, Socket},
    kas::{Kas, Options},
    kube::Cluster,
    kubectl::Kubectl,
    parts::{Part, skipped},
    ports,
    process::Process,
    wait::until,
};
use tonic::Code;
use watcher::{Objects, Watcher, begin, config_maps};

const SOON: Duration = Duration::from_secs(120);
/// How often tunnels are cut while objects churn.
const CUTS: Duration = Duration::from_secs(1);
/// How many objects churn, unless `GRAPH_OBJECTS` says otherwise.
const OBJECTS: usize = 1000;
/// Bytes of the largest object.
const LARGE: usize = 1_400 << 10;
/// Objects that are written at the same time.
const TOGETHER: usize = 16;
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn watchers_know_the_cluster_whatever_is_cut() -> Result<()> {
    if skipped(
        "watchers_know_the_cluster_whatever_is_cut",
        &[Part::Cluster],
    ) {
        return Ok(());
    }
    let cluster = Cluster::up().await?;

    let checked = check(&cluster).await;

    cluster.down().await?;
    checked
}

async fn check(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let site = Site::start(cluster, folder.path()).await?;
    let admin = cluster.admin().patient(SOON);
    refusals(&site).await.context("refusals")?;
    churn(&site, &admin).await.with_context(|| site.tails())?;
    large(&site, &admin).await.context("a large object")?;
    websocket(&site).await.context("a WebSocket")?;
    loss(&site, &admin).await.context("the loss of rights")
}

/// Who is refused, and how.
async fn refusals(site: &Site) -> Result<()> {
    let code = async |credentials: &str, resource: Resource| {
        let (_open, told) = begin(site.api, credentials, resource, Known::default()).await?;
        let end = match told {
            Ok(mut updates) => updates.message().await.err(),
            Err(status) => Some(status),
        };
        Ok::<_, anyhow::Error>(end.map(|status| status.code()))
    };
    // In a group of which the agent may read everything, so that it is told what does not exist.
    let unknown = Resource {
        group: "apps".into(),
        resource: "gizmos".into(),
        ..config_maps(false)
    };
    let secrets = Resource {
        resource: "secrets".into(),
        ..config_maps(false)
    };
    let wrong = format!("pat:{}:nobody", site.id);

    let all = [
        code(&wrong, config_maps(false)).await?,
        code("nonsense", config_maps(false)).await?,
        code(&site.narrow, secrets).await?,
        code(&site.wide, unknown).await?,
        code(&site.writer, config_maps(false)).await?,
    ];
    let expected = [
        Code::Unauthenticated,
        Code::Unauthenticated,
        Code::PermissionDenied,
        Code::NotFound,
        Code::FailedPrecondition,
    ];
    ensure!(all == expected.map(Some), "{all:?}");
    Ok(())
}

/// Objects come, change and go while tunnels are cut and watchers come back.
async fn churn(site: &Site, admin: &Kubectl) -> Result<()> {
    let count = std::env::var("GRAPH_OBJECTS").map_or(Ok(OBJECTS), |it| it.parse())?;
    let watch = |whole, every| Watcher::start(site.api, &site.wide, config_maps(whole), every);
    let again = Duration::from_millis(1700);
    let watchers = [
        watch(false, None),
        watch(true, None),
        watch(false, Some(again)),
    ];
    let (_silent, unread) =
        begin(site.api, &site.wide, config_maps(false), Known::default()).await?;
    let _unread = unread?;
    let cutting = async {
        loop {
            tokio::time::sleep(CUTS).await;
            site.way.cut();
        }
    };
    tokio::select! {
        written = write_all(site, count) => written?,
        () = cutting => {}
    }
    let expected = listed(admin).await?;
    ensure!(expected.len() > count / 2, "{} are left", expected.len());
    for watcher in &watchers {
        let same = until("the watcher to know all", SOON, async || {
            let state = watcher.state.borrow();
            let over = state.wrong.is_some() || state.ended.is_some();
            (over || state.objects == expected).then_some(())
        })
        .await;
        let state = watcher.state.borrow();
        ensure!(
            same.is_ok() && state.objects == expected,
            "{} objects of {}, wrong: {:?}, ended: {:?}",
            state.objects.len(),
            expected.len(),
            state.wrong,
            state.ended,
        );
    }
    Ok(())
}

/// Each comes, changes, and a third of them goes.
async fn write_all(site: &Site, count: usize) -> Result<()> {
    let written = stream::iter(0..count).map(|number| async move {
        site.create(number).await?;
        let one = format!("{CONFIG_MAPS}/c{number}");
        site.write("PATCH", &one, "{\"data\": {\"a\": \"b\"}}")
            .await?;
        if number % 3 == 0 {
            site.write("DELETE", &one, "").await?;
        }
        anyhow::Ok(())
    });
    written.buffer_unordered(TOGETHER).try_collect().await
}

async fn listed(admin: &Kubectl) -> Result<Objects> {
    let list = admin
        .ok(&["get", "configmaps", "-n", "default", "-o", "json"])
        .await?;
    let list: Value = serde_json::from_str(&list)?;
    let items = list["items"].as_array().context("no list")?.iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(items
        .map(|item| &item["metadata"])
        .map(|it| (text(&it["uid"]), text(&it["resourceVersion"])))
        .collect::<HashMap<_, _>>())
}

/// An object of 1.4 MiB: as much as a config map may have, and an annotation.
async fn large(site: &Site, admin: &Kubectl) -> Result<()> {
    let (text, note) = ("x".repeat(1_398_000), "y".repeat(100_000));
    let manifest = format!(
        "{{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {{\"name\": \"large\", \"namespace\": \"default\", \"annotations\": {{\"note\": \"{note}\"}}}}, \"binaryData\": {{\"a\": \"{text}\"}}}}"
    );
    let create = ["create", "-f", "-"];
    admin.ok_with(&create, manifest.as_bytes()).await?;
    let watcher = Watcher::start(site.api, &site.wide, config_maps(true), None);
    until("the large object", SOON, async || {
        (watcher.state.borrow().longest >= LARGE).then_some(())
    })
    .await
}

/// A page in a browser, with the right token and with a wrong one.
async fn websocket(site: &Site) -> Result<()> {
    for (token, expected) in [
        (site.wide.as_str(), "\"synced\":true"),
        ("pat:1:nobody", "\"code\":\"Unauthenticated\""),
    ] {
        let mut socket = Socket::open(site.kas.users).await?;
        socket
            .write(
                b"GET /-/graph HTTP/1.1\r\nHost: kas\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            )
            .await?;
        let head = socket.read_until("\r\n\r\n", SOON).await?;
        ensure!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        let resource = r#"{"version": "v1", "resource": "configmaps", "namespace": "kube-system"}"#;
        let wanted = format!("{{\"credentials\": \"{token}\", \"resource\": {resource}}}");
        let length = u16::try_from(wanted.len())?.to_be_bytes();
        // Masked with zeros, which changes nothing.
        let frame = [&[0x81, 0xFE], &length[..], &[0; 4], wanted.as_bytes()].concat();
        socket.write(&frame).await?;
        socket.read_until(expected, SOON).await?;
    }
    Ok(())
}

/// A right that goes ends the watch, with the reason.
async fn loss(site: &Site, admin: &Kubectl) -> Result<()> {
    let watcher = Watcher::start(site.api, &site.narrow, config_maps(false), None);
    until("the watcher to know all", SOON, async || {
        watcher.state.borrow().synced.then_some(())
    })
    .await?;
    admin.ok(&["delete", "rolebinding", "narrow"]).await?;
    let ended = until("the watch to end", SOON, async || {
        watcher.state.borrow().ended
    })
    .await?;
    ensure!(ended == Code::PermissionDenied, "{ended:?}");
    Ok(())
}

/// kas, an agent with the feature behind a proxy, and one without.
struct Site {
    kas: Kas,
    way: Chaos,
    api: u16,
    id: String,
    off_id: String,
    user: String,
    /// Credentials for the other agent, of one who may do everything.
    writer: String,
    /// Credentials of one who may do everything.
    wide: String,
    /// Credentials of one who may list and watch config maps.
    narrow: String,
    pods: [Agentk; 2],
}

impl Site {
    async fn start(cluster: &Cluster, folder: &Path) -> Result<Self> {
        let secret = folder.join("secret");
        std::fs::write(&secret, "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=")?;
        let api = ports::free();
        let more = format!(
            "api: {{listen: {{address: '127.0.0.1:{api}', authentication_secret_file: {}}}}}",
            secret.display()
        );
        let options = Options {
            more: &more,
            ..Options::default()
        };
        let kas = Kas::start(options, folder).await?;
        let way = Chaos::start(&[kas.agents]).await?;
        let token = kas.create_agent("site").await?;
        let off_token = kas.create_agent("off").await?;
        let links = |port, kubeconfig| Links {
            kas: format!("ws://127.0.0.1:{port}/"),
            ca: None,
            kubeconfig,
        };
        let kubeconfig = cluster.least_rights("graph", folder).await?;
        cluster.admin().apply(OTHERS).await?;
        Kubectl::new(&kubeconfig)
            .refused(&["create", "configmap", "a"])
            .await?;
        let own = links(way.port(), kubeconfig);
        let other = links(kas.agents, cluster.agent_kubeconfig());
        let on = Agentk::with_flags(&["--features=graph"], "pod", &own, &token, folder)?;
        let off = Agentk::with_flags(&[], "off", &other, &off_token, folder)?;
        let (id, off_id) = (kas.agent_id("site").await?, kas.agent_id("off").await?);
        let user = kas.create_user("wide", "*", &["agent"]).await?;
        let impersonate = ["impersonate", "--as-user", "narrow"];
        let narrow = kas.create_user("narrow", "site", &impersonate).await?;
        let site = Self {
            writer: format!("pat:{off_id}:{user}"),
            wide: format!("pat:{id}:{user}"),
            narrow: format!("pat:{id}:{narrow}"),
            kas,
            way,
            api,
            id,
            off_id,
            user,
            pods: [on, off],
        };
        // Both agents are there once a watch does not end for want of one.
        for id in [&site.id, &site.off_id] {
            let credentials = format!("pat:{id}:{}", site.user);
            until("the agent", SOON, async || {
                let begun = begin(site.api, &credentials, config_maps(false), Known::default());
                match begun.await.ok()?.1 {
                    Ok(_) => Some(()),
                    Err(status) => (status.code() == Code::FailedPrecondition).then_some(()),
                }
            })
            .await
            .with_context(|| site.tails())?;
        }
        Ok(site)
    }

    async fn create(&self, number: usize) -> Result<()> {
        let new = format!("{{\"metadata\": {{\"name\": \"c{number}\"}}}}");
        self.write("POST", CONFIG_MAPS, &new).await.map(drop)
    }

    /// Writes through the agent that is not cut off; gives the answer.
    async fn write(&self, method: &str, path: &str, body: &str) -> Result<Value> {
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("http://127.0.0.1:{}{path}", self.kas.users))
            .header("authorization", format!("Bearer {}", self.writer))
            .header("content-type", kind);
        let answer = client::send(request.body(Bytes::from(body.to_owned()))?).await?;
        let (status, answer) = (answer.status(), serde_json::from_slice(answer.body())?);
        ensure!(status.is_success(), "{method} {path}: {answer}");
        Ok(answer)
    }

    fn tails(&self) -> String {
        let [on, off] = &self.pods;
        let parts = [&self.kas.process, &on.process, &off.process];
        parts.map(Process::tail).join("\n")
    }
}

const OTHERS: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: impersonator}
rules: [{apiGroups: [""], resources: [users, groups], verbs: [impersonate]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: impersonator}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: impersonator}
subjects: [{kind: ServiceAccount, name: agentk-graph, namespace: default}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: narrow, namespace: default}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: narrow, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: narrow}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: narrow}]
"#;

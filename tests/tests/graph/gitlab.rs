//! GitLab's graph API and its watch aggregator over a real cluster, for a command line and for the dashboard, behind
//! nginx as the Linux package has it.

mod glab;
mod known;

use std::{io::Write, path::Path};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use tests::{
    agentk::{Agentk, Links},
    certs::Certs,
    gitlab_double::{GitLabDouble, Scenario},
    gitlab_rig::start_kas,
    http::get,
    kube::Cluster,
    kubectl::Kubectl,
    nginx::{self, PackageNginx},
    parts::{self, Part, skipped},
    ports,
    process::Process,
    programs,
    wait::until,
    websocket::WebSocket,
};
use tokio::process::Command;

use super::SOON;
use known::Known;

const API: &str = "/-/kubernetes-agent/k8s-proxy";
/// Agents with their tokens: alice is herself in the cluster of the first, and the agent in that of the second.
const AGENTS: [(&str, &str); 2] = [("5", "agent-5-a"), ("6", "agent-6")];
const HERSELF: &str = "pat:5:pat-alice";
const THE_AGENT: &str = "pat:6:pat-alice";

#[tokio::test(flavor = "multi_thread")]
async fn gitlabs_graph_and_watches_tell_what_a_real_cluster_has_and_what_becomes_of_it()
-> Result<()> {
    let name = "gitlabs_graph_and_watches_tell_what_a_real_cluster_has_and_what_becomes_of_it";
    if skipped(name, &[Part::Cluster, Part::Nginx]) {
        return Ok(());
    }
    let cluster = Cluster::up().await?;

    let checked = async {
        let folder = tempfile::tempdir()?;
        let site = Site::start(&cluster, folder.path()).await?;
        let admin = cluster.admin().patient(SOON);
        let checked = async {
            graph(&site, &admin).await.context("the graph")?;
            everything(&site).await.context("all resources")?;
            watches(&site, &admin).await.context("watches")
        };
        checked.await.with_context(|| site.tails())
    };
    let checked = checked.await;

    cluster.down().await?;
    checked
}

/// `CLUSTER_CLIENT` names GitLab's `@gitlab/cluster-client`, bundled as one module for browsers.
#[tokio::test(flavor = "multi_thread")]
async fn gitlabs_dashboard_lists_pods_in_a_browser_by_the_watch_aggregator() -> Result<()> {
    let name = "gitlabs_dashboard_lists_pods_in_a_browser_by_the_watch_aggregator";
    let Some(client) = programs::given("CLUSTER_CLIENT", name)? else {
        return Ok(());
    };
    if skipped(name, &[Part::Cluster, Part::Nginx, Part::Chromium]) {
        return Ok(());
    }
    let cluster = Cluster::up().await?;

    let checked = async {
        let folder = tempfile::tempdir()?;
        let site = Site::start(&cluster, folder.path()).await?;
        std::fs::copy(client, folder.path().join("pages/cluster-client.js"))?;
        let checked = dashboard(&site, &cluster.admin().patient(SOON), folder.path()).await;
        checked.with_context(|| site.tails())
    };
    let checked = checked.await;

    cluster.down().await?;
    checked
}

/// GitLab, kas and agents.
struct Site {
    _double: GitLabDouble,
    kas: Process,
    nginx: PackageNginx,
    agents: Vec<Agentk>,
}

impl Site {
    async fn start(cluster: &Cluster, folder: &Path) -> Result<Self> {
        let double = GitLabDouble::start(Scenario::sample()).await?;
        let secret = folder.join("secret");
        double.write_secret(&secret)?;
        let certs = Certs::create(&folder.join("certs"))?;
        let pages = folder.join("pages");
        std::fs::create_dir_all(&pages)?;
        let [agents, users] = [(); 2].map(|()| ports::free());
        let api = ports::free();
        let behind = nginx::Site { agents, users, api };
        let nginx = PackageNginx::with_pages(&pages, behind, &certs, folder).await?;
        let text = format!(
            "gitlab:\n  address: {url}\n  external_url: https://localhost:{front}\n  \
             authentication_secret_file: {secret}\n\
             agent:\n  listen: {{address: '127.0.0.1:{agents}'}}\n  kubernetes_api:\n    \
             listen: {{address: '127.0.0.1:{users}'}}\n    websocket_token_secret_file: {secret}\n\
             observability: {{listen: {{address: '127.0.0.1:{observability}'}}, logging: {{level: debug}}}}\n",
            url = double.url(),
            front = nginx.port(),
            secret = secret.display(),
            observability = ports::free(),
        );
        let kas = start_kas(&text, folder, &[]).await?;
        let links = Links {
            kas: format!("ws://127.0.0.1:{agents}/"),
            ca: None,
            kubeconfig: cluster.agent_kubeconfig(),
        };
        let all = AGENTS.map(|(id, token)| Agentk::start(id, &links, token, folder));
        let site = Self {
            _double: double,
            kas,
            nginx,
            agents: all.into_iter().collect::<Result<_>>()?,
        };
        cluster.admin().apply(RIGHTS).await?;
        for bearer in [HERSELF, THE_AGENT] {
            let url = format!("http://127.0.0.1:{}{API}/version", site.nginx.plain());
            let serves = async || {
                let answer = get(&url, bearer).await.ok()?;
                answer.status().is_success().then_some(())
            };
            let serves = until("the agent", SOON, serves).await;
            serves.with_context(|| site.tails())?;
        }
        Ok(site)
    }

    async fn open(&self, path: &str, protocol: &str, bearer: &str) -> Result<WebSocket> {
        let protocol = format!("Sec-WebSocket-Protocol: {protocol}");
        let bearer = format!("Authorization: Bearer {bearer}");
        let lines = [protocol.as_str(), bearer.as_str()];
        WebSocket::open(self.nginx.plain(), &format!("{API}{path}"), &lines).await
    }

    async fn ask(&self, bearer: &str, query: &Value) -> Result<Known> {
        let mut socket = self
            .open("/graph", "gitlab-agent-graph-api", bearer)
            .await?;
        socket.send(query).await?;
        Ok(Known::of(socket))
    }

    fn tails(&self) -> String {
        let agents = self.agents.iter().map(|it| it.process.tail());
        let all = [self.kas.tail(), self.nginx.tail()];
        all.into_iter().chain(agents).collect::<Vec<_>>().join("\n")
    }
}

/// As the command line asks for it by itself.
fn usual() -> Value {
    let resources = "group == '' && resource in ['pods', 'secrets', 'configmaps', 'serviceaccounts'] || \
                     group == 'apps' && resource in ['deployments', 'replicasets', 'daemonsets', 'statefulsets'] || \
                     group == 'batch' && resource in ['jobs', 'cronjobs'] || \
                     group == 'rbac.authorization.k8s.io' && !(resource in ['clusterroles', 'clusterrolebindings'])";
    json!({
        "queries": [{"include": {"resource_selector_expression": resources}}],
        "namespaces": {"object_selector_expression": "name != 'kube-system'"},
    })
}

async fn graph(site: &Site, admin: &Kubectl) -> Result<()> {
    admin.apply(WEB).await?;
    admin.apply(&release()?).await?;
    let mut all = site.ask(THE_AGENT, &usual()).await?;
    let web = "apps/deployments/default/web";
    let settings = "/configmaps/default/settings";
    all.until("the deployment with what it uses", |known| {
        let set = known.sources("or", web);
        let [set] = &set[..] else { return false };
        let pods = known.sources("or", set);
        let [pod] = &pods[..] else { return false };
        known.arc(set, "or", web) == Some(&json!({"c": true, "b": true}))
            && known.arc(pod, "r", settings) == Some(&json!({}))
            && known.arc(web, "t", settings) == Some(&json!({}))
            && known.arc(web, "t", "/secrets/default/password") == Some(&json!({"e": true}))
            && known.objects[*pod]["o"]["status"]["phase"] == "Running"
    })
    .await?;
    ensure!(!all.has("kube-system"), "{:?}", all.objects.keys());
    let release = &all.objects["/secrets/default/sh.helm.release.v1.shop.v1"]["hr"];
    ensure!(release["chart"]["metadata"]["name"] == "shop", "{release}");

    let secret = [
        "create",
        "secret",
        "generic",
        "password",
        "--from-literal=a=b",
    ];
    admin.ok(&secret).await?;
    admin
        .ok(&["scale", "deployment", "web", "--replicas=2"])
        .await?;
    all.until("the secret and another pod", |known| {
        let pods = known
            .objects
            .keys()
            .filter(|it| it.starts_with("/pods/default/web-"));
        pods.count() == 2 && known.arc(web, "t", "/secrets/default/password") == Some(&json!({}))
    })
    .await?;

    // Alice may see everything but secrets.
    let mut less = site.ask(HERSELF, &usual()).await?;
    less.until("what alice may see", |known| {
        let forbidden = |it: &Value| it["t"] == "FORBIDDEN" && it["a"]["r"] == "secrets";
        known.objects.contains_key(web) && known.warnings.iter().any(forbidden)
    })
    .await?;
    ensure!(!less.has("/secrets/"), "{:?}", less.objects.keys());

    let mut query = usual();
    let root = json!(["resource == 'deployments' && name == 'web'"]);
    query["roots"] = json!({"object_selector_expressions": root, "ignore_arc_direction": ["or"]});
    let mut rooted = site.ask(THE_AGENT, &query).await?;
    let of_web = |name: &String| !name.contains("helm") && !name.contains("other");
    rooted
        .until("the pods of the root", |known| {
            let pods = known
                .objects
                .keys()
                .filter(|it| it.starts_with("/pods/default/web-"));
            pods.count() == 2 && known.objects.contains_key(settings)
        })
        .await?;
    ensure!(
        rooted.objects.keys().all(of_web),
        "{:?}",
        rooted.objects.keys()
    );

    admin.ok(&["delete", "deployment", "web"]).await?;
    all.until("the deployment to be gone with its pods", |known| {
        !known.has("/default/web")
    })
    .await
}

/// Whatever the API server has can be listed and watched.
async fn everything(site: &Site) -> Result<()> {
    let query = json!({"queries": [{"include": {"resource_selector_expression": "true"}}]});
    let mut all = site.ask(THE_AGENT, &query).await?;
    all.until("all kinds of objects", |known| {
        ["/namespaces//default", "/configmaps/default/settings"]
            .iter()
            .all(|it| known.objects.contains_key(*it))
            && [
                "/nodes/",
                "rbac.authorization.k8s.io/clusterroles/",
                "apiregistration.k8s.io/apiservices/",
            ]
            .iter()
            .all(|it| known.has(it))
    })
    .await?;
    ensure!(all.warnings.is_empty(), "{:?}", all.warnings);
    Ok(())
}

fn watch(id: &str, resource: &str, group: &str) -> Value {
    let params =
        json!({"version": "v1", "resource": resource, "namespace": "default", "group": group});
    json!({"type": "watch", "watch_id": id, "watch_params": params})
}

async fn watches(site: &Site, admin: &Kubectl) -> Result<()> {
    let mut socket = site
        .open("/watch", "gitlab-agent-watch-api", HERSELF)
        .await?;
    socket.send(&watch("maps", "configmaps", "")).await?;
    wait_for(&mut socket, "maps", "ADDED", "settings").await?;
    socket
        .send(&watch("deployments", "deployments", "apps"))
        .await?;
    admin.apply(WEB).await?;
    wait_for(&mut socket, "deployments", "ADDED", "web").await?;
    admin.ok(&["delete", "configmap", "settings"]).await?;
    wait_for(&mut socket, "maps", "DELETED", "settings").await?;

    for (resource, group, code, reason) in [
        ("secrets", "", 403, "is forbidden"),
        ("gizmos", "apps", 404, "could not find"),
    ] {
        socket.send(&watch(resource, resource, group)).await?;
        let said = loop {
            let said = socket.next().await?;
            if said["watchId"] == resource {
                break said;
            }
        };
        let object = &said["error"]["object"];
        let message = object["message"].as_str().unwrap_or_default();
        ensure!(object["code"] == code && message.contains(reason), "{said}");
    }
    Ok(())
}

async fn wait_for(socket: &mut WebSocket, id: &str, kind: &str, name: &str) -> Result<()> {
    loop {
        let said = socket.next().await?;
        ensure!(said["type"] == "event", "{said}");
        let event = &said["watchEvent"];
        if said["watchId"] == id
            && event["type"] == kind
            && event["object"]["metadata"]["name"] == name
        {
            return Ok(());
        }
    }
}

async fn dashboard(site: &Site, admin: &Kubectl, folder: &Path) -> Result<()> {
    let front = format!("https://localhost:{}", site.nginx.port());
    let page = PAGE.replace("BASE", &format!("{front}{API}"));
    std::fs::write(folder.join("pages/page.html"), page)?;
    admin.apply(WEB).await?;
    let program = parts::program("chromium").context("no chromium")?;
    let mut command = Command::new(program);
    command
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ])
        .args([
            "--ignore-certificate-errors",
            "--enable-logging=stderr",
            "--remote-debugging-port=0",
        ])
        .arg(format!(
            "--user-data-dir={}",
            folder.join("browser").display()
        ))
        .arg(format!("{front}/page.html"));
    let mut browser = Process::spawn("chromium", &mut command, folder)?;

    let one = browser.wait_for("PODS 1 web-", SOON).await?;
    admin
        .ok(&["scale", "deployment", "web", "--replicas=2"])
        .await?;
    browser.wait_for("PODS 2 web-", SOON).await?;
    admin.ok(&["delete", "deployment", "web"]).await?;
    browser.wait_for("PODS 0 ", SOON).await?;
    browser.wait_for("ERROR secrets is forbidden", SOON).await?;

    ensure!(
        !browser.output().contains("FAILED"),
        "{one}: {}",
        browser.tail()
    );
    Ok(())
}

/// What a page of GitLab does with its package.
const PAGE: &str = r#"<!doctype html>
<script type="module">
  import { Configuration, WebSocketWatchManager } from "./cluster-client.js";
  document.cookie = "_gitlab_kas=session+alice%2B1; path=/; secure";
  const headers = { "GitLab-Agent-Id": "5", "X-CSRF-Token": "csrf-alice" };
  const manager = new WebSocketWatchManager(new Configuration({ basePath: "BASE", headers, credentials: "include" }));
  const watch = (resource) => {
    const watchParams = { version: "v1", resource, namespace: "default" };
    const message = { watchId: resource, watchParams };
    manager.initConnection({ message }).catch((error) => console.log("FAILED", error));
  };
  manager.on("data", "pods", (pods) => {
    console.log("PODS", pods.length, pods.map((pod) => pod.metadata.name).join(" "));
  });
  manager.on("error", "secrets", (error) => console.log("ERROR", error.message));
  watch("pods");
  watch("secrets");
</script>
"#;

const RIGHTS: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: alice}
rules:
- {apiGroups: [""], resources: [pods, configmaps, serviceaccounts, namespaces], verbs: [list, watch]}
- {apiGroups: [apps, batch, rbac.authorization.k8s.io], resources: ["*"], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: alice}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: alice}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "gitlab:user:alice"}]
"#;

const WEB: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: "local/busybox:1"
        imagePullPolicy: Never
        command: [httpd, -f, -p, "8080", -h, /www]
        envFrom: [{configMapRef: {name: settings}}, {secretRef: {name: password, optional: true}}]
"#;

/// A secret as Helm leaves it.
fn release() -> Result<String> {
    let release = json!({"name": "shop", "namespace": "default", "version": 1, "chart": {"metadata": {"name": "shop"}}});
    let mut zip = GzEncoder::new(Vec::new(), Compression::fast());
    zip.write_all(release.to_string().as_bytes())?;
    let inner = BASE64_STANDARD.encode(zip.finish()?);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1",
        "metadata": {"name": "sh.helm.release.v1.shop.v1"},
        "data": {"release": BASE64_STANDARD.encode(inner)},
    });
    Ok(secret.to_string())
}

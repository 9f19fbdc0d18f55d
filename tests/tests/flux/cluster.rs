//! Flux in a real cluster: a push that GitLab tells one replica of has the notification
//! controller called at once, by a pod that is connected to the other.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use tests::{
    agentk::{Agentk, Links},
    gitlab_double::Rails,
    gitlab_site::GitLabSite,
    kube::Cluster,
    kubectl::Kubectl,
    parts::{Part, say, skipped},
    process::Process,
    wait::until,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

const LIMIT: Duration = Duration::from_secs(120);
const FILE: &str = ".gitlab/agents/private/config.yaml";

#[tokio::test(flavor = "multi_thread")]
async fn a_push_has_flux_look_at_once() -> Result<()> {
    if skipped(
        "a_push_has_flux_look_at_once",
        &[Part::Cluster, Part::Redis],
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
    let site = GitLabSite::start(2).await?;
    let mut hooks = Hooks::start().await?;
    let text = format!(
        "flux: {{webhook_receiver_url: 'http://127.0.0.1:{}'}}\n",
        hooks.port
    );
    let files = site.double.repository(4).await?;
    files.commit("main", &[(FILE, Some(&text))]).await?;
    let admin = cluster.admin().patient(LIMIT);
    let mut pods = Pods::start(cluster, &site, folder.path()).await?;

    pods.say("the cluster lacks Flux's resources").await?;
    admin.apply(CRDS).await?;
    established(&admin).await?;
    pods.start_again(folder.path())?;
    let mine = "https://gitlab.example.com/group/app.git";
    admin.apply(&repository("app", mine)).await?;
    admin
        .apply(&repository("foreign", "https://github.com/group/app"))
        .await?;
    appears(&admin, "receiver", "gitlab-app").await?;
    appears(&admin, "secret", "gitlab-receiver-app").await?;
    noticed(&admin, "/hook/app").await?;
    let gitlab = site.double.rails(site.members[0].api).await?;
    hooks.hear(&gitlab).await?;

    let began = Instant::now();
    gitlab.push(7, "group/app").await?;
    let called = hooks.next().await?;
    let took = began.elapsed();
    ensure!(called.starts_with("POST /hook/app HTTP/1.1"), "{called}");
    let all = admin.ok(&["get", "receivers", "--output=name"]).await?;
    ensure!(
        all.lines().count() == 1,
        "for a repository of somebody else: {all}"
    );
    say(&format!(
        "Flux's webhook was called {took:?} after the push"
    ));

    pods.kill_leader(&admin).await?;
    hooks.hear(&gitlab).await?;
    admin.ok(&["delete", "gitrepository", "app"]).await?;
    let gone = async || admin.ok(&["get", "receivers", "--output=name"]).await.ok();
    let gone = async || gone().await.filter(|left| left.trim().is_empty()).map(drop);
    until("the Receiver to go with its repository", LIMIT, gone).await
}

/// Two pods of an agent, on two replicas.
struct Pods {
    links: [Links; 2],
    running: Vec<(&'static str, Agentk)>,
}

const NAMES: [&str; 2] = ["pod-a", "pod-b"];

impl Pods {
    async fn start(cluster: &Cluster, site: &GitLabSite, folder: &Path) -> Result<Self> {
        let kubeconfig = cluster.least_rights("flux", folder).await?;
        Kubectl::new(&kubeconfig)
            .refused(&["get", "secrets"])
            .await?;
        let links = [0, 1].map(|member: usize| Links {
            kas: format!("ws://127.0.0.1:{}/", site.members[member].agents),
            ca: None,
            kubeconfig: kubeconfig.clone(),
        });
        let mut pods = Self {
            links,
            running: Vec::new(),
        };
        pods.start_again(folder)?;
        Ok(pods)
    }

    /// New processes, which look for Flux anew.
    fn start_again(&mut self, folder: &Path) -> Result<()> {
        self.running.clear();
        for (name, links) in NAMES.into_iter().zip(&self.links) {
            let pod = Agentk::with_flags(&["--features=flux"], name, links, "agent-7", folder)?;
            self.running.push((name, pod));
        }
        Ok(())
    }

    /// Waits until one of them says this.
    async fn say(&self, words: &str) -> Result<()> {
        let said = async || {
            let mut all = self.running.iter().map(|(_, pod)| pod.process.output());
            all.any(|output| output.contains(words)).then_some(())
        };
        let said = until(words, LIMIT, said).await;
        said.with_context(|| self.tails())
    }

    fn tails(&self) -> String {
        let processes = self.running.iter().map(|(_, pod)| &pod.process);
        processes.map(Process::tail).collect::<Vec<_>>().join("\n")
    }

    async fn kill_leader(&mut self, admin: &Kubectl) -> Result<()> {
        let path = "--output=jsonpath={.spec.holderIdentity}";
        let leader = admin.ok(&["get", "lease", "agent-7-lock", path]).await?;
        let before = self.running.len();
        self.running.retain(|(name, _)| !leader.starts_with(name));
        ensure!(self.running.len() + 1 == before, "the leader is {leader}");
        Ok(())
    }
}

/// Plays the notification controller's listener.
pub(super) struct Hooks {
    pub(super) port: u16,
    calls: mpsc::Receiver<String>,
    _serving: AbortOnDropHandle<()>,
}

impl Hooks {
    pub(super) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (sender, calls) = mpsc::channel(1000);
        let serving = tokio::spawn(async move {
            let sender = Arc::new(sender);
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut head = vec![0; 4096];
                let read = socket.read(&mut head).await.unwrap_or_default();
                head.truncate(read);
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                // Who left needs no answer; who is not listened to is not counted.
                let _ = socket.write_all(answer).await;
                let _ = sender.try_send(String::from_utf8_lossy(&head).into_owned());
            }
        });
        Ok(Self {
            port,
            calls,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    /// Pushes until there is a call, and takes all that come of it: who
    /// subscribes hears only what comes later.
    pub(super) async fn hear(&mut self, gitlab: &Rails) -> Result<()> {
        let calls = tokio::sync::Mutex::new(&mut self.calls);
        until("a call", LIMIT, async || {
            gitlab.push(7, "group/app").await.ok()?;
            let mut calls = calls.lock().await;
            let call = tokio::time::timeout(Duration::from_secs(1), calls.recv());
            call.await.ok().flatten().map(drop)
        })
        .await?;
        let quiet = Duration::from_secs(2);
        while tokio::time::timeout(quiet, self.calls.recv()).await.is_ok() {}
        Ok(())
    }

    async fn next(&mut self) -> Result<String> {
        let call = tokio::time::timeout(LIMIT, self.calls.recv()).await;
        call.context("no call")?.context("nobody listens")
    }
}

pub(super) async fn established(admin: &Kubectl) -> Result<()> {
    let wait = [
        "wait",
        "--for=condition=Established",
        "--timeout=120s",
        "crd",
        "--all",
    ];
    admin.ok(&wait).await.map(drop)
}

pub(super) async fn appears(admin: &Kubectl, kind: &str, name: &str) -> Result<()> {
    let there = async || admin.ok(&["get", kind, name]).await.ok().map(drop);
    until(name, LIMIT, there).await
}

/// The notification controller tells where it is to be called.
pub(super) async fn noticed(admin: &Kubectl, path: &str) -> Result<()> {
    let patch = format!(r#"{{"status": {{"webhookPath": "{path}"}}}}"#);
    let patch = [
        "patch",
        "receiver",
        "gitlab-app",
        "--type=merge",
        "--patch",
        &patch,
    ];
    admin.ok(&patch).await.map(drop)
}

pub(super) fn repository(name: &str, url: &str) -> String {
    format!(
        "apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {{name: {name}}}
spec: {{interval: 1h, url: '{url}'}}
"
    )
}

/// As much of Flux's resources as matters here.
pub(super) const CRDS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gitrepositories.source.toolkit.fluxcd.io}
spec:
  group: source.toolkit.fluxcd.io
  names: {kind: GitRepository, listKind: GitRepositoryList, plural: gitrepositories, singular: gitrepository}
  scope: Namespaced
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: receivers.notification.toolkit.fluxcd.io}
spec:
  group: notification.toolkit.fluxcd.io
  names: {kind: Receiver, listKind: ReceiverList, plural: receivers, singular: receiver}
  scope: Namespaced
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

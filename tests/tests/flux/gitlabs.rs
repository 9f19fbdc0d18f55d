//! GitLab's agentk, with all its modules that ask GitLab for something, asks for the same through ours as through
//! GitLab's kas.
//!
//! `GO_KAS` names GitLab's kas, and `AGENTK_BIN` its agentk, of 16.5.

mod seen;

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    agentk::{Agentk, Links},
    gitlab_double::{GitLabDouble, Scenario},
    kube::Cluster,
    parts::{Part, say, skipped},
    ports,
    process::Process,
    programs,
    redis::Redis,
    wait::{until_accepts, until_nothing_is_missing},
};
use tokio::{process::Command, time::Instant};

use self::seen::{Calls, LATER, call, differences, missing, seen};
use super::cluster::{CRDS, Hooks, appears, established, noticed, repository};

/// How long nothing may change while calls are missing. The scanner comes every twenty seconds.
const PATIENCE: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(120);
/// From the agent's start, at least.
const SPAN: Duration = Duration::from_secs(60);
const FILE: &str = ".gitlab/agents/private/config.yaml";
/// The image that the agent's container scanning starts.
const SCANNER: &str = "docker.io/aquasec/trivy@sha256:f7fe23c37e0545435e4b8cf3c8c1712ab5584677e119edfb749b0f50ca4de895";
#[tokio::test(flavor = "multi_thread")]
async fn gitlabs_agentk_has_the_same_calls_made_through_ours_as_through_gitlabs_kas() -> Result<()>
{
    let name = "gitlabs_agentk_has_the_same_calls_made_through_ours_as_through_gitlabs_kas";
    let Some(theirs) = programs::given("GO_KAS", name)? else {
        return Ok(());
    };
    let Some(agentk) = programs::given("AGENTK_BIN", name)? else {
        return Ok(());
    };
    if skipped(name, &[Part::Cluster, Part::Redis]) {
        return Ok(());
    }

    let theirs = calls(theirs, &agentk).await.context("GitLab's kas")?;
    let mut ours = calls(programs::kas()?, &agentk).await.context("ours")?;
    ours.retain(|call, _| !LATER.contains(&call.as_str()));

    let differences = differences(&theirs, &ours);
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}

/// What comes to GitLab from a cluster of its own with one agent, through this kas.
async fn calls(kas: PathBuf, agentk: &Path) -> Result<Calls> {
    let cluster = Cluster::up().await?;

    let checked = async {
        let mut site = Site::start(kas, &cluster).await?;
        let seen = site.run(&cluster, agentk).await;
        seen.with_context(|| site.kas.tail())
    };
    let checked = checked.await;

    cluster.down().await?;
    checked
}

/// GitLab and a kas.
struct Site {
    double: GitLabDouble,
    kas: Process,
    agents: u16,
    api: u16,
    hooks: Hooks,
    _redis: Redis,
    folder: TempDir,
}

impl Site {
    async fn start(program: PathBuf, cluster: &Cluster) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let hooks = Hooks::start().await?;
        let double = GitLabDouble::start(Scenario::sample()).await?;
        double.change(|it| it.workspaces = vec![workspace()]);
        double.record();
        let files = double.repository(4).await?;
        let text = agent_file(hooks.port);
        files.commit("main", &[(FILE, Some(&text))]).await?;
        cluster
            .image(SCANNER, &scanner(folder.path())?)
            .await
            .context("the scanner")?;
        let redis = Redis::start(folder.path()).await?;

        let [agents, users, api, peers, observability] = [(); 5].map(|()| ports::free());
        let (secret, private) = (folder.path().join("secret"), folder.path().join("private"));
        double.write_secret(&secret)?;
        std::fs::write(&private, BASE64_STANDARD.encode([7; 32]))?;
        let text = format!(
            "gitlab: {{address: '{gitlab}', external_url: 'https://gitlab.example.com', authentication_secret_file: {secret}}}\n\
             agent:\n  listen: {{address: '127.0.0.1:{agents}', websocket: true}}\n  \
             kubernetes_api: {{listen: {{address: '127.0.0.1:{users}'}}, url_path_prefix: /k8s-proxy/}}\n\
             api: {{listen: {{address: '127.0.0.1:{api}', authentication_secret_file: {secret}}}}}\n\
             private_api: {{listen: {{address: '127.0.0.1:{peers}', authentication_secret_file: {private}}}}}\n\
             redis: {{server: {{address: '127.0.0.1:{redis}'}}}}\n\
             observability: {{listen: {{address: '127.0.0.1:{observability}'}}, logging: {{level: debug}}, usage_reporting_period: 2s}}\n",
            gitlab = double.url(),
            secret = secret.display(),
            private = private.display(),
            redis = redis.port(),
        );
        let file = folder.path().join("kas.yaml");
        std::fs::write(&file, text)?;
        let mut command = Command::new(program);
        command
            .arg(format!("--configuration-file={}", file.display()))
            .env("OWN_PRIVATE_API_URL", format!("grpc://127.0.0.1:{peers}"));
        let kas = Process::spawn("kas", &mut command, folder.path())?;
        for port in [agents, users, api, peers, observability] {
            let listens = until_accepts(port, LIMIT).await;
            listens.with_context(|| kas.tail())?;
        }
        Ok(Self {
            double,
            kas,
            agents,
            api,
            hooks,
            _redis: redis,
            folder,
        })
    }

    /// Until all that has to come has come.
    async fn run(&mut self, cluster: &Cluster, agentk: &Path) -> Result<Calls> {
        let admin = cluster.admin().patient(LIMIT);
        admin.apply(CRDS).await?;
        established(&admin).await?;
        let mine = "https://gitlab.example.com/group/app.git";
        admin.apply(&repository("app", mine)).await?;
        let links = Links {
            kas: format!("ws://127.0.0.1:{}/", self.agents),
            ca: None,
            kubeconfig: cluster.agent_kubeconfig(),
        };
        let (name, token) = ("agentk", "agent-7");
        let folder = self.folder.path();
        let began = Instant::now();
        let agent = Agentk::run(agentk.to_owned(), name, &links, token, folder)?;
        let asked = async {
            appears(&admin, "receiver", "gitlab-app").await?;
            noticed(&admin, "/hook/app").await?;
            let gitlab = self.double.rails(self.api).await?;
            self.hooks.hear(&gitlab).await?;
            let missing = async || missing(&seen(&self.double.recorded()));
            until_nothing_is_missing("all calls", PATIENCE, missing).await
        };
        asked.await.with_context(|| agent.process.tail())?;
        // Whoever asks too often, or for more than that, has had time for it.
        tokio::time::sleep_until(began + SPAN).await;
        let recorded = self.double.recorded();
        let seen = seen(&recorded);
        let mut counts = BTreeMap::<_, usize>::new();
        for one in &recorded {
            *counts.entry(call(one)).or_default() += 1;
        }
        say(&format!("in {SPAN:?}: {counts:#?}"));
        Ok(seen)
    }
}

/// The agent's file.
fn agent_file(hooks: u16) -> String {
    format!(
        "flux: {{webhook_receiver_url: 'http://127.0.0.1:{hooks}'}}\n\
         container_scanning:\n  cadence: '@every 20s'\n  vulnerability_report: {{namespaces: [default]}}\n  \
         resource_requirements:\n    requests: {{cpu: 10m, memory: 16Mi}}\n    limits: {{cpu: 200m, memory: 64Mi}}\n\
         remote_development:\n  enabled: true\n  dns_zone: workspaces.example.com\n  partial_sync_interval: 5s\n\
         observability: {{logging: {{level: debug}}}}\n"
    )
}

/// A program in the scanner's place that finds something.
fn scanner(folder: &Path) -> Result<PathBuf> {
    let image = folder.join("scanner");
    let bin = image.join("bin");
    std::fs::create_dir_all(&bin)?;
    std::fs::copy("/bin/busybox", bin.join("busybox"))?;
    std::fs::write(image.join("report.json"), REPORT)?;
    let script = bin.join("trivy");
    std::fs::write(
        &script,
        "#!/bin/busybox sh\nexec /bin/busybox cat /report.json\n",
    )?;
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755))?;
    Ok(image)
}

/// A workspace as GitLab tells of it.
fn workspace() -> Value {
    json!({
        "name": "workspace-1",
        "namespace": "workspaces",
        "desired_state": "Running",
        "actual_state": "Creating",
        "config_to_apply": WORKSPACE,
    })
}

const REPORT: &str = r#"{
  "ClusterName": "",
  "Findings": [
    {
      "Namespace": "default",
      "Kind": "Deployment",
      "Name": "web",
      "Results": [
        {
          "Target": "web:1 (debian 12.1)",
          "Class": "os-pkgs",
          "Type": "debian",
          "Vulnerabilities": [
            {
              "VulnerabilityID": "CVE-2020-27350",
              "PkgName": "apt",
              "InstalledVersion": "1.8.2",
              "FixedVersion": "1.8.3",
              "Severity": "MEDIUM",
              "PrimaryURL": "https://vulnerabilities.example.com/1"
            }
          ]
        }
      ]
    }
  ]
}
"#;

const WORKSPACE: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata:
  name: workspace-1-inventory
  namespace: workspaces
  labels: {cli-utils.sigs.k8s.io/inventory-id: workspace-1-inventory}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: workspace-1
  namespace: workspaces
  labels: {agent.gitlab.com/id: "7"}
  annotations: {config.k8s.io/owning-inventory: workspace-1-inventory}
spec:
  replicas: 0
  selector: {matchLabels: {workspace: "1"}}
  template:
    metadata: {labels: {workspace: "1"}}
    spec:
      containers: [{name: tools, image: "local/busybox:1", imagePullPolicy: Never, command: [sleep, "1000"]}]
"#;

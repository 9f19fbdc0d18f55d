//! An agent that has a join token only: it obtains its own token by it, at any replica, once.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::Request;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tests::{
    http::send,
    kas::{Kas, Options},
    kube::Cluster,
    parts::{Part, skipped},
    ports,
    process::Process,
    programs,
    replicas::Replicas,
    stub_api::StubApi,
    wait::until,
};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(60);

/// An agentk that has a join token, in a folder of its own.
struct Joining {
    name: String,
    folder: PathBuf,
    kubeconfig: PathBuf,
}

impl Joining {
    fn new(name: &str, parent: &Path, join_token: &str, api: &StubApi) -> Result<Self> {
        let folder = parent.join(name);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("join-token"), format!("{join_token}\n"))?;
        Ok(Self {
            name: name.to_owned(),
            kubeconfig: api.kubeconfig(&folder)?,
            folder,
        })
    }

    /// Starts it, with this kas and these flags besides.
    fn start(&self, agents: u16, flags: &[&str]) -> Result<Process> {
        let mut command = Command::new(programs::own_agentk()?);
        command
            .arg(format!("--kas-address=grpc://127.0.0.1:{agents}"))
            .arg("--join-token-file")
            .arg(self.folder.join("join-token"))
            .arg("--token-file")
            .arg(self.token_file())
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg(format!(
                "--observability-listen-address=127.0.0.1:{}",
                ports::free()
            ))
            .args(flags)
            .env("POD_NAMESPACE", "default")
            .env("POD_NAME", &self.name)
            .env_remove("KUBECONFIG");
        Process::spawn(&self.name, &mut command, &self.folder)
    }

    fn token_file(&self) -> PathBuf {
        self.folder.join("token")
    }

    fn waiting_file(&self) -> PathBuf {
        self.folder.join("token.joining")
    }

    /// Starts it, and waits until it gives up; gives what it says.
    async fn refused(&self, agents: u16) -> Result<String> {
        let mut process = self.start(agents, &[])?;
        let status = process.ended(SOON).await?;
        ensure!(!status.success(), "{}", process.tail());
        ensure!(!self.token_file().exists(), "it has a token");
        Ok(process.output())
    }
}

/// Waits until the agent of a number serves a user's requests there.
async fn serves(users: u16, agent: &str, user: &str) -> Result<()> {
    let asked = async || {
        let request = Request::get(format!("http://127.0.0.1:{users}/k8s-proxy/version"))
            .header("authorization", format!("Bearer pat:{agent}:{user}"));
        let answer = send(request.body(Bytes::new()).ok()?).await.ok()?;
        answer.status().is_success().then_some(())
    };
    until("a request to be served", SOON, asked).await
}

fn hash(token: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(token.trim())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_is_good_for_one_agent_whichever_replica_is_asked() -> Result<()> {
    if skipped(
        "a_join_token_is_good_for_one_agent_whichever_replica_is_asked",
        &[Part::Redis],
    ) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let replicas = Replicas::start(2, folder.path()).await?;
    let join_token = replicas.cli(&["cluster", "add", "edge"]).await?;
    let user = replicas.cli(&["user", "create", "ana"]).await?;
    let grant = ["access", "grant", "--agent", "edge", "--user", "ana"];
    replicas
        .cli(&[&grant[..], &["--as", "agent"]].concat())
        .await?;
    let api = StubApi::start().await?;
    let [first, second] = [0, 1].map(|number| replicas.members[number].agents);

    let edge = Joining::new("edge", folder.path(), &join_token, &api)?;
    let process = edge.start(first, &[])?;
    for member in &replicas.members {
        serves(member.users, "2", &user).await?;
    }

    // The file has hashes only, and nobody but the agent has its token.
    let own = fs::read_to_string(edge.token_file())?;
    let file = fs::read_to_string(folder.path().join("agents.yaml"))?;
    ensure!(file.contains(&hash(&own)), "{file}");
    ensure!(
        !file.contains(own.trim()) && !file.contains(&join_token),
        "{file}"
    );
    let mode = fs::metadata(edge.token_file())?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    ensure!(!edge.waiting_file().exists(), "a token waits");

    let thief = Joining::new("thief", folder.path(), &join_token, &api)?;
    let said = thief.refused(second).await?;
    ensure!(said.contains("used already, by another agentk"), "{said}");
    let log = replicas.members[1].process.output();
    ensure!(log.contains("used already, by another agentk"), "{log}");

    // It needs no join token any more, and the first one goes on.
    fs::remove_file(edge.folder.join("join-token"))?;
    drop(process);
    let _again = edge.start(second, &[])?;
    for member in &replicas.members {
        serves(member.users, "2", &user).await?;
    }
    let show = replicas.cli(&["agent", "show", "edge"]).await?;
    ensure!(show.contains("used") && show.contains("live"), "{show}");
    Ok(())
}

/// One server without a store, an agent that joins there, and its user.
struct Site {
    kas: Kas,
    api: StubApi,
    folder: TempDir,
}

impl Site {
    async fn start(options: Options<'_>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        Ok(Self {
            kas: Kas::start(options, folder.path()).await?,
            api: StubApi::start().await?,
            folder,
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_that_is_over_or_revoked_or_replaced_is_refused() -> Result<()> {
    let site = Site::start(Options::default()).await?;
    let Site { kas, api, folder } = &site;
    let short = kas.cli(&["cluster", "add", "edge", "--for", "1s"]).await?;
    let expired = async || {
        let shown = kas.cli(&["agent", "show", "edge"]).await.ok()?;
        shown.contains("expired").then_some(())
    };
    until("the join token to expire", SOON, expired).await?;

    let late = Joining::new("late", folder.path(), &short, api)?;
    let said = late.refused(kas.agents).await?;
    ensure!(
        said.contains("kas refuses the join token") && said.contains("expired at"),
        "{said}"
    );

    let replaced = kas.cli(&["agent", "join-token", "edge"]).await?;
    let revoked = kas.cli(&["agent", "join-token", "edge"]).await?;
    kas.cli(&["agent", "join-token", "edge", "--revoke"])
        .await?;
    for (name, token) in [("replaced", replaced), ("revoked", revoked)] {
        let agent = Joining::new(name, folder.path(), &token, api)?;
        let said = agent.refused(kas.agents).await?;
        ensure!(said.contains("the join token is not known"), "{said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_while_it_joins_joins_when_it_is_started_again() -> Result<()> {
    let trail = tempfile::tempdir()?;
    let file = trail.path().join("audit.jsonl");
    let more = format!("audit: {{sinks: [{{file: {{path: {}}}}}]}}", file.display());
    let options = Options {
        more: &more,
        ..Options::default()
    };
    let site = Site::start(options).await?;
    let Site { kas, api, folder } = &site;
    let join_token = kas.cli(&["cluster", "add", "edge"]).await?;
    let user = kas.create_user("ana", "edge", &["agent"]).await?;
    let id = kas.agent_id("edge").await?;
    let edge = Joining::new("edge", folder.path(), &join_token, api)?;

    // Its token is written down, and kas cannot be reached.
    let mut process = edge.start(ports::free(), &[])?;
    process.wait_for("could not join", SOON).await?;
    let waiting = fs::read_to_string(edge.waiting_file())?;
    process.end_by("KILL", SOON).await?;
    let mut process = edge.start(kas.agents, &[])?;
    serves(kas.users, &id, &user).await?;
    ensure!(fs::read_to_string(edge.token_file())? == waiting);

    // As if it had been killed between the answer and the last write.
    process.end_by("KILL", SOON).await?;
    fs::rename(edge.token_file(), edge.waiting_file())?;
    let _process = edge.start(kas.agents, &[])?;
    serves(kas.users, &id, &user).await?;
    ensure!(fs::read_to_string(edge.token_file())? == waiting);

    let recorded = async || {
        let trail = fs::read_to_string(&file).ok()?;
        let mut records = trail.lines();
        let joined = records.find(|it| it.contains("\"change\":\"joined\""))?;
        Some(joined.to_owned())
    };
    let joined = until("a record of the join", SOON, recorded).await?;
    ensure!(
        joined.contains("agent:edge") && joined.contains("127.0.0.1"),
        "{joined}"
    );
    ensure!(
        !joined.contains(waiting.trim()) && !joined.contains(&join_token),
        "{joined}"
    );
    Ok(())
}

/// What an agent's service account needs, as in the chart.
const RIGHTS: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: joining}
---
apiVersion: v1
kind: Secret
metadata: {name: edge-token}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: joining}
rules:
  - {apiGroups: [""], resources: [secrets], resourceNames: [edge-token], verbs: [get, update]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: joining}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: joining}
subjects: [{kind: ServiceAccount, name: joining, namespace: default}]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_start_together_write_one_token_to_their_secret() -> Result<()> {
    if skipped(
        "pods_that_start_together_write_one_token_to_their_secret",
        &[Part::Cluster],
    ) {
        return Ok(());
    }
    let cluster = Cluster::api_server("").await?;
    let checked = through_a_secret(&cluster).await;
    cluster.down().await?;
    checked
}

async fn through_a_secret(cluster: &Cluster) -> Result<()> {
    let site = Site::start(Options::default()).await?;
    let Site { kas, api, folder } = &site;
    let join_token = kas.cli(&["cluster", "add", "edge"]).await?;
    let user = kas.create_user("ana", "edge", &["agent"]).await?;
    let id = kas.agent_id("edge").await?;
    let admin = cluster.admin();
    admin.apply(RIGHTS).await?;
    let account = admin.ok(&["create", "token", "joining"]).await?;
    let other = fs::read_to_string(cluster.agent_kubeconfig())?;
    let kubeconfig = folder.path().join("kubeconfig-joining");
    fs::write(&kubeconfig, other.replace("agent-token", account.trim()))?;

    let mut pods = Vec::new();
    for name in ["pod-a", "pod-b"] {
        let mut pod = Joining::new(name, folder.path(), &join_token, api)?;
        pod.kubeconfig.clone_from(&kubeconfig);
        let process = pod.start(kas.agents, &["--token-secret=edge-token"])?;
        pods.push((pod, process));
    }
    for (_, process) in &mut pods {
        process.wait_for("connected to kas", SOON).await?;
    }
    serves(kas.users, &id, &user).await?;
    let data = admin
        .ok(&["get", "secret", "edge-token", "-o", "json"])
        .await?;
    let data: Value = serde_json::from_str(&data)?;
    let keys = data["data"].as_object().context("no data")?;
    ensure!(keys.len() == 1, "{keys:?}");
    let own = STANDARD.decode(keys["token"].as_str().context("no token")?)?;
    let own = String::from_utf8(own)?;
    let file = fs::read_to_string(folder.path().join("agents.yaml"))?;
    ensure!(file.contains(&hash(&own)), "{file}");
    ensure!(pods.iter().all(|(pod, _)| !pod.token_file().exists()));

    // Another pod finds it there, and where the Secret is mounted the file.
    let pod = Joining::new("pod-c", folder.path(), "over", api)?;
    fs::write(pod.token_file(), &own)?;
    for (_, process) in &mut pods {
        process.end_by("KILL", SOON).await?;
    }
    let _process = pod.start(kas.agents, &["--token-secret=edge-token"])?;
    serves(kas.users, &id, &user).await
}

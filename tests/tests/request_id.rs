//! One `kubectl get` through two replicas: whatever three programs log of it is found by one request id.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    agentk::{Agentk, Links},
    certs::Certs,
    counting_api::CountingApi,
    haproxy::{Front, Haproxy},
    kubectl::Kubectl,
    parts::{Part, skipped},
    pod_set::PodSet,
    wait::until,
};

const LIMIT: Duration = Duration::from_secs(60);
const NEEDS: &[Part] = &[Part::Haproxy, Part::Kubectl, Part::Redis];
/// The spans below which the lines of a request are.
const SPANS: [&str; 2] = ["request", "call"];

/// Two replicas, an agent at the second, a user at the first.
struct Site {
    replicas: PodSet,
    agentk: Agentk,
    kubectl: Kubectl,
    _api: CountingApi,
    _front: Haproxy,
}

impl Site {
    async fn start() -> Result<Self> {
        let replicas = PodSet::start(2).await?;
        let folder = replicas.folder();
        let token = replicas.cli(&["agent", "create", "site"]).await?;
        let user = replicas.cli(&["user", "create", "ana"]).await?;
        let grant = ["access", "grant", "--agent", "site", "--user", "ana"];
        replicas
            .cli(&[&grant[..], &["--as", "agent"]].concat())
            .await?;
        log_at_debug(&replicas)?;
        let certs = Certs::create(&folder.join("certs"))?;
        let front = Haproxy::start(Front::Users, replicas.replica(0).users, &certs, folder).await?;
        let server = format!("https://localhost:{}/k8s-proxy/", front.port());
        let ca = certs.ca.display().to_string();
        let place = ["kubeconfig", "site", "--server", &server];
        let who = ["--user", "ana", "--token", &user];
        let authority = ["--certificate-authority", &ca];
        let kubeconfig = replicas
            .cli(&[&place[..], &authority, &who].concat())
            .await?;
        let file = folder.join("kubeconfig-ana");
        std::fs::write(&file, kubeconfig + "\n")?;
        let api = CountingApi::start(b'a').await?;
        let links = Links {
            kas: format!("ws://127.0.0.1:{}/", replicas.replica(1).agents),
            ca: None,
            kubeconfig: api.kubeconfig(folder)?,
        };
        let agentk = Agentk::with_flags(&[], "agentk", &links, &token, folder)?;
        let site = Self {
            kubectl: Kubectl::new(&file),
            replicas,
            agentk,
            _api: api,
            _front: front,
        };
        // kubectl knows then what the cluster offers, and the agent its id and level.
        let served = async || {
            let got = site.kubectl.ok(&["get", "configmaps"]).await;
            got.ok().filter(|_| site.agent_logs_at_debug())
        };
        let served = until("the agent", LIMIT, served).await;
        served.with_context(|| site.tails())?;
        Ok(site)
    }

    fn agent_logs_at_debug(&self) -> bool {
        let output = self.agentk.process.output();
        output
            .lines()
            .any(|line| line.contains("call served") && line.contains("\"agent.id\":2"))
    }

    /// What the first replica, the second and the agent have logged.
    fn logs(&self) -> [String; 3] {
        let agentk = self.agentk.process.output();
        [self.replicas.output(0), self.replicas.output(1), agentk]
    }

    fn tails(&self) -> String {
        format!("{}\n{}", self.replicas.tails(), self.agentk.process.tail())
    }
}

/// What an operator writes into the file for the agent.
fn log_at_debug(replicas: &PodSet) -> Result<()> {
    let file = replicas.folder().join("agents.yaml");
    let mut document: Value = serde_saphyr::from_str(&std::fs::read_to_string(&file)?)?;
    let agents = document["agents"].as_array_mut().context("no agents")?;
    let site = agents.iter_mut().find(|agent| agent["name"] == "site");
    site.context("no agent `site`")?["config"] =
        json!({"observability": {"logging": {"level": "debug"}}});
    let new = file.with_extension("new");
    std::fs::write(&new, document.to_string())?;
    Ok(std::fs::rename(new, file)?)
}

/// The id in the head of the last answer that `kubectl -v=8` tells of.
fn request_id(told: &str) -> Result<String> {
    let head = told
        .rsplit_once("X-Request-Id: ")
        .context(told.to_owned())?;
    let id = head.1.split_whitespace().next();
    Ok(id.context(told.to_owned())?.to_owned())
}

/// The id that a replica logs when it starts.
fn replica(log: &str) -> Result<String> {
    let line = log.lines().find(|line| line.contains("kas is up"));
    let line: Value = serde_json::from_str(line.context("it is not up")?)?;
    let id = line["replica"].as_str().context("it has no id")?;
    Ok(id.to_owned())
}

/// Whether a line is of a request, by its spans.
fn is_of_a_request(line: &Value) -> bool {
    let spans = line["spans"].as_array().into_iter().flatten();
    spans
        .filter_map(|span| span["name"].as_str())
        .any(|name| SPANS.contains(&name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubectl_get_through_two_replicas_is_found_whole_by_one_request_id() -> Result<()> {
    let name = "a_kubectl_get_through_two_replicas_is_found_whole_by_one_request_id";
    if skipped(name, NEEDS) {
        return Ok(());
    }
    let site = Site::start().await?;
    let before = site.logs().map(|log| log.len());

    let get = site.kubectl.run(&["get", "configmaps", "-v=8"]).await?;

    ensure!(get.code == 0, "{}\n{}", get.stderr, site.tails());
    let id = request_id(&get.stderr)?;
    let first = replica(&site.logs()[0])?;
    let events: [&[&str]; 3] = [
        &[
            "no idle tunnel on this replica; asking the owners",
            "call started through a peer",
            "request",
        ],
        &["serving a call for a peer", "call for a peer ended"],
        &["the Kubernetes API answered", "call served"],
    ];
    for (number, events) in events.into_iter().enumerate() {
        let found = async || {
            let new = site.logs()[number][before[number]..].to_owned();
            let lines = new
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let of_requests: Vec<_> = lines
                .filter(|line| line["target"] == "audit" || is_of_a_request(line))
                .collect();
            let all = events
                .iter()
                .all(|event| of_requests.iter().any(|line| line["message"] == *event));
            all.then_some(of_requests)
        };
        let found = until(&format!("{events:?}"), LIMIT, found).await;
        for line in found.with_context(|| site.tails())? {
            let line = line.to_string();
            ensure!(line.contains(&id), "request {id}, but {line}");
            ensure!(line.contains("\"agent.id\":2"), "{line}");
            ensure!(
                number != 1 || line.contains(&first),
                "asked by {first}, but {line}"
            );
        }
    }
    Ok(())
}

//! One `kubectl get` through two replicas: whatever three programs log of it is found by one request id, and their
//! spans are one trace.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use tests::{
    agentk::{Agentk, Links},
    certs::Certs,
    counting_api::CountingApi,
    haproxy::{Front, Haproxy},
    http as client,
    kubectl::Kubectl,
    otlp::{OtlpCollector, Span},
    parts::{Part, skipped},
    pod_set::{PodSet, Settings},
    stub_api::StubApi,
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
    bearer: String,
    _api: CountingApi,
    _stub: StubApi,
    _front: Haproxy,
}

impl Site {
    async fn start() -> Result<Self> {
        Self::tracing_to(None).await
    }

    /// The same, whose traces go to this URL.
    async fn tracing_to(traces: Option<String>) -> Result<Self> {
        let settings = Settings {
            traces: traces.clone(),
            audit: true,
            ..Settings::default()
        };
        let replicas = PodSet::with(2, &settings).await?;
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
        let stub = StubApi::start().await?;
        let links = Links {
            kas: format!("ws://127.0.0.1:{}/", replicas.replica(1).agents),
            ca: None,
            // The stub says what it was sent.
            kubeconfig: match traces {
                Some(_) => stub.kubeconfig(folder)?,
                None => api.kubeconfig(folder)?,
            },
        };
        let flags = traces.map(|url| ["--tracing-otlp-endpoint".to_owned(), url]);
        let flags: Vec<_> = flags.iter().flatten().map(String::as_str).collect();
        let agentk = Agentk::with_flags(&flags, "agentk", &links, &token, folder)?;
        let site = Self {
            kubectl: Kubectl::new(&file),
            bearer: format!("pat:2:{user}"),
            replicas,
            agentk,
            _api: api,
            _stub: stub,
            _front: front,
        };
        let get: &[&str] = match flags.is_empty() {
            true => &["get", "configmaps"],
            false => &["get", "--raw", "/echo"],
        };
        // kubectl knows then what the cluster offers, and the agent its id and level.
        let served = async || {
            let got = site.kubectl.ok(get).await;
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
    let trail = site.replicas.audit_file(0);
    let recorded = async || {
        let text = std::fs::read_to_string(&trail).ok()?;
        let mut records = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        records.find(|record| record["request_id"] == *id && record["kind"] == "end")
    };
    let record = until("the audit record", LIMIT, recorded).await?;
    let via = record["via"].as_array().context("no replicas")?;
    ensure!(via.len() == 2 && via[0] == first, "{record}");
    let peer = via[1].as_str().unwrap_or_default();
    ensure!(peer.starts_with("grpc://"), "{record}");
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

/// The `traceparent` that a cluster was sent: trace and span.
fn sent_to_the_cluster(echo: &str) -> Result<(String, String)> {
    let echo: Value = serde_json::from_str(echo)?;
    let headers = echo["headers"].as_array().context("no headers")?;
    let parents: Vec<_> = headers
        .iter()
        .filter(|header| header[0] == "traceparent")
        .filter_map(|header| header[1].as_str())
        .collect();
    let [parent] = parents[..] else {
        anyhow::bail!("not one traceparent: {echo}");
    };
    let parts: Vec<_> = parent.split('-').collect();
    ensure!(parts.len() == 4 && parts[3] == "01", "{parent}");
    Ok((parts[1].to_owned(), parts[2].to_owned()))
}

/// The span of this name.
fn named<'a>(spans: &'a [Span], name: &str) -> Result<&'a Span> {
    let span = spans.iter().find(|span| span.name == name);
    span.with_context(|| format!("no {name:?} in {spans:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubectl_get_through_two_replicas_is_one_trace() -> Result<()> {
    if skipped("a_kubectl_get_through_two_replicas_is_one_trace", NEEDS) {
        return Ok(());
    }
    let collector = OtlpCollector::start().await?;
    let site = Site::tracing_to(Some(collector.url())).await?;
    let whole = async |trace: &str| {
        let spans = async || Some(collector.trace(trace)).filter(|spans| spans.len() >= 4);
        let spans = until("the spans", LIMIT, spans).await;
        spans.with_context(|| format!("{:?}\n{}", collector.trace(trace), site.tails()))
    };

    let echo = site.kubectl.ok(&["get", "--raw", "/echo"]).await?;

    let (trace, last) = sent_to_the_cluster(&echo)?;
    let spans = whole(&trace).await?;
    ensure!(spans.len() == 4, "{spans:?}");
    let user = named(&spans, "user request")?;
    let search = named(&spans, "tunnel search")?;
    let forwarded = named(&spans, "forwarded call")?;
    let api = named(&spans, "Kubernetes API request")?;
    ensure!(user.parent.is_empty(), "{user:?}");
    ensure!(search.parent == user.id && search.instance == user.instance);
    ensure!(forwarded.parent == user.id && forwarded.instance != user.instance);
    ensure!(api.parent == forwarded.id && api.id == last, "{spans:?}");
    let services = [user, forwarded, api].map(|span| &*span.service);
    ensure!(services == ["kas", "kas", "agentk"], "{services:?}");
    for span in [user, api] {
        let said = |key: &str| span.attributes.get(key).map(String::as_str);
        ensure!(said("http.response.status_code") == Some("200"), "{span:?}");
        ensure!(said("http.request.method") == Some("GET"), "{span:?}");
    }
    let exemplar = format!("# {{trace_id=\"{trace}\"}}");
    ensure!(site.replicas.metrics(0).await?.contains(&exemplar));

    // What a client has begun goes on, and whatever it has decided counts.
    let url = format!(
        "http://127.0.0.1:{}/k8s-proxy/echo",
        site.replicas.replica(0).users
    );
    let ask = async |parent: &str| {
        let request = Request::get(&url)
            .header("authorization", format!("Bearer {}", site.bearer))
            .header("traceparent", parent);
        let answer = client::send(request.body(Bytes::new())?).await?;
        anyhow::Ok(String::from_utf8_lossy(answer.body()).into_owned())
    };
    let theirs = "0af7651916cd43dd8448eb211c80319c";
    let echo = ask(&format!("00-{theirs}-b7ad6b7169203331-01")).await?;
    ensure!(sent_to_the_cluster(&echo)?.0 == theirs, "{echo}");
    let spans = whole(theirs).await?;
    ensure!(named(&spans, "user request")?.parent == "b7ad6b7169203331");
    let unsampled = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let echo = ask(unsampled).await?;
    ensure!(echo.contains(unsampled), "{echo}");
    Ok(())
}

//! Watches stay open and complete while their agent's connections are cut and
//! the replicas that hold them are killed, on a real API server.

#[path = "watch/lists.rs"]
mod lists;
#[path = "watch/told.rs"]
mod told;

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tests::{
    agentk::{Agentk, Links},
    certs::Certs,
    chaos::Chaos,
    haproxy::{Front, Haproxy},
    http as client,
    kas::{Kas, Options, Server},
    kube::Cluster,
    kubectl::Kubectl,
    parts::{Part, skipped},
    process::Process,
    replicas::Replicas,
    wait::until,
};
use tokio_util::task::AbortOnDropHandle;

const CUTS: usize = 20;
const SOON: Duration = Duration::from_secs(60);
const NEEDS: &[Part] = &[Part::Cluster, Part::Haproxy, Part::Redis];
const PODS: &str = "/api/v1/namespaces/default/pods";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf;stream=watch";
/// Nobody runs it: every event of it is the test's.
const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: watched, labels: {round: "0"}}
spec:
  schedulerName: nobody
  containers: [{name: main, image: "local/none:1"}]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn watches_miss_and_repeat_nothing() -> Result<()> {
    if skipped("watches_miss_and_repeat_nothing", NEEDS) {
        return Ok(());
    }
    let cluster = Cluster::up().await?;

    let checked = async {
        let admin = cluster.admin();
        admin.apply(POD).await?;
        through_cuts(&cluster, &admin).await?;
        through_kills(&cluster, &admin).await
    };
    let checked = checked.await;

    cluster.down().await?;
    checked
}

/// kubectl and plain clients, while a load balancer resets the agent's connections.
async fn through_cuts(cluster: &Cluster, admin: &Kubectl) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let certs = Certs::create(&folder.join("certs"))?;
    let kas = Kas::start(Options::default(), folder).await?;
    let front = Haproxy::start(Front::Users, kas.users, &certs, folder).await?;
    let chaos = Chaos::start(&[kas.agents]).await?;
    let token = kas.create_agent("site").await?;
    let user = kas.create_user("ana", "site", &["agent"]).await?;
    let _agent = start_agent(chaos.port(), cluster, &token, folder)?;
    let server = Server {
        url: format!("https://localhost:{}/k8s-proxy/", front.port()),
        ca: certs.ca,
    };
    let kubectl = kas
        .kubectl("site", ["--user", "ana"], &user, &server)
        .await?;
    let bearer = format!("pat:{}:{user}", kas.agent_id("site").await?);
    let url = format!("http://127.0.0.1:{}/k8s-proxy{PODS}", kas.users);
    serves(&url, &bearer)
        .await
        .with_context(|| kas.process.tail())?;

    let table = kubectl.start("table", &["get", "pods", "-w", "-L", "round"], folder)?;
    let objects = kubectl.start("objects", &["get", "pods", "--watch", "-o", "json"], folder)?;
    let from = format!("{url}?watch=true&resourceVersion={}", version(admin).await?);
    let json = Follow::start(&from, &bearer, "application/json")?;
    let protobuf = Follow::start(&from, &bearer, PROTOBUF)?;
    let seen = || {
        [
            ("a table", in_table(&table)),
            ("objects", in_objects(objects.output().as_bytes())),
            ("JSON", in_json(&json.bytes())),
            ("protobuf", in_protobuf(&protobuf.bytes())),
        ]
    };
    all_see(&seen, "0", 2).await?;

    for round in 1..=CUTS {
        label(admin, 2 * round - 1).await?;
        chaos.cut();
        label(admin, 2 * round).await?;
        if round % 4 == 0 {
            all_see(&seen, &(2 * round).to_string(), 4).await?;
        }
    }
    let all_seen = all_see(&seen, &(2 * CUTS).to_string(), 4).await;
    all_seen.with_context(|| kas.process.tail())?;

    let every: Vec<_> = (0..=2 * CUTS).map(|round| round.to_string()).collect();
    for (what, rounds) in seen() {
        // What a plain client watches begins behind the first.
        let begins = usize::from(matches!(what, "JSON" | "protobuf"));
        ensure!(rounds == every[begins..], "{what} shows {rounds:?}");
    }
    let text = table.output();
    ensure!(text.matches("NAME").count() == 1, "{text}");
    ensure!(json.goes_on() && protobuf.goes_on(), "a watch has ended");
    let resumed = resumes(kas.observability).await?;
    ensure!(resumed >= 4.0 * 5.0, "only {resumed} resumes");

    let site = lists::Site {
        users: kas.users,
        observability: kas.observability,
        bearer: &bearer,
        chaos: &chaos,
    };
    let size = lists::Size {
        objects: 1200,
        cuts: lists::Cuts::Every(2 << 20),
        limit: SOON,
    };
    let lists = lists::come_whole(&site, size, admin, folder).await;
    lists.with_context(|| kas.process.tail())
}

/// kubectl and a plain client through one replica, while those that hold the tunnels are killed.
async fn through_kills(cluster: &Cluster, admin: &Kubectl) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let mut replicas = Replicas::start(3, folder).await?;
    let owners = [replicas.members[1].agents, replicas.members[2].agents];
    let chaos = Chaos::start(&owners).await?;
    let token = replicas.cli(&["agent", "create", "site"]).await?;
    let user = replicas.cli(&["user", "create", "ana"]).await?;
    let grant = ["access", "grant", "--agent", "site", "--user", "ana"];
    replicas
        .cli(&[&grant[..], &["--as", "agent"]].concat())
        .await?;
    let _agent = start_agent(chaos.port(), cluster, &token, folder)?;
    let url = format!(
        "http://127.0.0.1:{}/k8s-proxy{PODS}",
        replicas.members[0].users
    );
    let bearer = format!("pat:2:{user}");
    serves(&url, &bearer).await?;
    let (kubectl, _front) = kubectl_through(&replicas, &user, folder).await?;
    label(admin, 0).await?;
    let from = format!("{url}?watch=true&resourceVersion={}", version(admin).await?);
    let json = Follow::start(&from, &bearer, "application/json")?;
    let mut table = kubectl.start("table", &["get", "pods", "-w", "-L", "round"], folder)?;
    let seen = || {
        [
            ("JSON", in_json(&json.bytes())),
            ("a table", in_table(&table)),
        ]
    };
    until("the table", SOON, async || {
        (!in_table(&table).is_empty()).then_some(())
    })
    .await?;

    let mut round = 0;
    for owner in [1, 2, 1, 2] {
        round += 1;
        label(admin, round).await?;
        all_see(&seen, &round.to_string(), 2).await?;
        replicas.members[owner].process.end_by("KILL", SOON).await?;
        round += 1;
        label(admin, round).await?;
        let seen = all_see(&seen, &round.to_string(), 2).await;
        seen.with_context(|| replicas.members[0].process.tail())?;
        replicas.restart(owner).await?;
    }

    let every: Vec<_> = (0..=round).map(|round| round.to_string()).collect();
    for (what, rounds) in seen() {
        // What a plain client watches begins behind the first.
        let begins = usize::from(what == "JSON");
        ensure!(rounds == every[begins..], "{what} shows {rounds:?}");
    }
    ensure!(json.goes_on() && table.is_running(), "a watch has ended");
    let resumes = resumes(replicas.members[0].observability).await?;
    ensure!(resumes >= 4.0, "only {resumes} resumes");
    Ok(())
}

/// kubectl at the first replica, behind a load balancer that stays.
async fn kubectl_through(
    replicas: &Replicas,
    user: &str,
    folder: &Path,
) -> Result<(Kubectl, Haproxy)> {
    let certs = Certs::create(&folder.join("certs"))?;
    let front = Haproxy::start(Front::Users, replicas.members[0].users, &certs, folder).await?;
    let server = format!("https://localhost:{}/k8s-proxy/", front.port());
    let ca = certs.ca.display().to_string();
    let place = ["kubeconfig", "site", "--server", &server];
    let who = ["--user", "ana", "--token", user];
    let authority = ["--certificate-authority", &ca];
    let text = replicas
        .cli(&[&place[..], &authority, &who].concat())
        .await?;
    let file = folder.join("kubeconfig-ana");
    std::fs::write(&file, text + "\n")?;
    Ok((Kubectl::new(&file), front))
}

fn start_agent(port: u16, cluster: &Cluster, token: &str, folder: &Path) -> Result<Agentk> {
    let links = Links {
        kas: format!("ws://127.0.0.1:{port}/"),
        ca: None,
        kubeconfig: cluster.agent_kubeconfig(),
    };
    Agentk::start("agentk", &links, token, folder)
}

async fn serves(url: &str, bearer: &str) -> Result<()> {
    let answer = async || client::get(url, bearer).await.ok();
    let good = async || answer().await.filter(|answer| answer.status().is_success());
    until("the agent", SOON, good).await.map(drop)
}

async fn label(admin: &Kubectl, round: usize) -> Result<()> {
    let label = format!("round={round}");
    let args = ["label", "pod", "watched", "--overwrite", &label];
    admin.ok(&args).await.map(drop)
}

/// The resource version of the pod.
async fn version(admin: &Kubectl) -> Result<String> {
    let path = "jsonpath={.metadata.resourceVersion}";
    admin.ok(&["get", "pod", "watched", "-o", path]).await
}

/// Waits until the first `count` of those who look have seen a round.
async fn all_see<const N: usize>(
    seen: &impl Fn() -> [(&'static str, Vec<String>); N],
    round: &str,
    count: usize,
) -> Result<()> {
    let all = async || {
        let missing = |(_, rounds): &(_, Vec<String>)| !rounds.iter().any(|seen| seen == round);
        (!seen().iter().take(count).any(missing)).then_some(())
    };
    let all = until(&format!("round {round}"), SOON, all).await;
    all.with_context(|| format!("{:?}", seen()))
}

async fn resumes(port: u16) -> Result<f64> {
    let metrics = client::get(&format!("http://127.0.0.1:{port}/metrics"), "").await?;
    let text = String::from_utf8_lossy(metrics.body()).into_owned();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("k8s_api_proxy_watch_resumes_total "));
    Ok(line.with_context(|| text.clone())?.parse()?)
}

/// The rounds in the last column of a table.
fn in_table(table: &Process) -> Vec<String> {
    let output = table.output();
    let whole = output.rfind('\n').map_or("", |end| &output[..end]);
    let lines = whole.lines().filter(|line| line.starts_with("watched"));
    lines
        .filter_map(|line| line.split_whitespace().last())
        .map(str::to_owned)
        .collect()
}

/// The rounds of objects one behind the other.
fn in_objects(bytes: &[u8]) -> Vec<String> {
    values(bytes).iter().filter_map(round).collect()
}

/// The rounds of events one behind the other; any but of the test's pod is seen as such.
fn in_json(bytes: &[u8]) -> Vec<String> {
    let event = |event: &serde_json::Value| match event["type"].as_str() {
        Some("MODIFIED") => round(&event["object"]),
        other => Some(format!("{other:?}")),
    };
    values(bytes).iter().filter_map(event).collect()
}

fn values(bytes: &[u8]) -> Vec<serde_json::Value> {
    let values = serde_json::Deserializer::from_slice(bytes).into_iter();
    values.map_while(Result::ok).collect()
}

fn round(object: &serde_json::Value) -> Option<String> {
    object["metadata"]["labels"]["round"]
        .as_str()
        .map(str::to_owned)
}

/// The rounds of frames behind their lengths, by the bytes of the label.
fn in_protobuf(mut bytes: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\x0a\x05round\x12";
    let mut rounds = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let Some((frame, rest)) = rest.split_at_checked(length) else {
            break;
        };
        let label = frame.windows(KEY.len()).position(|bytes| bytes == KEY);
        let value = label.map(|at| &frame[at + KEY.len()..]);
        let value = value.and_then(|value| value.get(1..1 + usize::from(value[0])));
        rounds.push(String::from_utf8_lossy(value.unwrap_or(b"none")).into_owned());
        bytes = rest;
    }
    rounds
}

/// A client that reads an answer as it comes.
struct Follow {
    bytes: Arc<Mutex<Vec<u8>>>,
    reading: AbortOnDropHandle<()>,
}

impl Follow {
    fn start(url: &str, bearer: &str, accept: &str) -> Result<Self> {
        let request = Request::get(url)
            .header("authorization", format!("Bearer {bearer}"))
            .header("accept", accept)
            .body(Empty::<Bytes>::new())?;
        let bytes = Arc::<Mutex<Vec<u8>>>::default();
        let sink = bytes.clone();
        let reading = AbortOnDropHandle::new(tokio::spawn(async move {
            let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
            let Ok(answer) = client.request(request).await else {
                return;
            };
            let mut body = answer.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                if let Ok(data) = frame.into_data() {
                    sink.lock().expect("nobody panics").extend_from_slice(&data);
                }
            }
        }));
        Ok(Self { bytes, reading })
    }

    fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().expect("nobody panics").clone()
    }

    fn goes_on(&self) -> bool {
        !self.reading.is_finished()
    }
}

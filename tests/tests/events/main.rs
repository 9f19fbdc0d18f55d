//! Events of a real cluster on their way to a log, to webhooks and to a reader,
//! with an agent that has no more rights than `agentk rbac` prints.

mod package;

use std::{
    collections::BTreeSet,
    fmt::Write,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use proto::events::rpc::{
    Event, FollowRequest, FollowResponse, Object, ReportRequest, collector_client::CollectorClient,
    reader_client::ReaderClient,
};
use runtime::jwt;
use serde_json::Value;
use tests::{
    agentk::{Agentk, Links},
    chaos::{Chaos, Mode},
    gitlab_double::Rails,
    gitlab_site::GitLabSite,
    kas::{Kas, Options},
    kube::Cluster,
    kubectl::Kubectl,
    parts::{Part, skipped},
    ports,
    process::Process,
    stub_api::StubApi,
    wait::{until, until_nothing_is_missing},
};
use tokio::{
    net::TcpListener,
    process::Command,
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

/// How long nothing may happen that is waited for: longer than a webhook waits between two attempts.
const SOON: Duration = Duration::from_secs(240);
/// How long the agent is cut off.
const OUTAGE: Duration = Duration::from_secs(20);
/// Warnings meanwhile.
const WARNINGS: usize = 1000;
/// The names of what events are about.
type Names = BTreeSet<String>;
/// What a reader has read, as long as it reads.
type Reading = (watch::Receiver<Names>, AbortOnDropHandle<()>);

#[tokio::test(flavor = "multi_thread")]
async fn a_clusters_events_arrive_and_none_is_lost_while_kas_is_away() -> Result<()> {
    let name = "a_clusters_events_arrive_and_none_is_lost_while_kas_is_away";
    if skipped(name, &[Part::Cluster]) {
        return Ok(());
    }
    let cluster = Cluster::up().await?;

    let checked = check(&cluster).await;

    cluster.down().await?;
    checked
}

async fn check(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let site = Site::start(cluster, folder).await?;
    let admin = cluster.admin().patient(SOON);

    admin.apply(BOTH_APIS).await?;
    site.hears(&["core".to_owned(), "newer".to_owned()].into())
        .await?;

    site.way.set(Mode::BlackHole);
    site.way.cut();
    let end = Instant::now() + OUTAGE;
    let during: Names = (0..WARNINGS).map(|number| format!("w{number}")).collect();
    admin
        .ok_with(&["create", "-f", "-"], warnings(&during).as_bytes())
        .await?;
    sleep_until(end).await;
    ensure!(
        site.read.borrow().is_disjoint(&during),
        "the agent is not cut off"
    );
    site.way.set(Mode::Pass);
    site.way.cut();
    site.hears(&during).await?;

    let lines = site.kas.process.output();
    let logged = |name: &str| lines.contains(&format!("\"name\":\"{name}\""));
    ensure!(
        during.iter().all(|name| logged(name)),
        "the log lacks events"
    );
    for refused in ["signature", "timestamp"] {
        let refused = format!("\"refused\": \"{refused}\"");
        ensure!(!site.receiver.output().contains(&refused), "{refused}");
    }
    ensure!(
        site.receiver.output().contains("\"attempt\": 2"),
        "nothing was sent again"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_hear_of_the_agents_they_name_whichever_replica_was_told() -> Result<()> {
    let name = "readers_hear_of_the_agents_they_name_whichever_replica_was_told";
    if skipped(name, &[Part::Redis]) {
        return Ok(());
    }
    let site = GitLabSite::start(2).await?;
    let [told, other] = &site.members[..] else {
        bail!("two replicas were wanted");
    };
    let mut readers = Vec::new();
    for (member, agents) in [(told, vec![5]), (other, vec![5]), (other, vec![])] {
        let rails = site.double.rails(member.api).await?;
        readers.push(follow(rails, agents).await?);
    }
    let report = async |token: &str, name: String| {
        let agent = Rails::connect(told.agents, Some(token)).await?;
        let regarding = Some(Object {
            name,
            ..Object::default()
        });
        let event = Event {
            regarding,
            ..Event::default()
        };
        let events = vec![event];
        let mut collector = CollectorClient::new(agent.caller());
        let report = ReportRequest { events, dropped: 0 };
        Ok::<_, anyhow::Error>(collector.report(report).await.map(drop))
    };

    let refused = report("nobody", "never".to_owned()).await?;
    let code = refused.map_err(|status| status.code());
    ensure!(code == Err(tonic::Code::Unauthenticated), "{code:?}");
    // Who subscribes to Redis hears only what comes later, so it is told again.
    let numbers = AtomicUsize::new(0);
    let all = until("every reader to hear", SOON, async || {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        report("agent-7", format!("seven-{number}"))
            .await
            .ok()?
            .ok()?;
        report("agent-5-a", format!("five-{number}"))
            .await
            .ok()?
            .ok()?;
        let heard = |name: &str| {
            let starts = |names: &Names| names.iter().any(|it| it.starts_with(name));
            [0, 1, 2].map(|reader| starts(&readers[reader].0.borrow()))
        };
        let all = heard("five") == [true; 3] && heard("seven")[2];
        all.then(|| heard("seven"))
    });

    ensure!(all.await? == [false, false, true], "who asked for agent 5");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_comes_and_goes_is_told_to_webhooks_and_readers() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let secret = folder.join("secret");
    std::fs::write(&secret, "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=")?;
    let (hook, api) = (ports::free(), ports::free());
    let receiver = receiver(hook, &secret, folder).await?;
    let secret = secret.display();
    let webhook = format!("{{url: 'http://127.0.0.1:{hook}/hook', secret_file: {secret}}}");
    let options = Options {
        agent: &format!("events: {{presence: true, webhooks: [{webhook}]}}"),
        more: &format!(
            "api: {{listen: {{address: '127.0.0.1:{api}', authentication_secret_file: {secret}}}}}"
        ),
        ..Options::default()
    };
    let kas = Kas::start(options, folder).await?;
    let (read, _reading) = reader(api).await?;
    let token = kas.create_agent("site").await?;
    let stub = StubApi::start().await?;
    let links = Links {
        kas: format!("ws://127.0.0.1:{}/", kas.agents),
        ca: None,
        kubeconfig: stub.kubeconfig(folder)?,
    };
    let hears = async |change: &str| {
        let name = format!("{change} site");
        let heard = async || {
            let both = read.borrow().contains(&name) && changed(&receiver.output()).contains(&name);
            both.then_some(())
        };
        let heard = until(&name, SOON, heard).await;
        heard.with_context(|| format!("{}\n{}", kas.process.tail(), receiver.tail()))
    };

    let agentk = Agentk::with_flags(&[], "agentk", &links, &token, folder)?;
    hears("agent.connected").await?;
    drop(agentk);
    hears("agent.disconnected").await?;
    kas.cli(&["agent", "revoke", "site"]).await?;
    let _refused = Agentk::with_flags(&[], "refused", &links, &token, folder)?;
    hears("agent.refused").await
}

/// kas with two webhooks, one of which hangs, two pods of one agent, and a reader.
struct Site {
    kas: Kas,
    way: Chaos,
    receiver: Process,
    read: watch::Receiver<Names>,
    pods: [Agentk; 2],
    _hanging: TcpListener,
    _reading: AbortOnDropHandle<()>,
}

impl Site {
    async fn start(cluster: &Cluster, folder: &Path) -> Result<Self> {
        let secret = folder.join("secret");
        std::fs::write(&secret, "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=")?;
        let (hook, api) = (ports::free(), ports::free());
        let receiver = receiver(hook, &secret, folder).await?;
        let hanging = TcpListener::bind("127.0.0.1:0").await?;
        let hang = hanging.local_addr()?;
        let secret = secret.display();
        let webhook = |url: String| format!("{{url: 'http://{url}/hook', secret_file: {secret}}}");
        let webhooks = [
            webhook(hang.to_string()),
            webhook(format!("127.0.0.1:{hook}")),
        ];
        let webhooks = webhooks.join(", ");
        let options = Options {
            agent: &format!("events: {{log: true, webhooks: [{webhooks}]}}"),
            more: &format!(
                "api: {{listen: {{address: '127.0.0.1:{api}', authentication_secret_file: {secret}}}}}"
            ),
            ..Options::default()
        };
        let kas = Kas::start(options, folder).await?;
        let way = Chaos::start(&[kas.agents]).await?;
        let token = kas.create_agent("site").await?;
        let kubeconfig = cluster.least_rights("events", folder).await?;
        Kubectl::new(&kubeconfig).refused(&["get", "pods"]).await?;
        let links = Links {
            kas: format!("ws://127.0.0.1:{}/", way.port()),
            ca: None,
            kubeconfig,
        };
        let (read, reading) = reader(api).await?;
        let pod = |name| {
            let flags = ["--features=events", "--kas-connections=1"];
            Agentk::with_flags(&flags, name, &links, &token, folder)
        };
        Ok(Self {
            kas,
            way,
            receiver,
            read,
            pods: [pod("pod-a")?, pod("pod-b")?],
            _hanging: hanging,
            _reading: reading,
        })
    }

    /// Waits until the reader and the webhook have heard of all these.
    async fn hears(&self, wanted: &Names) -> Result<()> {
        let lacks = || {
            let hooked = hooked(&self.receiver.output());
            let read = self.read.borrow();
            let lacks = |heard: &Names| wanted.difference(heard).count();
            (lacks(&read), lacks(&hooked))
        };
        let heard = until_nothing_is_missing("all events", SOON, async || lacks()).await;
        heard.with_context(|| {
            let (reader, webhook) = lacks();
            let [a, b] = &self.pods;
            let tails = [&self.kas.process, &a.process, &b.process, &self.receiver];
            let tails = tails.map(Process::tail).join("\n");
            format!(
                "the reader lacks {reader}, the webhook {webhook} of {}\n{tails}",
                wanted.len()
            )
        })
    }
}

async fn receiver(port: u16, secret: &Path, folder: &Path) -> Result<Process> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/events/receiver.py");
    let mut command = Command::new("python3");
    command.arg(program).arg(port.to_string()).arg(secret);
    Process::listening("receiver", &mut command, port, folder).await
}

/// What a webhook's receiver has taken.
fn hooked(output: &str) -> Names {
    let lines = output
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let events = lines.flat_map(|line| {
        let events = line["body"]["data"]["events"].as_array().cloned();
        events.unwrap_or_default()
    });
    let names = events.filter_map(|event| event["regarding"]["name"].as_str().map(str::to_owned));
    names.collect()
}

/// The changes of agents that a webhook's receiver has taken.
fn changed(output: &str) -> Names {
    let lines = output
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_fleet = lines.filter(|line| line["body"]["type"] == "kas.fleet");
    let changes = of_fleet.flat_map(|line| {
        let changes = line["body"]["data"]["changes"].as_array().cloned();
        changes.unwrap_or_default()
    });
    let name = |change: Value| {
        let (kind, agent) = (change["type"].as_str()?, change["agent"]["name"].as_str()?);
        Some(format!("{kind} {agent}"))
    };
    changes.filter_map(name).collect()
}

/// Follows the events, by the port for GitLab, with a token as GitLab's.
async fn reader(port: u16) -> Result<Reading> {
    let unknown = Rails::connect(port, None).await?;
    let mut unknown = ReaderClient::new(unknown.caller());
    let refused = unknown.follow(FollowRequest::default()).await;
    let code = refused.err().context("nobody is asked for a token")?.code();
    ensure!(code == tonic::Code::Unauthenticated, "{code:?}");

    let secret = jwt::Secret::new(vec![7; 32]);
    let token = jwt::sign(&secret, "gitlab.example.com", "gitlab-kas")?;
    follow(Rails::connect(port, Some(&token)).await?, Vec::new()).await
}

/// The names of what these agents tell of.
async fn follow(rails: Rails, agent_ids: Vec<i64>) -> Result<Reading> {
    let mut client = ReaderClient::new(rails.caller());
    let told = client.follow(FollowRequest { agent_ids }).await?;
    let mut told = told.into_inner();
    let (names, read) = watch::channel(Names::new());
    let reading = tokio::spawn(async move {
        let _open = rails;
        while let Ok(Some(FollowResponse { batch, .. })) = told.message().await {
            let batch = batch.unwrap_or_default();
            let objects = batch.events.into_iter().filter_map(|event| event.regarding);
            let changes = batch.changes.into_iter();
            let changes = changes.map(|it| format!("{} {}", it.r#type, it.agent_name));
            names.send_modify(|names| {
                names.extend(objects.map(|object| object.name));
                names.extend(changes);
            });
        }
    });
    Ok((read, AbortOnDropHandle::new(reading)))
}

/// One event as each API writes it.
const BOTH_APIS: &str = r#"
apiVersion: v1
kind: Event
metadata: {name: core.1, namespace: default}
involvedObject: {apiVersion: v1, kind: Pod, name: core, namespace: default}
type: Normal
reason: Started
message: it has started
count: 1
source: {component: test}
firstTimestamp: "2026-01-02T03:04:05Z"
lastTimestamp: "2026-01-02T03:04:05Z"
---
apiVersion: events.k8s.io/v1
kind: Event
metadata: {name: newer.1, namespace: default}
eventTime: "2026-01-02T03:04:05.000000Z"
reportingController: example.com/test
reportingInstance: one
action: Starting
type: Normal
reason: Started
note: it has started
regarding: {apiVersion: v1, kind: Pod, name: newer, namespace: default}
"#;

fn warnings(names: &Names) -> String {
    let mut text = String::new();
    for name in names {
        let event = format!(
            "---
apiVersion: v1
kind: Event
metadata: {{name: {name}.1, namespace: default}}
involvedObject: {{apiVersion: v1, kind: Pod, name: {name}, namespace: default}}
type: Warning
reason: Failed
message: it has failed
count: 1
"
        );
        let _ = writeln!(text, "{event}");
    }
    text
}

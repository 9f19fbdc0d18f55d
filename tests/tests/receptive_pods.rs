//! Two pods of an agent of which kas dials one: the other leads, and tells kas of
//! events through the first. In both forms of connections that kas makes, with pods
//! that find each other by a name or by labels, and with a kas that is started again.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use tests::{
    agentk::Agentk,
    certs::Certs,
    kas::{Kas, Options, Server},
    kube::Cluster,
    parts::{Part, skipped},
    ports,
    process::Process,
    wait::until,
};

const SOON: Duration = Duration::from_secs(60);
const SECRET: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
const AGENT: &str = "behind";
/// The pod that kas dials, and the one that leads.
const PODS: [&str; 2] = ["pod-a", "pod-b"];

/// How a pod finds the other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    ByName,
    ByLabels,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_kas_has_not_dialled_tells_it_of_events() -> Result<()> {
    if skipped(
        "a_leader_that_kas_has_not_dialled_tells_it_of_events",
        &[Part::Cluster],
    ) {
        return Ok(());
    }
    let cluster = Cluster::up().await?;

    let checked = async {
        for (form, found) in [
            ("attach", Found::ByName),
            ("reverse_tunnel", Found::ByName),
            ("reverse_tunnel", Found::ByLabels),
        ] {
            let checked = check(&cluster, form, found).await;
            checked.with_context(|| format!("{form}, {found:?}"))?;
        }
        anyhow::Ok(())
    };
    let checked = checked.await;

    cluster.down().await?;
    checked
}

async fn check(cluster: &Cluster, form: &str, found: Found) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let certs = Certs::create(&folder.join("certs"))?;
    let agent = format!("events: {{log: true}}\n  receptive_agent: {{form: {form}}}");
    let options = Options {
        agent: &agent,
        user_tls: Some(&certs),
        ..Options::default()
    };
    let mut kas = Kas::start(options, folder).await?;
    let [dialled, other, own, others] = [(); 4].map(|()| ports::free());
    let url = format!("grpc://127.0.0.1:{dialled}");
    let token = kas
        .cli(&["agent", "create", AGENT, "--receptive", &url])
        .await?;
    let admin = cluster.admin();
    let lock = format!("agent-{}-lock", kas.agent_id(AGENT).await?);
    admin.apply(&lease(&lock)).await?;
    std::fs::write(folder.join("pods"), SECRET)?;
    let pod = |number: usize, ports: [u16; 3]| {
        let mut flags = flags(ports, folder);
        let mut variables = vec![];
        if found == Found::ByLabels {
            flags.retain(|flag| !flag.starts_with("--private-api-peers"));
            flags.retain(|flag| !flag.starts_with("--private-api-listen-address"));
            let address = format!("{}:{own}", ADDRESSES[number]);
            flags.push(format!("--private-api-listen-address={address}"));
            variables.push(("POD_SELECTOR_LABELS", "app=behind,tier=agent"));
        }
        Agentk::receptive_in(
            &variables,
            PODS[number],
            &flags,
            &cluster.agent_kubeconfig(),
            &token,
            folder,
        )
    };
    let pods = [
        pod(0, [dialled, own, others])?,
        pod(1, [other, others, own])?,
    ];

    if found == Found::ByLabels {
        for (name, address) in PODS.into_iter().zip(ADDRESSES) {
            admin.apply(&POD.replace("NAME", name)).await?;
            let status = format!(
                r#"{{"status": {{"podIP": "{address}", "podIPs": [{{"ip": "{address}"}}]}}}}"#
            );
            let patch = [
                "patch",
                "pod",
                name,
                "--subresource=status",
                "--patch",
                &status,
            ];
            admin.ok(&patch).await?;
        }
    }
    let user = kas.create_user("ana", AGENT, &["agent"]).await?;
    let server = Server {
        url: format!("https://localhost:{}/k8s-proxy/", kas.users),
        ca: certs.ca.clone(),
    };
    let kubectl = kas
        .kubectl(AGENT, ["--user", "ana"], &user, &server)
        .await?;

    for begin in ["first", "again"] {
        if begin == "again" {
            kas.restart().await?;
        }
        let works = async || kubectl.ok(&["get", "namespace", "default"]).await.ok();
        let works = until("kubectl", SOON, works).await;
        works.with_context(|| tails(&kas, &pods))?;
        let name = format!("told-{form}-{begin}-{found:?}")
            .to_lowercase()
            .replace('_', "-");
        let said = format!("\"name\":\"{name}\"");
        admin.apply(&EVENT.replace("NAME", &name)).await?;
        let told = async || kas.process.output().contains(&said).then_some(());
        let told = until("the event", SOON, told).await;
        told.with_context(|| tails(&kas, &pods))?;
    }
    admin.ok(&["delete", "lease", &lock]).await.map(drop)
}

fn tails(kas: &Kas, [a, b]: &[Agentk; 2]) -> String {
    let all = [&kas.process, &a.process, &b.process];
    all.map(Process::tail).join("\n")
}

/// As if the pod that kas does not dial had led before.
fn lease(lock: &str) -> String {
    format!(
        "apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {{name: {lock}}}\n\
         spec: {{holderIdentity: {}, leaseDurationSeconds: 600}}\n",
        PODS[1]
    )
}

fn flags([api, own, other]: [u16; 3], folder: &Path) -> Vec<String> {
    let file = |name: &str| folder.join(name).display().to_string();
    vec![
        format!("--api-listen-address=127.0.0.1:{api}"),
        format!("--api-jwt-file={}", file("behind-receptive.pub")),
        format!("--private-api-listen-address=127.0.0.1:{own}"),
        format!("--private-api-peers=127.0.0.1:{other}"),
        format!("--private-api-jwt-file={}", file("pods")),
        "--features=events".to_owned(),
    ]
}

/// Where they listen for each other, at one port.
const ADDRESSES: [&str; 2] = ["127.0.0.2", "127.0.0.3"];
/// As Kubernetes knows such a pod; nothing runs it.
const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: behind, tier: agent}}
spec: {schedulerName: nobody, containers: [{name: agentk, image: none}]}
"#;

const EVENT: &str = r#"
apiVersion: v1
kind: Event
metadata: {name: NAME}
involvedObject: {kind: Pod, namespace: default, name: NAME, apiVersion: v1}
type: Warning
reason: Told
message: said by the test
firstTimestamp: "2026-01-01T00:00:00Z"
lastTimestamp: "2026-01-01T00:00:00Z"
count: 1
source: {component: test}
"#;

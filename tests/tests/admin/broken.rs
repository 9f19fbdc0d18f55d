//! Execs whose way to the cluster breaks: kubectl exits with an error and the reason, whatever broke and whatever carries
//! its streams, and with the command's own exit code where nothing did.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::Value;
use tests::{
    agentk::{Agentk, Links},
    chaos::Chaos,
    kube::Cluster,
    kubectl::{Kubectl, Streams},
    parts::{Part, say, skipped},
    process::Process,
    wait::until,
};

use super::{
    LIMIT,
    sessions::{Revocation, cat, metric},
};

/// Execs over each protocol that are cut at once.
const EXECS: usize = 4;
const PROTOCOLS: [Streams; 2] = [Streams::WebSocket, Streams::Spdy];
const KEY: &str = "upgrade_resume_timeout";
/// Output of which the client has a part at any time, in frames that come in pieces.
const YES: [&str; 5] = ["exec", "box", "--", "yes", "much is said"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exec_that_is_cut_never_looks_like_success() -> Result<()> {
    const NAME: &str = "an_exec_that_is_cut_never_looks_like_success";
    if skipped(NAME, &[Part::Cluster, Part::Haproxy, Part::Redis]) {
        return Ok(());
    }
    Cluster::with_box(cut).await
}

async fn cut(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let mut site = Revocation::start(cluster, folder).await?;
    resumes(&mut site, "0s").await?;
    let kubectl = site.user("ana", folder).await?;
    the_commands_own_code_is_kept(&kubectl).await?;

    let killed = Execs::start(&kubectl, "agent", folder).await?;
    site.agent.process.signal("KILL").await?;
    killed
        .end_with_the_reason()
        .await
        .with_context(|| site.tails())?;

    let balancer = Chaos::start(&[site.replicas.members[0].agents]).await?;
    let links = Links {
        kas: format!("grpc://127.0.0.1:{}", balancer.port()),
        ca: None,
        kubeconfig: cluster.agent_kubeconfig(),
    };
    site.agent = Agentk::start("agentk-again", &links, &site.token, folder)?;
    site.serves(&kubectl).await?;
    let reset = Execs::start(&kubectl, "connection", folder).await?;
    balancer.cut();
    reset
        .end_with_the_reason()
        .await
        .with_context(|| site.tails())?;

    site.serves(&kubectl).await?;
    let owned = Execs::start(&kubectl, "owner", folder).await?;
    site.replicas.members[0].process.signal("KILL").await?;
    owned
        .end_with_the_reason()
        .await
        .with_context(|| site.tails())?;

    let entry = site.replicas.members[1].observability;
    let told = "k8s_api_proxy_upgraded_connections_broken_total{failure_status=\"Sent\"}";
    // Counted when all is written, which its client may have read already.
    let counted = async || {
        let told = metric(entry, told).await.ok()?;
        (told >= (3 * 2 * EXECS) as f64).then_some(told)
    };
    let told = until("all broken execs to be told why", LIMIT, counted).await;
    let told = told.with_context(|| site.tails())?;
    say(&format!("{told} broken execs were told why"));

    // Who could be resumed is not, without the agent process.
    site.replicas.restart(0).await?;
    resumes(&mut site, "3s").await?;
    site.serves(&kubectl).await?;
    let lost = Execs::start(&kubectl, "agent-again", folder).await?;
    site.agent.process.signal("KILL").await?;
    let lost = lost.end_with_the_reason().await;
    lost.with_context(|| site.tails())
}

/// Starts the replica that users are at again; upgraded connections may be without a tunnel for so long.
async fn resumes(site: &mut Revocation, timeout: &str) -> Result<()> {
    let change = |it: &mut Value| it["agent"]["kubernetes_api"][KEY] = timeout.into();
    site.replicas.configure(1, change)?;
    site.replicas.members[1].kill().await?;
    site.replicas.restart(1).await
}

async fn the_commands_own_code_is_kept(kubectl: &Kubectl) -> Result<()> {
    for streams in PROTOCOLS {
        for (script, code) in [("seq 1 100000", 0), ("seq 1 100000; exit 3", 3)] {
            let exec = ["exec", "box", "--", "sh", "-c", script];
            let output = kubectl.over(streams).run(&exec).await?;
            ensure!(output.code == code, "{streams:?} {script}: {output:?}");
            ensure!(
                output.text().ends_with("\n100000\n"),
                "{streams:?} {script}"
            );
        }
    }
    Ok(())
}

/// Execs in progress: some are quiet, one over each protocol says more than is read.
struct Execs(Vec<(Streams, Process)>);

impl Execs {
    async fn start(kubectl: &Kubectl, what: &str, folder: &Path) -> Result<Self> {
        let all = PROTOCOLS.into_iter().flat_map(|streams| {
            (0..=EXECS).map(move |number| {
                let kubectl = kubectl.over(streams);
                let name = format!("{what}-{streams:?}-{number}");
                async move {
                    let process = if number < EXECS {
                        cat(&kubectl, &name, folder).await?
                    } else {
                        let mut yes = kubectl.start(&name, &YES, folder)?;
                        yes.wait_for("much is said", LIMIT).await?;
                        yes
                    };
                    anyhow::Ok((streams, process))
                }
            })
        });
        Ok(Self(try_join_all(all).await?))
    }

    async fn end_with_the_reason(self) -> Result<()> {
        for (streams, mut process) in self.0 {
            let status = process.ended(LIMIT).await?;
            let said = process.tail();
            ensure!(
                status.code() == Some(1),
                "{streams:?} ends by {status}: {said}"
            );
            let is_quiet = !said.contains("much is said");
            // A WebSocket's frame that is not whole is an error to kubectl, and leaves no place for the reason.
            let may_lack_the_reason = !is_quiet && streams == Streams::WebSocket;
            ensure!(
                may_lack_the_reason || said.contains("the tunnel broke"),
                "{streams:?} does not say why: {said}"
            );
        }
        Ok(())
    }
}

//! kubectl's exec, cp and port-forward, on a real kubelet.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use tests::{
    certs::Certs,
    haproxy::{Front, Haproxy},
    kube::Cluster,
    kubectl::{Kubectl, Streams},
    parts::{Part, say, skipped},
    payload,
    wait::until,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use super::site::{LIMIT, Site};

const PROTOCOLS: [Streams; 2] = [Streams::WebSocket, Streams::Spdy];
const CUT_INTERVAL: Duration = Duration::from_secs(2);
/// Cuts between two deaths of owners.
const KILL_EACH: usize = 5;
/// How long all may take besides the time that commands go on.
const PATIENCE: Duration = Duration::from_secs(600);
const COPIED_MIB: usize = 50;
const EXECS: usize = 4;
/// Lines that a shell answers, at least.
const MIN_LINES: usize = 20;
/// How often a command is begun anew that was cut before the cluster had answered: that cannot be resumed.
const MAX_BEGINNINGS: usize = 20;

fn variable(name: &str, default: usize) -> Result<usize> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{name} must be a number")),
        Err(_) => Ok(default),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_go_on_while_owners_die_and_connections_are_cut() -> Result<()> {
    const NAME: &str = "commands_go_on_while_owners_die_and_connections_are_cut";
    if skipped(NAME, &[Part::Cluster, Part::Haproxy, Part::Redis]) {
        return Ok(());
    }
    Cluster::with_box(disturbed).await
}

async fn disturbed(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let mut site = Site::start(&cluster.agent_kubeconfig(), folder).await?;
    let certs = Certs::create(&folder.join("certs"))?;
    let users = site.replicas.members[0].users;
    let front = Haproxy::start(Front::Users, users, &certs, folder).await?;
    let server = format!("https://localhost:{}/k8s-proxy/", front.port());
    let ca = certs.ca.display().to_string();
    let config = [
        "kubeconfig",
        "site",
        "--server",
        &server,
        "--user",
        "ana",
        "--token",
        &site.user,
        "--certificate-authority",
        &ca,
    ];
    let text = site.replicas.cli(&config).await?;
    let file = folder.join("kubeconfig");
    std::fs::write(&file, text + "\n")?;
    let kubectl = Kubectl::new(&file).patient(PATIENCE);

    let (begun, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = async {
        let done = work(&kubectl, folder, &begun).await;
        over.store(true, Ordering::Relaxed);
        done
    };
    let disturbed = async {
        // What goes on for long has begun.
        let long = PROTOCOLS.len() * (variable("STREAMS_EXECS", EXECS)? + 1);
        let all = async || {
            let all = begun.load(Ordering::Relaxed) == long || over.load(Ordering::Relaxed);
            all.then_some(())
        };
        until("the shells and ports to begin", PATIENCE, all).await?;
        disturb(&mut site, &over).await
    };
    let (worked, disturbed) = tokio::join!(work, disturbed);
    worked.with_context(|| site.tails())?;
    let (cuts, kills) = disturbed?;
    let (resumed, broken) = site.counts().await?;
    say(&format!(
        "{cuts} cuts and {kills} deaths of owners, resumed {resumed} times, {broken} broken"
    ));
    ensure!(
        resumed > 0.0 && broken == 0.0,
        "resumed {resumed}, broken {broken}: {}",
        site.breaks()
    );
    site.nothing_is_kept().await
}

/// Cuts and kills until all is over.
async fn disturb(site: &mut Site, over: &AtomicBool) -> Result<(usize, usize)> {
    let (mut cuts, mut kills) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        tokio::time::sleep(CUT_INTERVAL).await;
        if cuts % KILL_EACH == KILL_EACH - 1 {
            site.replace_owner(kills).await?;
            kills += 1;
        }
        site.link.cut();
        cuts += 1;
    }
    Ok((cuts, kills))
}

async fn work(kubectl: &Kubectl, folder: &Path, begun: &AtomicUsize) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(variable("STREAMS_SECONDS", 20)? as u64);
    let count = variable("STREAMS_EXECS", EXECS)?;
    let execs = PROTOCOLS.into_iter().flat_map(|streams| {
        (0..count)
            .map(move |number| shell((kubectl.over(streams), streams), number, end, folder, begun))
    });
    let copies = PROTOCOLS.map(|streams| copies(kubectl.over(streams), streams, folder));
    let ports = PROTOCOLS.map(|streams| forwards(kubectl.over(streams), streams, folder, begun));
    let (execs, copies, ports) = tokio::try_join!(
        try_join_all(execs),
        try_join_all(copies),
        try_join_all(ports)
    )?;
    say(&format!(
        "{} lines through {} execs, {} copies of {COPIED_MIB} MiB there and back, {} MiB each way through {} ports",
        execs.iter().sum::<usize>(),
        execs.len(),
        copies.len(),
        ports.iter().sum::<usize>(),
        ports.len(),
    ));
    Ok(())
}

/// A shell that is asked for the checksums of lines, one after the other, and exits with a code of its own.
async fn shell(
    (kubectl, streams): (Kubectl, Streams),
    number: usize,
    end: Instant,
    folder: &Path,
    begun: &AtomicUsize,
) -> Result<usize> {
    let name = format!("shell-{streams:?}-{number}");
    let script =
        "while read -r word; do [ \"$word\" = over ] && exit 7; echo \"$word\" | sha256sum; done";
    let args = ["exec", "-i", "box", "--", "sh", "-c", script];
    let mut shell = kubectl.start(&name, &args, folder)?;
    let mut lines = 0;
    while Instant::now() < end || lines < MIN_LINES {
        let word = hex::encode(payload::bytes((number * 100_000 + lines) as u64, 600));
        shell.write(&format!("{word}\n")).await?;
        let sum = payload::sha256(format!("{word}\n").as_bytes());
        let heard = shell.wait_for(&sum, LIMIT).await;
        heard.with_context(|| format!("{name}, line {lines}"))?;
        lines += 1;
        if lines == 1 {
            begun.fetch_add(1, Ordering::Relaxed);
        }
    }
    shell.write("over\n").await?;
    let status = shell.ended(LIMIT).await?;
    let said = shell.output();
    ensure!(
        status.code() == Some(7),
        "{name} ends by {status}: {}",
        shell.tail()
    );
    let sums = said.lines().filter(|line| line.ends_with("  -")).count();
    ensure!(sums == lines, "{name} says {sums} of {lines} sums");
    Ok(lines)
}

async fn copies(kubectl: Kubectl, streams: Streams, folder: &Path) -> Result<()> {
    let name = format!("copy-{streams:?}");
    let (sent, returned) = (folder.join(&name), folder.join(format!("{name}-back")));
    std::fs::write(&sent, payload::bytes(2, COPIED_MIB << 20))?;
    let digest = payload::sha256_of_file(&sent)?;
    let (local, remote) = (sent.display().to_string(), format!("box:/tmp/{name}"));
    ok(&kubectl, &["cp", &local, &remote])
        .await
        .context(name.clone())?;
    let sum = ["exec", "box", "--", "sha256sum", &format!("/tmp/{name}")];
    let inside = ok(&kubectl, &sum).await?;
    ensure!(
        inside.starts_with(&digest),
        "{name}: sent {digest}, inside is {inside}"
    );
    ok(&kubectl, &["cp", &remote, &returned.display().to_string()])
        .await
        .context(name.clone())?;
    let after = payload::sha256_of_file(&returned)?;
    ensure!(after == digest, "{name}: sent {digest}, back came {after}");
    let remove = ["exec", "box", "--", "rm", "-f", &format!("/tmp/{name}")];
    ok(&kubectl, &remove).await?;
    Ok(())
}

/// Runs a command that must succeed once it has begun.
async fn ok(kubectl: &Kubectl, args: &[&str]) -> Result<String> {
    for _ in 1..MAX_BEGINNINGS {
        let output = kubectl.run(args).await?;
        if output.code == 0 {
            return Ok(output.text());
        }
        if !output.stderr.contains("unable to upgrade") {
            break;
        }
    }
    kubectl.ok(args).await
}

/// Bytes through a forwarded port to a server that says what it is told; gives the MiB.
async fn forwards(
    kubectl: Kubectl,
    streams: Streams,
    folder: &Path,
    begun: &AtomicUsize,
) -> Result<usize> {
    let mib = variable("STREAMS_MIB", 64)?;
    let port = if streams == Streams::Spdy { 7007 } else { 7008 };
    let listens = [
        "exec",
        "box",
        "--",
        "nc",
        "-ll",
        "-p",
        &port.to_string(),
        "-e",
        "cat",
    ];
    let server = kubectl.start(&format!("server-{streams:?}"), &listens, folder)?;
    let sockets = [
        "exec",
        "box",
        "--",
        "cat",
        "/proc/net/tcp",
        "/proc/net/tcp6",
    ];
    let listens = async || {
        let sockets = kubectl.ok(&sockets).await.ok()?;
        sockets.contains(&format!(":{port:04X} ")).then_some(())
    };
    until("the server to listen", LIMIT, listens).await?;
    let name = format!("forward-{streams:?}");
    let ports = format!(":{port}");
    let mut forward = kubectl.start(&name, &["port-forward", "pod/box", &ports], folder)?;
    let line = forward
        .wait_for("Forwarding from 127.0.0.1:", LIMIT)
        .await?;
    begun.fetch_add(1, Ordering::Relaxed);
    let after = line.split("127.0.0.1:").nth(1).context("no address")?;
    let local: u16 = after.split(' ').next().unwrap_or_default().parse()?;
    let mut socket = TcpStream::connect(("127.0.0.1", local)).await?;
    for round in 0..mib {
        let sent = payload::bytes(round as u64, 1 << 20);
        let mut received = vec![0; sent.len()];
        let (mut read, mut write) = socket.split();
        let both = async {
            tokio::try_join!(write.write_all(&sent), read.read_exact(&mut received))?;
            anyhow::Ok(())
        };
        let both = tokio::time::timeout(LIMIT, both)
            .await
            .context("it takes too long");
        both.and_then(|both| both)
            .with_context(|| format!("{name}, round {round}: {}", forward.tail()))?;
        ensure!(
            sent == received,
            "{name}: round {round} came back otherwise"
        );
    }
    drop(server);
    Ok(mib)
}

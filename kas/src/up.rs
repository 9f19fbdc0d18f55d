//! `kas up`: everything in one process, to try it out and to watch it work.
//!
//! Replicas on loopback, a load balancer before them, the standalone control
//! plane, one agent, and a demo cluster unless there is a real one.

mod cluster;
mod kubeconfig;
mod redis_url;

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use cluster_state::{AgentId, memory::MemoryStore};
use control_plane::standalone::Standalone;
use playground::{
    accounts::{self, Accounts},
    agent::{self, Upstream},
    certificate, demo_cluster,
};
use runtime::{signal::Termination, telemetry};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{cli::UpArgs, replica::GracePeriods};
use cluster::{Cluster, Store};

/// How long the agent may take to connect before something must be wrong.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is looked which replicas hold the agent.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long requests may go on when all of this ends.
const GRACE_PERIODS: GracePeriods = GracePeriods {
    listen: Duration::ZERO,
    requests: Duration::from_secs(5),
};

/// Starts everything, says how to use it, and runs until SIGINT or SIGTERM.
///
/// # Errors
/// When something cannot start; the message says what to do.
pub async fn up(args: UpArgs) -> anyhow::Result<()> {
    telemetry::start(telemetry::LogLevel::Warn, telemetry::Format::Text);
    let store = match &args.redis {
        Some(url) => Store::Redis(Box::new(redis_url::options(url).context("--redis")?)),
        None => Store::Memory(MemoryStore::default()),
    };
    let mut signals = Termination::listen().context("cannot listen for signals")?;
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    std::fs::create_dir_all(&args.data_dir)
        .with_context(|| format!("--data-dir: cannot create {}", args.data_dir.display()))?;

    let accounts = accounts::prepare(&args.data_dir)?;
    let control_plane = Arc::new(Standalone::open(&accounts.file)?);
    tasks.spawn(control_plane.clone().follow(stop.clone()));
    let certificate = certificate::prepare(&args.data_dir)?;
    let replicas = usize::from(args.replicas);
    let cluster = Cluster::start(replicas, store, &control_plane, &certificate.tls).await?;
    let (agents, agents_address) = cluster
        .balance_agents(args.agent_port, args.drop_every)
        .await?;
    let (users, users_address) = cluster.balance_users(args.api_port).await?;
    tasks.spawn(agents.run(stop.clone()));
    tasks.spawn(users.run(stop.clone()));

    let upstream = if args.kubeconfig.is_some() {
        Upstream::Kubeconfig {
            file: args.kubeconfig.clone(),
            context: args.context.clone(),
        }
    } else {
        Upstream::Server(demo(&mut tasks, &stop).await?)
    };
    let kas_address = format!("ws://{agents_address}");
    let mut agent = agent::start(
        &kas_address,
        &accounts.agent_token_file,
        upstream,
        stop.clone(),
    )?;
    let kubeconfig = args.data_dir.join("kubeconfig");
    kubeconfig::write(&kubeconfig, users_address, &certificate.pem, &accounts)?;

    tokio::select! {
        connected = connected(&cluster, &accounts) => connected?,
        ended = &mut agent => bail!("the agent stopped: {}", describe(ended)),
        _ = signals.next() => return Ok(()),
    }
    announce(&cluster, &accounts, &args, &kubeconfig, &kas_address);
    tokio::select! {
        signal = signals.next() => say(&format!("{signal}: shutting down")),
        () = show_owners(&cluster, &accounts) => {}
        ended = &mut agent => bail!("the agent stopped: {}", describe(ended)),
    }
    stop.cancel();
    let down = shut_down(cluster, agent, tasks);
    tokio::select! {
        () = down => say("stopped"),
        _ = signals.next() => bail!("aborted by a second signal"),
    }
    Ok(())
}

async fn demo(tasks: &mut JoinSet<()>, stop: &CancellationToken) -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .context("cannot listen on 127.0.0.1 for the demo cluster")?;
    let server = format!("http://{}", listener.local_addr()?);
    let stop = stop.clone();
    tasks.spawn(async move {
        if let Err(error) = demo_cluster::serve(listener, stop).await {
            tracing::error!(%error, "demo cluster stopped");
        }
    });
    Ok(server)
}

async fn connected(cluster: &Cluster, accounts: &Accounts) -> anyhow::Result<()> {
    let there = async {
        while cluster.holders(AgentId(accounts.agent)).is_empty() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, there).await {
        Ok(()) => Ok(()),
        Err(_) => bail!(
            "the agent did not connect within {} s; run again with RUST_LOG=info to see why",
            CONNECT_TIMEOUT.as_secs()
        ),
    }
}

fn announce(
    cluster: &Cluster,
    accounts: &Accounts,
    args: &UpArgs,
    kubeconfig: &Path,
    kas_address: &str,
) {
    let kubectl = format!("kubectl --kubeconfig {}", kubeconfig.display());
    say(&format!(
        "{} replicas are up; agents connect to {kas_address}",
        cluster.replicas.len()
    ));
    say(&match &args.kubeconfig {
        None => "the agent's cluster is a demo, made anew each time".to_owned(),
        Some(file) => format!(
            "the agent's cluster is that of {}, {}",
            file.display(),
            match &args.context {
                Some(name) => format!("context {name}"),
                None => "its current context".to_owned(),
            }
        ),
    });
    if let Some(every) = args.drop_every {
        say(&format!(
            "the load balancer resets all agents' connections every {every:?}"
        ));
    }
    say(&format!(
        "another agent for the same cluster: agentk --kas-address {kas_address} --token-file {}",
        accounts.agent_token_file.display()
    ));
    if let Some(admin) = cluster.admin {
        say(&format!("what is connected, in a browser: http://{admin}/"));
    }
    say(&format!("ready: {kubectl} get ns"));
    for line in [
        "get pods -A -w",
        "create configmap greeting --from-literal=hello=world",
        "describe nodes",
    ] {
        say(&format!("  try: {kubectl} {line}"));
    }
    say("Press Ctrl-C to stop");
}

/// Prints which replicas hold the agent, whenever that changes.
async fn show_owners(cluster: &Cluster, accounts: &Accounts) {
    let mut shown = None;
    loop {
        let names = cluster.holders(AgentId(accounts.agent));
        if shown.as_ref() != Some(&names) {
            match &names[..] {
                [] => say("agent demo: not connected"),
                names => say(&format!("agent demo: connected to {}", names.join(", "))),
            }
            shown = Some(names);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn shut_down(cluster: Cluster, agent: agent::Running, mut tasks: JoinSet<()>) {
    // The agent finishes what it carries; `stop` is cancelled already.
    let _ = tokio::time::timeout(GRACE_PERIODS.requests, agent).await;
    let mut replicas = JoinSet::new();
    for replica in cluster.replicas {
        replicas.spawn(replica.drain(GRACE_PERIODS, CancellationToken::new()));
    }
    while replicas.join_next().await.is_some() {}
    while tasks.join_next().await.is_some() {}
}

fn describe(ended: Result<anyhow::Result<()>, tokio::task::JoinError>) -> String {
    match ended {
        Ok(Ok(())) => "no error reported".to_owned(),
        Ok(Err(error)) => format!("{error:#}"),
        Err(error) => error.to_string(),
    }
}

#[expect(clippy::print_stdout, reason = "this is what the command is for")]
fn say(line: &str) {
    println!("{line}");
}

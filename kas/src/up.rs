//! `kas up`: everything in one process, to try it out and to watch it work.
//!
//! Replicas on loopback, a load balancer before them, the standalone control
//! plane, one agent, and a demo cluster unless there is a real one.

mod cluster;
mod console;
mod kubeconfig;
mod lock;
mod ready;
mod redis_url;
mod show;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail};
use cluster_state::{AgentId, memory::MemoryStore};
use control_plane::standalone::Standalone;
use playground::{
    accounts::{self, Accounts},
    agent::{self, Upstream},
    certificate, demo_cluster,
    traffic::{Counts, Endpoint},
};
use runtime::{
    connect::ConnectOptions,
    shell::quoted,
    signal::Termination,
    telemetry,
    tls::{ClientTls, ClientTlsOptions},
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{cli::UpArgs, replica::GracePeriods};
use cluster::{Cluster, Store};
use console::Console;
use lock::DataLock;
use show::Counters;

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
    let _lock = DataLock::take(&args.data_dir)?;
    let mut console = Console::stdout();

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
    let connections_cut = agents.connections_cut();
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

    let endpoint = endpoint(users_address, &certificate.pem, &accounts)?;
    tokio::select! {
        ready = ready::first_request(&endpoint, &mut console) => ready?,
        ended = &mut agent => bail!("the agent stopped: {}", describe(ended)),
        _ = signals.next() => return Ok(()),
    }
    announce(
        &mut console,
        &cluster,
        &accounts,
        &args,
        &kubeconfig,
        &kas_address,
    );
    let counters = args.drop_every.map(|_| Counters {
        requests: Arc::<Counts>::default(),
        connections_cut,
    });
    let traffic = stop.child_token();
    if let Some(counters) = &counters {
        tasks.spawn(endpoint.run(counters.requests.clone(), traffic.clone()));
    }
    let agent_id = AgentId(accounts.agent);
    let ended = tokio::select! {
        signal = signals.next() => Ok(signal),
        never = show::run(&cluster, agent_id, counters.as_ref(), &mut console) => match never {},
        ended = &mut agent => Err(anyhow!("the agent stopped: {}", describe(ended))),
    };
    // Requests that end with all of this are not failed ones.
    traffic.cancel();
    console.keep_count();
    console.say(&format!("{}: shutting down", ended?));
    stop.cancel();
    let down = shut_down(cluster, agent, tasks);
    tokio::select! {
        () = down => console.say("stopped"),
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

/// The user's way to the agent's cluster.
fn endpoint(
    users: SocketAddr,
    certificate: &[u8],
    accounts: &Accounts,
) -> anyhow::Result<Endpoint> {
    let pem = std::str::from_utf8(certificate).context("the certificate is no PEM")?;
    let tls = ClientTls::load(&ClientTlsOptions {
        ca_pem: Some(pem.into()),
        only_ca_files: true,
        ..ClientTlsOptions::default()
    })?;
    let options = ConnectOptions {
        tls: Some(tls),
        ..ConnectOptions::default()
    };
    let server = format!("https://{users}/k8s-proxy/");
    let bearer = format!("pat:{}:{}", accounts.agent, accounts.user_token.expose());
    Ok(Endpoint::new(&server, &bearer, options)?)
}

fn announce(
    console: &mut Console,
    cluster: &Cluster,
    accounts: &Accounts,
    args: &UpArgs,
    kubeconfig: &Path,
    kas_address: &str,
) {
    let word = |file: &Path| quoted(&file.to_string_lossy()).into_owned();
    let kubectl = format!("kubectl --kubeconfig {}", word(kubeconfig));
    console.say(&format!(
        "{} replicas are up; agents connect to {kas_address}",
        cluster.replicas.len()
    ));
    console.say(&match &args.kubeconfig {
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
        console.say(&format!(
            "the load balancer resets all agents' connections every {every:?}; requests meanwhile are counted below"
        ));
    }
    console.say(&format!(
        "another agent for the same cluster: agentk --kas-address {} --token-file {}",
        quoted(kas_address),
        word(&accounts.agent_token_file)
    ));
    if let Some(admin) = cluster.admin {
        console.say(&format!("what is connected, in a browser: http://{admin}/"));
    }
    console.say(&format!("ready: {kubectl} get ns"));
    for line in [
        "get pods -A -w",
        "create configmap greeting --from-literal=hello=world",
        "describe nodes",
    ] {
        console.say(&format!("  try: {kubectl} {line}"));
    }
    console.say("Press Ctrl-C to stop");
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

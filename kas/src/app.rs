//! Composes a replica from its configuration, and runs it until it has drained. The only place that names concrete
//! backends.

mod admin;
mod control;
mod directions;
mod gitlab_api;
mod listener;
pub(crate) mod peers;
pub(crate) mod preflight;
mod reload;
pub(crate) mod routing;
mod traces;

use std::{path::Path, pin::pin, sync::Arc, time::Duration};

use agent_gateway::{
    Clusters, DrainSettings, Flux, Services, Tracker, WEBSOCKET_PING_INTERVAL, events::Events,
};
use anyhow::Context;
use audit::Audit;
use cluster_state::{ConnectionLog, OneTimeClaims, ReplicaId};
use control_plane::{notifications::Notifications, usage::Usage};
use prometheus_client::registry::Registry as Metrics;
use runtime::{
    descriptors,
    jwt::Secret,
    listen::{AgentAcceptor, AgentAcceptorOptions, AnyListener, PlainAcceptor},
    metrics, panics,
    signal::{Hangup, Termination},
    telemetry,
    tls::{H2, HTTP_1_1, Identity, ServerTls},
};
use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;
use user_gateway::{Graph, WebSocketTokens};

use control::Control;
use directions::Directions;
use listener::listen;
use reload::Reloader;

use crate::{
    config::{self, Config, ControlPlaneConfig, Listens as _, LogFormat, TlsFiles},
    replica::{GracePeriods, Port, Replica, Setup},
    version,
};

/// Runs a replica by its configuration file, until SIGINT or SIGTERM.
///
/// # Errors
/// When the configuration cannot be used, or requests were cut.
pub async fn run(file: &Path) -> anyhow::Result<()> {
    let config::Loaded { config, notes } = config::load(file)?;
    telemetry::start(config.observability.logging.level, format(&config));
    panics::log_and_count();
    descriptors::raise_limit();
    for note in notes {
        tracing::warn!(file = %file.display(), key = note.path, "{note}");
    }
    let mut signals = Termination::listen().context("cannot listen for signals")?;
    let mut hangup = Hangup::listen().context("cannot listen for signals")?;
    let stop = CancellationToken::new();
    let mut metrics = Metrics::default();
    metrics.register(
        "panics",
        "Tasks that panicked, each of which is a bug",
        panics::count().clone(),
    );
    crate::numbers::register_process(&mut metrics);
    let control = control::open(&config, &stop, &mut metrics)?;
    let id = ReplicaId::new(&format!("kas-{:016x}", rand::random::<u64>()));
    let written_by = audit::Identity {
        replica: id.to_string(),
        version: version::VERSION.to_owned(),
    };
    let (audit, writers) = Audit::open(&config.audit, written_by, &mut metrics)?;
    // Requests in progress have records until they are over.
    let close_audit = CancellationToken::new();
    let writing = tokio::spawn(writers.run(close_audit.clone()));
    if let Some(standalone) = control.standalone() {
        standalone.record_changes(audit.clone());
    }
    let setup = setup(&config, id, &control, audit, metrics).await?;
    let mut reloader = Reloader::new(file, &config, control.standalone());
    reloader.certificates(setup.certificates());
    let tracing = config.observability.tracing.as_ref();
    let exporting = tracing.map(|it| traces::start(it, &setup.me.replica));
    let exporting = exporting
        .transpose()?
        .map(|exporter| tokio::spawn(exporter.run(stop.clone())));
    let replica = Replica::start(setup);
    tracing::info!(version = version::VERSION, replica = %replica.id(), "kas is up");
    tell_service_manager(&NotifyState::Ready);

    let signal = loop {
        tokio::select! {
            signal = signals.next() => break signal,
            () = hangup.next() => reloader.reload(),
        }
    };
    tell_service_manager(&NotifyState::Stopping);
    tracing::info!(
        signal,
        "draining; send the signal again to exit immediately"
    );
    let force = CancellationToken::new();
    let mut draining = pin!(replica.drain(grace_periods(&config), force.clone()));
    let cut = tokio::select! {
        cut = &mut draining => cut,
        signal = signals.force() => {
            tracing::warn!(signal, "second signal; cutting requests in progress");
            force.cancel();
            draining.await
        }
    };
    stop.cancel();
    control.stopped().await;
    close_audit.cancel();
    // What it could not write it has logged.
    let _ = writing.await;
    if let Some(exporting) = exporting {
        // What it could not send it has logged.
        let _ = exporting.await;
    }
    anyhow::ensure!(
        cut.is_nothing(),
        "exited before all requests were finished; cut: {cut}"
    );
    tracing::info!("drained; all requests were finished");
    Ok(())
}

/// Tells systemd, where that is who started this process (`Type=notify`).
fn tell_service_manager(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!(%error, "could not tell the service manager; it may take this process for one that hangs");
    }
}

async fn setup(
    config: &Config,
    id: ReplicaId,
    control: &Control,
    audit: Audit,
    mut metrics: Metrics,
) -> anyhow::Result<Setup> {
    let agents = &config.agent.listen;
    let directions = Directions::new(config);
    let acceptor = AgentAcceptor::new(AgentAcceptorOptions {
        tls: server_tls(agents.tls().as_ref(), &[H2, HTTP_1_1])?,
        websocket: agents.websocket,
        proxy_protocol: agents.proxy_protocol,
        ping_interval: Some(WEBSOCKET_PING_INTERVAL),
        server: version::server(),
        directions: directions.agents(),
        ..AgentAcceptorOptions::default()
    });
    let listener = listen(&agents.socket())
        .await
        .context("agent.listen.address")?;
    tracing::info!(address = %listener, websocket = agents.websocket, "agents' port is up");
    let (me, peers) = peers::peers(config, &id).await?;
    let shared = routing::table(
        config,
        &me,
        peers.as_ref().map(|port| &port.settings),
        &mut metrics,
    )?;
    let log = ConnectionLog::new(shared.records.clone());
    let tracker = Tracker::with_log(shared.table.clone(), log, id.clone());
    let clusters = Clusters::new(
        shared.pins,
        shared.pin_changes,
        tracker.clone(),
        &mut metrics,
    );
    let pins = clusters.clone();
    // The metrics tell of agents that are away, which a GitLab does not name.
    if audit.is_on() || !control.plane.knows_all_agents() {
        pins.keep_all();
    }
    audit.find_clusters(move |agent| {
        let pin = pins.known_pin_of(cluster_state::AgentId(agent));
        pin.map(|it| it.to_string())
    });
    control.read_repositories(shared.sharing, &shared.notifications);
    let events = config.agent.events.as_ref();
    let events =
        events.map(|wanted| Events::open(wanted, shared.events, &version::server(), &mut metrics));
    let events = events.transpose()?;
    let settings = agent_gateway::Settings {
        max_connection_age: agents.max_connection_age.0,
        stream_renewal_interval: agents.stream_renewal_interval.0,
        connections_per_token_per_minute: agents.connections_per_token_per_minute,
        max_connections: match agents.max_connections {
            0 => agent_gateway::default_max_connections(),
            limit => limit,
        },
        rebalance: agents.rebalance,
        drain: agent_drain(config),
        services: agent_services(
            config,
            control,
            &tracker,
            &shared.notifications,
            events.as_ref().map(|work| work.events()),
            &mut metrics,
        )
        .with_clusters(clusters.clone()),
        directions: directions.agents(),
    };
    let graph = Graph::default();
    let services = gitlab_api::services(
        &shared.notifications,
        &tracker,
        &clusters,
        control.gitaly(),
        events.as_ref().map(|work| work.events()),
        config.agent.graph.enabled.then_some(&graph),
    );
    let gitlab = gitlab_api::port(config, services, &directions).await?;
    Ok(Setup {
        me,
        table: shared.table,
        notifications: shared.notifications,
        metrics,
        control_plane: control.plane.clone(),
        agents: Port {
            listener,
            acceptor,
            settings,
        },
        receptive_form: config.agent.receptive_agent.form,
        users: users(
            config,
            control.usage.clone(),
            &graph,
            shared.one_time,
            audit.clone(),
        )
        .await?,
        peers,
        gitlab,
        events,
        graph,
        admin: admin::port(&config.admin, &tracker, control.standalone(), audit).await?,
        max_agent_series: config.observability.max_agent_series.0,
        observability: Some(observability(config, &directions).await?),
    })
}

/// The methods that agents may call; those that every agent needs are in [`Services::standard`].
fn agent_services(
    config: &Config,
    control: &Control,
    tracker: &Arc<Tracker>,
    pushes: &Notifications,
    events: Option<&Events>,
    metrics: &mut Metrics,
) -> Services {
    let external_url = control::external_url(config).unwrap_or_default();
    let flux = Flux::new(pushes.clone(), control.usage.clone(), metrics);
    let plane = control.plane.clone();
    let usage = control.usage.clone();
    let mut services = Services::standard(plane, tracker.clone(), external_url, usage).with(
        agent_gateway::reconcile_projects(flux, control.plane.clone()),
    );
    if let Some(modules) = control.module_api() {
        services = services.with(agent_gateway::make_request(modules));
    }
    if config.agent.job_router.enabled
        && let Some(gitlab) = control.gitlab()
    {
        for method in agent_gateway::route_jobs(gitlab) {
            services = services.with(method);
        }
    }
    if let Some(events) = events {
        services = services.with(agent_gateway::report_events(events.clone()));
    }
    services
}

async fn users(
    config: &Config,
    usage: Option<Usage>,
    graph: &Graph,
    one_time: Option<Arc<dyn OneTimeClaims>>,
    audit: Audit,
) -> anyhow::Result<Option<Port<PlainAcceptor, user_gateway::Settings>>> {
    let Some(users) = &config.agent.kubernetes_api else {
        return Ok(None);
    };
    let listener = listen(&users.listen.socket())
        .await
        .context("agent.kubernetes_api.listen.address")?;
    tracing::info!(address = %listener, "Kubernetes API endpoint is up");
    let tls = server_tls(users.listen.tls().as_ref(), &[H2, HTTP_1_1])?;
    let acceptor = PlainAcceptor {
        proxy_protocol: users.listen.proxy_protocol,
        ..PlainAcceptor::new(tls)
    };
    let settings = user_gateway::Settings {
        url_path_prefix: users.url_path_prefix.0.clone(),
        // As GitLab's kas does. Where a file is the control plane, kubeconfigs without it are in use.
        prefix_required: matches!(config.control_plane(), ControlPlaneConfig::GitLab(_)),
        server: version::server_header(),
        origins: control::origins(config, &users.allowed_origins),
        response_headers: users
            .extra_allowed_response_headers
            .iter()
            .filter(|it| it.passes())
            .map(|it| it.0.clone())
            .collect(),
        resume: users.upgrade_resume_timeout.0,
        websocket_tokens: users
            .websocket_token_secret_file
            .as_deref()
            .map(|file| websocket_tokens(file, one_time))
            .transpose()?,
        usage,
        audit,
        account: matches!(config.control_plane(), ControlPlaneConfig::Standalone(_)),
        trusted_proxies: users.trusted_proxies.iter().map(|it| it.0).collect(),
        graph: config.agent.graph.enabled.then(|| graph.clone()),
        max_caller_series: config.observability.max_caller_series.0,
        ..user_gateway::Settings::default()
    };
    Ok(Some(Port {
        listener,
        acceptor,
        settings,
    }))
}

fn websocket_tokens(
    file: &Path,
    one_time: Option<Arc<dyn OneTimeClaims>>,
) -> anyhow::Result<WebSocketTokens> {
    let secret = Secret::read(file);
    let secret = secret.context("agent.kubernetes_api.websocket_token_secret_file")?;
    Ok(WebSocketTokens::new(secret, one_time))
}

async fn observability(
    config: &Config,
    directions: &Directions,
) -> anyhow::Result<(AnyListener, PlainAcceptor, metrics::Paths)> {
    let observability = &config.observability;
    let listener = listen(&observability.listen.socket())
        .await
        .context("observability.listen.address")?;
    let paths = metrics::Paths {
        metrics: observability.prometheus.url_path.clone(),
        liveness: observability.liveness_probe.url_path.clone(),
        readiness: observability.readiness_probe.url_path.clone(),
        directions: directions.kubernetes_api(),
    };
    let tls = server_tls(observability.listen.tls().as_ref(), &[H2, HTTP_1_1])?;
    Ok((listener, PlainAcceptor::new(tls), paths))
}

fn server_tls(files: Option<&TlsFiles>, alpn: &[&[u8]]) -> anyhow::Result<Option<ServerTls>> {
    let load = |files: &TlsFiles| {
        let identity = Identity {
            certificate: files.certificate_file.clone(),
            key: files.key_file.clone(),
        };
        ServerTls::load(identity, alpn)
    };
    Ok(files.map(load).transpose()?)
}

fn grace_periods(config: &Config) -> GracePeriods {
    let agents = config.agent.listen.listen_grace_period.0;
    match &config.agent.kubernetes_api {
        Some(users) => GracePeriods {
            listen: agents.max(users.listen.listen_grace_period.0),
            requests: users.listen.shutdown_grace_period.0,
        },
        None => GracePeriods {
            listen: agents,
            requests: Duration::from_secs(3600),
        },
    }
}

/// Agents must have moved before the time for requests in progress is over.
fn agent_drain(config: &Config) -> DrainSettings {
    let usual = DrainSettings::default();
    DrainSettings {
        connections_per_second: config.agent.listen.drain_connections_per_second,
        goaway_limit: usual.goaway_limit.min(grace_periods(config).requests / 2),
        ..usual
    }
}

fn format(config: &Config) -> telemetry::Format {
    match (config.observability.logging.format, config.control_plane()) {
        (Some(LogFormat::Gitlab), _) | (None, ControlPlaneConfig::GitLab(_)) => {
            telemetry::Format::GitLab
        }
        (Some(LogFormat::Json), _) | (None, ControlPlaneConfig::Standalone(_)) => {
            telemetry::Format::Json
        }
        (Some(LogFormat::Text), _) => telemetry::Format::Text,
    }
}

//! Puts the agent together, runs it, and ends it in order.

use runtime::{
    io::ByteStream,
    tls::TlsError,
    traces::{Exporter, Settings, TracesError},
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    attach_listener::{AttachListener, AttachListenerError},
    cluster::{Cluster, ClusterError, source},
    cluster_facts::ClusterFacts,
    config::{Config, Link, PrivateApi, Tracing},
    configuration::ConfigurationFollower,
    events::Events,
    features::Feature,
    flux::Flux,
    graph::{self, Graph},
    join,
    kubernetes_api::{self, Answers, Ask, Attach, KubernetesApi, Resumables},
    leader::Candidate,
    metrics::Metrics,
    observability::{Endpoints, ListenError},
    pod::Pod,
    private_api::{PeerAddresses, PodDialer, Relay},
    receptive::ReceptiveService,
    registration::Registration,
    services::Services,
    session::{Dialer, IncomingConnections, Session, Source, Uplink},
    token::{TokenError, TokenReader},
    tunnels::Tunnels,
    version,
};

/// An agent that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// No token from kas.
    #[error(transparent)]
    Join(#[from] join::JoinError),
    /// No TLS to kas.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// No metrics.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// No token for the collector of traces.
    #[error("--tracing-otlp-token-file")]
    TracesToken(#[source] std::io::Error),
    /// No collector of traces.
    #[error("--tracing-otlp-endpoint")]
    Traces(#[from] TracesError),
    /// No listener for kas or for other pods.
    #[error(transparent)]
    AttachListener(#[from] AttachListenerError),
}

/// Runs an agent until `stop`: then it takes no more calls, finishes those in progress, and unregisters. `force`
/// cancels calls in progress.
///
/// # Errors
/// [`RunError`] if it cannot start. A kas that cannot be reached is no error:
/// the agent keeps trying.
pub async fn run(
    config: Config,
    stop: CancellationToken,
    force: CancellationToken,
) -> Result<(), RunError> {
    // First, unless it is still to be obtained.
    let present = match &config.join {
        None => Some(TokenReader::open(config.token.clone()).await?),
        Some(_) => None,
    };
    let (source, dial_in) = source(&config).await?;
    let access = config.cluster.load().await?;
    let proxy = source::proxy(config.kubernetes_proxy.clone(), &access)?;
    let metrics = Metrics::default();
    let cluster = Cluster::open(access, proxy, metrics.clone()).await?;
    let joined = match &config.join {
        Some(join) => join::token(&config, join, &cluster, &stop).await?,
        None => None,
    };
    let token = match (present, joined) {
        (Some(token), _) => token,
        (None, Some(token)) => TokenReader::open(token).await?,
        // It was stopped before it had joined.
        (None, None) => return Ok(()),
    };
    let (session, uplink) = Session::new(source, &token, &metrics, config.kas_connections);
    let endpoints = match &config.observability {
        Some(listen) => {
            // kas does not dial a pod that is not ready.
            let needed = dial_in.is_none().then(|| uplink.clone());
            Some(Endpoints::bind(listen, metrics.registry(), needed).await?)
        }
        None => None,
    };

    // Ends what must outlive the last call.
    let last = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(session.run(last.clone()));
    if let Some(dial_in) = dial_in {
        let peers =
            |private: &PrivateApi| PeerAddresses::new(private, cluster.clone(), config.pod.clone());
        dial_in
            .open(&uplink, peers, &mut tasks, &stop, &last)
            .await?;
    }
    if let Some(endpoints) = endpoints {
        tasks.spawn(endpoints.serve(last.clone()));
    }
    let facts = ClusterFacts::new();
    let (learning, asked, ends) = (facts.clone(), cluster.clone(), last.clone());
    tasks.spawn(async move {
        ends.run_until_cancelled(learning.learn(&asked)).await;
    });
    if let Some(tracing) = &config.tracing {
        tasks.spawn(traces(tracing, config.pod.as_ref())?.run(last.clone()));
    }
    let force_tunnels = force.child_token();
    let resumables = Resumables::new(force_tunnels.clone(), metrics.clone());
    let answers = Answers::new(force_tunnels.clone(), metrics.clone());
    let api = KubernetesApi::new(
        cluster.clone(),
        resumables.clone(),
        answers.clone(),
        metrics.clone(),
    );
    let graph = Graph::new(&cluster, last.clone()).map_err(ClusterError::access)?;
    let mut services = Services::default();
    services.add(kubernetes_api::PATH, api.clone());
    services.add(kubernetes_api::EXACT_PATH, api);
    services.add(resumables.path().to_owned(), Attach::new(resumables));
    services.add(answers.path().to_owned(), Ask::new(answers.clone()));
    if config.features.contains(&Feature::Graph) {
        services.add(graph::PATH, graph.clone());
        services.add(graph::FORMER_PATH, graph.clone());
    }
    let (mut follower, configuration) =
        ConfigurationFollower::new(config.pod.clone(), facts.clone(), config.log_level.clone());
    let tunnels = Tunnels::new(
        uplink.clone(),
        services,
        facts.clone(),
        configuration.clone(),
        metrics.clone(),
        stop.clone(),
        force_tunnels.clone(),
    );
    tunnels.start();
    let mut work = config.leader_only.clone();
    for feature in &config.features {
        match feature {
            Feature::Events => work
                .push(Events::new(cluster.clone(), uplink.clone(), metrics.clone()).leader_only()),
            Feature::Flux => work.push(
                Flux {
                    cluster: cluster.clone(),
                    graph: graph.clone(),
                    uplink: uplink.clone(),
                    configuration: configuration.clone(),
                }
                .leader_only(),
            ),
            Feature::Graph => {}
        }
    }
    let leader = config.pod.clone().map(|pod| Candidate {
        pod,
        cluster: cluster.clone(),
        metrics,
        work,
        configuration,
    });
    if let Some(candidate) = leader {
        tasks.spawn(candidate.run(stop.clone()));
    }
    let registration = Registration::new(config.pod.clone(), facts);
    tokio::select! {
        () = registration.keep(&uplink) => {}
        () = follower.follow(&uplink) => {}
        () = stop.cancelled() => {}
    }

    tracing::info!("draining: waiting for calls in progress");
    let calls = async {
        tunnels.finished().await;
        answers.finished().await;
    };
    let finish = async {
        tokio::join!(calls, registration.unregister(&uplink));
    };
    tokio::pin!(finish);
    if tokio::time::timeout(config.grace, &mut finish)
        .await
        .is_err()
    {
        tracing::warn!("grace period is over; cancelling calls in progress");
        force_tunnels.cancel();
        finish.await;
    }
    last.cancel();
    while tasks.join_next().await.is_some() {}
    tracing::info!("stopped");
    Ok(())
}

/// Switches traces of this process on. It begins none, so that the share that is sampled is kas's.
fn traces(config: &Tracing, pod: Option<&Pod>) -> Result<Exporter, RunError> {
    let token = config.token.as_ref().map(std::fs::read_to_string);
    let token = token.transpose().map_err(RunError::TracesToken)?;
    let exporter = runtime::traces::start(&Settings {
        endpoint: config.endpoint.clone(),
        token: token.map(|token| token.trim().to_owned()),
        ca_files: config.ca.iter().cloned().collect(),
        service: "agentk",
        version: version::VERSION.to_owned(),
        instance: pod.map(|pod| pod.name.clone()).unwrap_or_default(),
        sample_ratio: 0.0,
    })?;
    tracing::info!(endpoint = config.endpoint, "exporting traces");
    Ok(exporter)
}

/// Where connections to kas come from; with the listener if kas dials.
async fn source(config: &Config) -> Result<(Source, Option<DialIn>), RunError> {
    match &config.link {
        Link::Dial(target) => {
            let dialer = Dialer::new(target.clone(), config)?;
            Ok((Source::Dial(Box::new(dialer)), None))
        }
        Link::Receive(receptive) => {
            let (sender, incoming) = IncomingConnections::new();
            let dial_in = DialIn {
                listener: ReceptiveService::open(receptive, sender.clone()).await?,
                private_api: receptive.private_api.clone(),
                incoming: sender,
            };
            Ok((Source::Receive(incoming), Some(dial_in)))
        }
    }
}

/// What an agent needs that kas dials.
struct DialIn {
    listener: AttachListener<ReceptiveService>,
    private_api: Option<PrivateApi>,
    incoming: mpsc::Sender<ByteStream>,
}

impl DialIn {
    /// Serves kas, and other pods if there is a private API.
    async fn open(
        self,
        uplink: &Uplink,
        peers: impl Fn(&PrivateApi) -> PeerAddresses,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
        last: &CancellationToken,
    ) -> Result<(), AttachListenerError> {
        if let Some(config) = &self.private_api {
            let relay = Relay::open(config, uplink.clone()).await?;
            let pod_dialer = PodDialer::new(config, peers(config), uplink.clone(), self.incoming)?;
            tasks.spawn(relay.serve(stop.clone(), last.clone()));
            tasks.spawn(pod_dialer.run(stop.clone(), last.clone()));
        }
        tasks.spawn(self.listener.serve(stop.clone(), last.clone()));
        Ok(())
    }
}

//! Puts the agent together, runs it, and ends it in order.

use runtime::{io::ByteStream, tls::TlsError};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{Cluster, ClusterError, source},
    config::{Config, Link, PrivateApi},
    configuration::ConfigurationFollower,
    entrance::{Entrance, EntranceError},
    events::Events,
    features::Feature,
    flux::Flux,
    graph::{self, Graph},
    kubernetes_api::{self, KubernetesApi},
    leader::Candidate,
    metrics::Metrics,
    observability::{Endpoints, ListenError},
    private_api::{Relay, Seeker},
    receptive::Door,
    registration::Registration,
    services::Services,
    session::{Arrivals, Dialer, Session, Source, Uplink},
    token::{TokenError, TokenReader},
    tunnels::Tunnels,
};

/// An agent that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// No TLS to kas.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// No metrics.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// No way in for kas.
    #[error(transparent)]
    Entrance(#[from] EntranceError),
}

/// Runs an agent until `stop`: then it takes no more calls, finishes those it
/// has, and says goodbye. `force` ends the calls as well.
///
/// # Errors
/// [`RunError`] if it cannot start. A kas that cannot be reached is no error:
/// the agent keeps trying.
pub async fn run(
    config: Config,
    stop: CancellationToken,
    force: CancellationToken,
) -> Result<(), RunError> {
    let token = TokenReader::open(config.token.clone()).await?;
    let (source, way_in) = source(&config).await?;
    let access = config.cluster.load().await?;
    let proxy = source::proxy(config.kubernetes_proxy.clone(), &access)?;
    let cluster = Cluster::open(access, proxy).await?;
    let metrics = Metrics::default();
    let (session, uplink) = Session::new(source, &token, &metrics, config.kas_connections);
    let endpoints = match &config.observability {
        Some(listen) => {
            // Nobody dials an agent that is not ready.
            let needed = way_in.is_none().then(|| uplink.clone());
            Some(Endpoints::bind(listen, metrics.registry(), needed).await?)
        }
        None => None,
    };

    // What must outlive the last call.
    let last = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(session.run(last.clone()));
    if let Some(way_in) = way_in {
        way_in.open(&uplink, &mut tasks, &stop, &last).await?;
    }
    if let Some(endpoints) = endpoints {
        tasks.spawn(endpoints.serve(last.clone()));
    }
    let api = KubernetesApi::new(cluster.clone(), metrics.clone());
    let force_tunnels = force.child_token();
    let graph = Graph::new(&cluster, last.clone()).map_err(ClusterError::access)?;
    let mut services = Services::default();
    services.add(kubernetes_api::PATH, api.clone());
    services.add(kubernetes_api::EXACT_PATH, api);
    if config.features.contains(&Feature::Graph) {
        services.add(graph::PATH, graph.clone());
    }
    let tunnels = Tunnels::new(
        uplink.clone(),
        services,
        metrics.clone(),
        stop.clone(),
        force_tunnels.clone(),
    );
    tunnels.start();
    let (mut follower, configuration) =
        ConfigurationFollower::new(config.pod.clone(), config.log_level.clone());
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
    let registration = Registration::new(config.pod.clone(), cluster);
    tokio::select! {
        () = registration.keep(&uplink) => {}
        () = follower.follow(&uplink) => {}
        () = stop.cancelled() => {}
    }

    tracing::info!("the agent stops; calls in progress are finished");
    let finish = async {
        tokio::join!(tunnels.finished(), registration.unregister(&uplink));
    };
    tokio::pin!(finish);
    if tokio::time::timeout(config.grace, &mut finish)
        .await
        .is_err()
    {
        tracing::warn!("calls were still in progress; they are cancelled");
        force_tunnels.cancel();
        finish.await;
    }
    last.cancel();
    while tasks.join_next().await.is_some() {}
    tracing::info!("the agent has stopped");
    Ok(())
}

/// Where connections to kas come from, and the way in if kas dials.
async fn source(config: &Config) -> Result<(Source, Option<WayIn>), RunError> {
    match &config.link {
        Link::Dial(target) => {
            let dialer = Dialer::new(target.clone(), config)?;
            Ok((Source::Dial(Box::new(dialer)), None))
        }
        Link::Receive(receptive) => {
            let (sender, arrivals) = Arrivals::new();
            let way_in = WayIn {
                entrance: Door::open(receptive, sender.clone()).await?,
                private_api: receptive.private_api.clone(),
                arrivals: sender,
            };
            Ok((Source::Receive(arrivals), Some(way_in)))
        }
    }
}

/// How kas comes to an agent that it dials.
struct WayIn {
    entrance: Entrance<Door>,
    private_api: Option<PrivateApi>,
    arrivals: mpsc::Sender<ByteStream>,
}

impl WayIn {
    /// Lets kas in, and other pods if they are to.
    async fn open(
        self,
        uplink: &Uplink,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
        last: &CancellationToken,
    ) -> Result<(), EntranceError> {
        if let Some(config) = &self.private_api {
            let relay = Relay::open(config, uplink.clone()).await?;
            let seeker = Seeker::new(config, uplink.clone(), self.arrivals)?;
            tasks.spawn(relay.serve(stop.clone(), last.clone()));
            tasks.spawn(seeker.run(stop.clone(), last.clone()));
        }
        tasks.spawn(self.entrance.serve(stop.clone(), last.clone()));
        Ok(())
    }
}

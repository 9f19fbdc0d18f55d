//! The users' port, composed: a route is one line here.

use std::{net::SocketAddr, sync::Arc};

use control_plane::ControlPlane;
use router::Router;
use runtime::{
    drain::Drain,
    io::ByteStream,
    listen::{AnyListener, PlainAcceptor},
};

use crate::{
    account::AccountRoute,
    admission::Admission,
    front::{self, Front},
    graph::{Graph, GraphRoute},
    graph_api::GraphApi,
    kubernetes_api::{self, KubernetesApi},
    metrics::Metrics,
    places::Places,
    prefix::Prefix,
    route::Route,
    settings::Settings,
    token_route::TokenRoute,
    watch_aggregator::WatchAggregator,
};

/// Serves users and their browsers. Clones share everything.
#[derive(Debug, Clone)]
pub struct UserGateway {
    front: Arc<Front>,
    prefix: Prefix,
    admission: Arc<Admission>,
    router: Arc<Router>,
    metrics: Metrics,
}

impl UserGateway {
    /// A gateway to the agents that `router` finds, for those whom `control_plane` lets in.
    #[must_use]
    pub fn new(
        settings: Settings,
        router: Arc<Router>,
        control_plane: Arc<dyn ControlPlane>,
        metrics: Metrics,
    ) -> Self {
        let places = Arc::new(Places::new(settings.max_in_flight, metrics.clone()));
        let tokens = settings.websocket_tokens;
        let admission = Arc::new(Admission::new(
            control_plane,
            places.clone(),
            tokens.clone(),
            settings.usage,
        ));
        let prefix = Prefix::new(&settings.url_path_prefix, settings.prefix_required);
        let mut routes: Vec<Box<dyn Route>> = Vec::new();
        if let Some(graph) = settings.graph {
            routes.push(Box::new(GraphRoute::new(graph, prefix.clone())));
        }
        if let Some(tokens) = tokens {
            let route = TokenRoute::new(tokens, admission.clone(), prefix.clone());
            routes.push(Box::new(route));
        }
        if settings.account {
            routes.push(Box::new(AccountRoute::new(
                admission.clone(),
                prefix.clone(),
            )));
        }
        let proxy = kubernetes_api::Settings {
            prefix: prefix.clone(),
            hold: settings.hold,
            server: settings.server.clone(),
            body_pause: settings.body_pause,
            response_header: settings.response_header,
            idle: settings.idle,
            resume: settings.resume,
            response_headers: settings.response_headers,
            audit: settings.audit.clone(),
        };
        let api = KubernetesApi::new(
            proxy,
            router.clone(),
            admission.clone(),
            places,
            metrics.clone(),
        );
        let api = Arc::new(api);
        routes.push(Box::new(WatchAggregator::new(
            api.clone(),
            admission.clone(),
            prefix.clone(),
        )));
        routes.push(Box::new(GraphApi::new(
            api.clone(),
            admission.clone(),
            prefix.clone(),
        )));
        routes.push(Box::new(api));
        let front = front::Settings {
            server: settings.server,
            first_request: settings.first_request,
            idle: settings.idle,
            max_head: settings.max_head,
            origins: settings.origins,
            audit: settings.audit,
            trusted_proxies: settings.trusted_proxies,
        };
        Self {
            front: Front::new(front, routes, metrics.clone()),
            prefix,
            admission,
            router,
            metrics,
        }
    }

    /// Lets watches of `graph` begin; they end with `drain`. To be called once.
    pub fn open_graph(&self, graph: &Graph, drain: Drain) {
        let (admission, router) = (self.admission.clone(), self.router.clone());
        let front = (&self.front, self.prefix.base());
        let sessions = self.metrics.sessions().clone();
        graph.open(front, admission, (router, sessions), drain);
    }

    /// Accepts connections until draining starts; the drain waits for those that are being served.
    pub async fn serve(
        self,
        listener: impl Into<AnyListener>,
        acceptor: PlainAcceptor,
        drain: Drain,
    ) {
        self.front.serve(listener.into(), acceptor, drain).await;
    }

    /// Serves the requests of a connection until either side ends it, or draining starts.
    pub async fn serve_connection(self, io: ByteStream, remote_addr: SocketAddr, drain: Drain) {
        self.front.serve_connection(io, remote_addr, drain).await;
    }
}

//! Which services there are, and how they are told of.

use agent_gateway::{Clusters, Tracker};
use std::{convert::Infallible, sync::Arc};

use control_plane::{gitaly::Gitaly, notifications::Notifications};
use http::{Request, Response};
use proto::agent::{
    agent_tracker::rpc::agent_tracker_server::AgentTrackerServer,
    configuration_project::rpc::configuration_project_server::ConfigurationProjectServer,
    notifications::rpc::notifications_server::NotificationsServer,
    server_info::rpc::server_info_server::ServerInfoServer,
};
use proto::clusters::rpc::clusters_server::ClustersServer;
use tonic::{
    body::Body,
    codec::CompressionEncoding,
    server::NamedService,
    service::{Routes, RoutesBuilder},
};
use tonic_health::{
    ServingStatus,
    server::{HealthReporter, health_reporter},
};
use tonic_reflection::server::Builder;
use tower::Service;

use super::{
    agent_tracker::Connected, clusters::ClusterPinning,
    configuration_project::ConfigurationProject, limits::QUESTION_BYTES, notifications::Publisher,
    server_info::Version,
};

/// The services of the API. Health and reflection come by themselves.
#[derive(Debug)]
pub struct Services {
    routes: RoutesBuilder,
    names: Vec<&'static str>,
}

/// What is served, once it is complete.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) routes: Routes,
    pub(super) names: Vec<&'static str>,
    pub(super) health: HealthReporter,
}

impl Services {
    /// Those that every replica has.
    #[must_use]
    pub fn new(notifications: Notifications, tracker: Arc<Tracker>) -> Self {
        let none = Self {
            routes: RoutesBuilder::default(),
            names: Vec::new(),
        };
        let gzip = CompressionEncoding::Gzip;
        let connected = AgentTrackerServer::new(Connected(tracker)).accept_compressed(gzip);
        none.with(connected)
            .with(ServerInfoServer::new(Version).accept_compressed(gzip))
            .with(NotificationsServer::new(Publisher(notifications)).accept_compressed(gzip))
    }

    /// Also what `kas agent` asks of agents' clusters.
    #[must_use]
    pub fn with_clusters(self, clusters: Arc<Clusters>, tracker: Arc<Tracker>) -> Self {
        let service = ClustersServer::new(ClusterPinning { clusters, tracker });
        self.with(service.accept_compressed(CompressionEncoding::Gzip))
    }

    /// Also those that read repositories.
    #[must_use]
    pub fn with_repositories(self, gitaly: Gitaly) -> Self {
        let service = ConfigurationProjectServer::new(ConfigurationProject(gitaly));
        self.with(service.accept_compressed(CompressionEncoding::Gzip))
    }

    /// One more.
    #[must_use]
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.routes.add_service(service);
        self.names.push(S::NAME);
        self
    }

    /// All of them, with health and reflection.
    pub(super) async fn complete(self) -> Served {
        let (reporter, health) = health_reporter();
        for name in &self.names {
            let serving = ServingStatus::Serving;
            reporter.set_service_status(name, serving).await;
        }
        let all = self.with(health);
        let why = "the descriptors are part of the program, and tested";
        let old = all.reflection().build_v1alpha().expect(why);
        let new = all.reflection().build_v1().expect(why);
        let all = all
            .with(old.max_decoding_message_size(QUESTION_BYTES))
            .with(new.max_decoding_message_size(QUESTION_BYTES));
        Served {
            routes: all.routes.routes().prepare(),
            names: all.names,
            health: reporter,
        }
    }

    fn reflection(&self) -> Builder<'static> {
        let described = Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        let names = self.names.iter();
        names.fold(described, |all, name| all.with_service_name(*name))
    }
}

//! The table of methods that agents may call.

mod agent_version;
mod attach;
mod configuration;
mod connect;
mod doctor;
mod events;
mod flux;
mod gitlab_access;
mod job_router;
mod join;
mod registrar;

use std::sync::Arc;

use control_plane::{ControlPlane, usage::Usage};
use proto::{
    agent::reverse_tunnel::info::{self, AgentDescriptor},
    former_names::present,
};
use runtime::grpc::ServerMetrics;
use tonic::Status;

use super::{clusters::Clusters, service::Method};
use crate::tracker::Tracker;
pub use events::report_events;
pub use flux::reconcile_projects;
pub use gitlab_access::make_request;
pub use job_router::route_jobs;

/// What delivered manifests to agents up to 16.
const GITOPS: &str = "gitlab.agent.gitops.rpc.Gitops";
const NO_GITOPS: &str = "manifests are not delivered (gitops): GitLab removed it in 2025; use Flux in place of \
                         gitops.manifest_projects";

/// Methods by their paths. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Services {
    methods: Vec<Arc<Method>>,
    tracker: Option<Arc<Tracker>>,
    clusters: Option<Arc<Clusters>>,
}

impl Services {
    /// The methods that every agent needs. `external_url` is GitLab's, for agents' configuration; it may be empty.
    /// `usage` counts for GitLab, `None` if it does not want to know.
    #[must_use]
    pub fn standard(
        control_plane: Arc<dyn ControlPlane>,
        tracker: Arc<Tracker>,
        external_url: String,
        usage: Option<Usage>,
    ) -> Self {
        let tracked = Self {
            methods: Vec::new(),
            tracker: Some(tracker.clone()),
            clusters: None,
        };
        tracked
            .with(connect::connect())
            .with(configuration::get(
                control_plane.clone(),
                tracker.clone(),
                external_url,
            ))
            .with(registrar::register(tracker.clone(), usage))
            .with(registrar::unregister(tracker.clone()))
            .with(attach::attach())
            .with(doctor::hold())
            .with(join::join(control_plane, tracker))
    }

    /// Adds a method.
    #[must_use]
    pub fn with(mut self, method: Method) -> Self {
        self.methods.push(Arc::new(method));
        self
    }

    /// Knows the agents' processes, and records what happens to them; `None` without the methods that they need.
    #[must_use]
    pub fn tracker(&self) -> Option<&Arc<Tracker>> {
        self.tracker.as_ref()
    }

    /// Tunnels are admitted by the clusters that they lead to.
    #[must_use]
    pub fn with_clusters(mut self, clusters: Arc<Clusters>) -> Self {
        self.clusters = Some(clusters);
        self
    }

    /// Knows the clusters of agents; `None` where any is as good as another.
    #[must_use]
    pub fn clusters(&self) -> Option<&Arc<Clusters>> {
        self.clusters.as_ref()
    }

    /// Counts calls of all methods from now on.
    pub(super) fn count(&self, calls: &ServerMetrics) {
        for method in &self.methods {
            method.count(calls);
        }
    }

    /// The method of a path; one of ours also by its former name.
    ///
    /// # Errors
    /// UNIMPLEMENTED, in grpc-go's words.
    pub(super) fn find(&self, path: &str) -> Result<Arc<Method>, Status> {
        let present = present(path);
        let found = self.methods.iter().find(|method| method.path() == present);
        found.cloned().ok_or_else(|| self.unknown(path))
    }

    /// What agents can call, for those that kas dials.
    pub(crate) fn descriptor(&self) -> AgentDescriptor {
        let of_agents = self
            .methods
            .iter()
            .filter(|method| !method.handler().takes_strangers());
        let services = of_agents.map(|method| info::Service {
            name: method.service().to_owned(),
            methods: vec![info::Method {
                name: method.name().to_owned(),
            }],
        });
        AgentDescriptor {
            services: services.collect(),
        }
    }

    fn unknown(&self, path: &str) -> Status {
        let Some((service, method)) = path.trim_start_matches('/').rsplit_once('/') else {
            return Status::unimplemented(format!("malformed method name: {path:?}"));
        };
        if service == GITOPS {
            return Status::unimplemented(NO_GITOPS);
        }
        if self.methods.iter().any(|it| it.service() == service) {
            return Status::unimplemented(format!("unknown method {method} for service {service}"));
        }
        Status::unimplemented(format!("unknown service {service}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_found_by_their_path_and_others_are_refused_as_grpc_go_does() {
        let services = Services::default().with(connect::connect());
        let service = "gitlab.agent.reverse_tunnel.rpc.ReverseTunnel";

        let found = services.find(&format!("/{service}/Connect")).unwrap();

        assert_eq!(found.name(), "Connect");
        for (path, expected) in [
            (
                format!("/{service}/Other"),
                format!("unknown method Other for service {service}"),
            ),
            ("/a.B/C".to_owned(), "unknown service a.B".to_owned()),
            ("/x".to_owned(), "malformed method name: \"/x\"".to_owned()),
        ] {
            let status = services.find(&path).unwrap_err();
            assert_eq!(status.code(), tonic::Code::Unimplemented);
            assert_eq!(status.message(), expected);
        }
    }
}

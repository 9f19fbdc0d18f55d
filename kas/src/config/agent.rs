//! The section `agent`.

use agent_gateway::config::{AgentListen, Events, JobRouter, ReceptiveAgent};
use control_plane::config::AgentConfiguration;
use runtime::{
    section,
    yaml::{At, NoEffect, PositiveSeconds, Seconds, YamlError},
};
use user_gateway::config::{Graph, KubernetesApi};

use super::unused::{Leases, NoManifests, RemoteDevelopment, UpstreamToo};

section! {
    /// What concerns agents.
    pub struct Agent: Default {
        /// Where agents connect.
        pub listen: AgentListen = AgentListen::default(),
        /// How agents' configuration is polled.
        pub configuration: AgentConfiguration = AgentConfiguration::default(),
        /// Limits of manifest delivery.
        pub gitops: NoEffect<Gitops, NoManifests> = NoEffect::new(Gitops::default()),
        /// Agents that kas dials.
        pub receptive_agent: ReceptiveAgent = ReceptiveAgent::default(),
        /// How long an agent's identity is remembered; zero does not remember.
        pub info_cache_ttl: Seconds = Seconds::new(300),
        /// How long a refused token is remembered.
        pub info_cache_error_ttl: PositiveSeconds = PositiveSeconds::new(60),
        /// How long a registration of an agent would count.
        pub redis_conn_info_ttl: NoEffect<Seconds, Leases> = NoEffect::new(Seconds::new(300)),
        /// How often it would be renewed.
        pub redis_conn_info_refresh: NoEffect<Seconds, Leases> = NoEffect::new(Seconds::new(240)),
        /// How often expired ones would be swept.
        pub redis_conn_info_gc: NoEffect<Seconds, Leases> = NoEffect::new(Seconds::new(600)),
        /// Watches of clusters' objects.
        pub graph: Graph = Graph::default(),
        /// Jobs for runners.
        pub job_router: JobRouter = JobRouter::default(),
        /// The Kubernetes API proxy; `None` leaves it off.
        pub kubernetes_api: Option<KubernetesApi> = None,
        /// Events of agents' clusters; `None` leaves them off.
        pub events: Option<Events> = None,
        /// Workspaces; nothing reads it in GitLab's kas either.
        #[serde(skip_serializing)]
        pub remote_development: NoEffect<RemoteDevelopment, UpstreamToo> =
            NoEffect::new(RemoteDevelopment::default()),
    }
    check = check_registrations;
}

section! {
    /// Limits of manifest delivery.
    pub struct Gitops: Default {
        /// How often a repository is polled.
        pub poll_period: PositiveSeconds = PositiveSeconds::new(300),
        /// How long a project's place is remembered.
        pub project_info_cache_ttl: Seconds = Seconds::new(300),
        /// How long a failure to find it is remembered.
        pub project_info_cache_error_ttl: PositiveSeconds = PositiveSeconds::new(60),
        /// Largest manifest in bytes.
        pub max_manifest_file_size: u32 = 5 * 1024 * 1024,
        /// All manifests together, in bytes.
        pub max_total_manifest_file_size: u32 = 20 * 1024 * 1024,
        /// Most paths of a request.
        pub max_number_of_paths: u32 = 100,
        /// Most files visited under a path.
        pub max_number_of_files: u32 = 1000,
    }
}

impl Agent {
    fn check_registrations(&self, at: &At<'_>) -> Result<(), YamlError> {
        let (ttl, refresh) = (
            at.key("redis_conn_info_ttl"),
            at.key("redis_conn_info_refresh"),
        );
        let culprit = [refresh, ttl].into_iter().find(At::is_given);
        match culprit {
            Some(culprit)
                if self.redis_conn_info_refresh.get() >= self.redis_conn_info_ttl.get() =>
            {
                Err(culprit.mistake(
                    "agent.redis_conn_info_refresh must be smaller than agent.redis_conn_info_ttl",
                ))
            }
            Some(_) | None => Ok(()),
        }
    }
}

//! `AgentRegistrar`: agent processes say that they are there, and that they go.

use std::sync::Arc;

use proto::agent::agent_registrar::rpc::{
    RegisterRequest, RegisterResponse, UnregisterRequest, UnregisterResponse,
    agent_registrar_server::AgentRegistrar,
};
use tonic::{Request, Response, Status};

use super::{AgentApi, authenticate::Shown};
use crate::tracker::Registrations;

/// The service, for the calls of one connection.
#[derive(Debug, Clone)]
pub(super) struct Registrar {
    pub(super) api: Arc<AgentApi>,
    pub(super) shown: Shown,
    pub(super) registrations: Registrations,
}

#[tonic::async_trait]
impl AgentRegistrar for Registrar {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let agent = self.agent(request.metadata()).await?;
        let RegisterRequest { agent_meta, pod_id } = request.into_inner();
        let meta = agent_meta.unwrap_or_default();
        let here = self.api.tracker.register(&agent, pod_id, &meta);
        self.registrations.add(agent.id, pod_id, here);
        Ok(Response::new(RegisterResponse {}))
    }

    async fn unregister(
        &self,
        request: Request<UnregisterRequest>,
    ) -> Result<Response<UnregisterResponse>, Status> {
        let agent = self.agent(request.metadata()).await?;
        let pod_id = request.into_inner().pod_id;
        self.api.tracker.unregister(agent.id, pod_id);
        self.registrations.remove(agent.id, pod_id);
        Ok(Response::new(UnregisterResponse {}))
    }
}

impl Registrar {
    async fn agent(
        &self,
        metadata: &tonic::metadata::MetadataMap,
    ) -> Result<Arc<crate::control_plane::AgentInfo>, Status> {
        self.api
            .authenticator
            .agent(metadata.as_ref(), &self.shown)
            .await
    }
}

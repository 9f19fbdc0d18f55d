//! `AgentRegistrar`: agent processes say that they are there, and that they go.

use std::sync::Arc;

use proto::agent::agent_registrar::rpc::{
    RegisterRequest, RegisterResponse, UnregisterRequest, UnregisterResponse,
    agent_registrar_server::AgentRegistrar,
};
use tonic::{Request, Response, Status};

use super::{AgentApi, authenticate::Shown};

/// The service, for the calls of one connection.
#[derive(Debug, Clone)]
pub(super) struct Registrar {
    pub(super) api: Arc<AgentApi>,
    pub(super) shown: Shown,
}

#[tonic::async_trait]
impl AgentRegistrar for Registrar {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let agent = self.agent(request.metadata()).await?;
        let RegisterRequest { agent_meta, pod_id } = request.into_inner();
        self.api
            .tracker
            .register(&agent, pod_id, agent_meta.unwrap_or_default());
        Ok(Response::new(RegisterResponse {}))
    }

    async fn unregister(
        &self,
        request: Request<UnregisterRequest>,
    ) -> Result<Response<UnregisterResponse>, Status> {
        let agent = self.agent(request.metadata()).await?;
        self.api
            .tracker
            .unregister(agent.id, request.into_inner().pod_id);
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

//! The questions as gRPC.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::{
    Admin,
    v1::{
        Explanation, FleetStatus, GetAgentRequest, GetAgentResponse, GetStatusRequest,
        ListAgentsRequest, ListAgentsResponse, ListReplicasRequest, ListReplicasResponse,
        ListRequestsRequest, ListRequestsResponse,
        admin_server::{Admin as Service, AdminServer},
    },
};

/// Bytes of a question, at most.
const QUESTION_BYTES: usize = 16 << 10;

/// The service.
#[derive(Debug)]
pub(crate) struct Grpc(Arc<Admin>);

pub(crate) fn service(admin: Arc<Admin>) -> AdminServer<Grpc> {
    AdminServer::new(Grpc(admin)).max_decoding_message_size(QUESTION_BYTES)
}

#[tonic::async_trait]
impl Service for Grpc {
    async fn get_status(
        &self,
        _: Request<GetStatusRequest>,
    ) -> Result<Response<FleetStatus>, Status> {
        Ok(Response::new(self.0.status().await))
    }

    async fn list_agents(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        Ok(Response::new(self.0.list_agents(request.get_ref()).await?))
    }

    async fn get_agent(
        &self,
        request: Request<GetAgentRequest>,
    ) -> Result<Response<GetAgentResponse>, Status> {
        Ok(Response::new(self.0.agent(request.get_ref()).await?))
    }

    async fn explain_agent(
        &self,
        request: Request<GetAgentRequest>,
    ) -> Result<Response<Explanation>, Status> {
        Ok(Response::new(self.0.explain(request.get_ref()).await?))
    }

    async fn list_replicas(
        &self,
        _: Request<ListReplicasRequest>,
    ) -> Result<Response<ListReplicasResponse>, Status> {
        Ok(Response::new(self.0.replicas().await))
    }

    async fn list_requests(
        &self,
        request: Request<ListRequestsRequest>,
    ) -> Result<Response<ListRequestsResponse>, Status> {
        Ok(Response::new(self.0.requests(request.get_ref()).await))
    }
}

//! The questions as gRPC.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, stream};

use tonic::{Request, Response, Status};

use crate::{
    Admin, Failure,
    caller::Caller,
    v1::{
        self, AccessMatrix, AddAgentRequest, AgentAccess, AgentToken, CreateJoinTokenRequest,
        EndSessionRequest, EndSessionResponse, Event, Explanation, FleetStatus, GetAccessRequest,
        GetAgentAccessRequest, GetAgentRequest, GetAgentResponse, GetCallerRequest,
        GetKubeconfigRequest, GetRegistrationRequest, GetStatusRequest, JoinToken, Kubeconfig,
        ListAgentsRequest, ListAgentsResponse, ListErrorsRequest, ListErrorsResponse,
        ListLoadsRequest, ListLoadsResponse, ListRecordsRequest, ListRecordsResponse,
        ListReplicasRequest, ListReplicasResponse, ListRequestsRequest, ListRequestsResponse,
        ListSessionsRequest, ListSessionsResponse, Registration, RevokeAgentRequest,
        RevokeAgentResponse, RotateAgentTokenRequest, SetLogLevelRequest, SetLogLevelResponse,
        WatchEventsRequest,
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

/// Who asks.
fn caller<T>(request: &Request<T>) -> Result<Caller, Failure> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or(Failure::Unauthenticated("the caller is not known"))
}

#[tonic::async_trait]
impl Service for Grpc {
    type WatchEventsStream = Pin<Box<dyn Stream<Item = Result<Event, Status>> + Send>>;

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let listener = self.0.listen(caller(&request)?.name).await?;
        let events = stream::unfold(listener, |mut listener| async {
            let event = listener.next().await?;
            Some((Ok(event), listener))
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn get_caller(
        &self,
        request: Request<GetCallerRequest>,
    ) -> Result<Response<v1::Caller>, Status> {
        Ok(Response::new(self.0.caller(&caller(&request)?)))
    }

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

    async fn list_records(
        &self,
        request: Request<ListRecordsRequest>,
    ) -> Result<Response<ListRecordsResponse>, Status> {
        Ok(Response::new(self.0.records(request.get_ref()).await?))
    }

    async fn list_replicas(
        &self,
        _: Request<ListReplicasRequest>,
    ) -> Result<Response<ListReplicasResponse>, Status> {
        Ok(Response::new(self.0.replicas().await))
    }

    async fn set_log_level(
        &self,
        request: Request<SetLogLevelRequest>,
    ) -> Result<Response<SetLogLevelResponse>, Status> {
        let caller = caller(&request)?;
        let changed = self.0.set_log_level(request.into_inner(), &caller).await?;
        Ok(Response::new(changed))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        Ok(Response::new(self.0.sessions(request.get_ref()).await?))
    }

    async fn end_session(
        &self,
        request: Request<EndSessionRequest>,
    ) -> Result<Response<EndSessionResponse>, Status> {
        let caller = caller(&request)?;
        let ended = self.0.end_session(request.into_inner(), &caller).await?;
        Ok(Response::new(ended))
    }

    async fn get_registration(
        &self,
        request: Request<GetRegistrationRequest>,
    ) -> Result<Response<Registration>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.0.registration(&caller).await))
    }

    async fn add_agent(
        &self,
        request: Request<AddAgentRequest>,
    ) -> Result<Response<JoinToken>, Status> {
        let caller = caller(&request)?;
        let made = self.0.add_agent(request.into_inner(), &caller).await?;
        Ok(Response::new(made))
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<JoinToken>, Status> {
        let caller = caller(&request)?;
        let made = self
            .0
            .create_join_token(request.into_inner(), &caller)
            .await?;
        Ok(Response::new(made))
    }

    async fn rotate_agent_token(
        &self,
        request: Request<RotateAgentTokenRequest>,
    ) -> Result<Response<AgentToken>, Status> {
        let caller = caller(&request)?;
        let made = self.0.rotate_token(request.into_inner(), &caller).await?;
        Ok(Response::new(made))
    }

    async fn revoke_agent(
        &self,
        request: Request<RevokeAgentRequest>,
    ) -> Result<Response<RevokeAgentResponse>, Status> {
        let caller = caller(&request)?;
        let revoked = self.0.revoke_agent(request.into_inner(), &caller).await?;
        Ok(Response::new(revoked))
    }

    async fn get_kubeconfig(
        &self,
        request: Request<GetKubeconfigRequest>,
    ) -> Result<Response<Kubeconfig>, Status> {
        Ok(Response::new(self.0.kubeconfig(request.get_ref()).await?))
    }

    async fn get_agent_access(
        &self,
        request: Request<GetAgentAccessRequest>,
    ) -> Result<Response<AgentAccess>, Status> {
        Ok(Response::new(self.0.agent_access(request.get_ref()).await?))
    }

    async fn get_access(
        &self,
        request: Request<GetAccessRequest>,
    ) -> Result<Response<AccessMatrix>, Status> {
        Ok(Response::new(self.0.access(request.get_ref()).await?))
    }

    async fn list_errors(
        &self,
        request: Request<ListErrorsRequest>,
    ) -> Result<Response<ListErrorsResponse>, Status> {
        Ok(Response::new(self.0.errors(request.get_ref()).await?))
    }

    async fn list_loads(
        &self,
        request: Request<ListLoadsRequest>,
    ) -> Result<Response<ListLoadsResponse>, Status> {
        Ok(Response::new(self.0.loads(request.get_ref()).await?))
    }

    async fn list_requests(
        &self,
        request: Request<ListRequestsRequest>,
    ) -> Result<Response<ListRequestsResponse>, Status> {
        Ok(Response::new(self.0.requests(request.get_ref()).await))
    }
}

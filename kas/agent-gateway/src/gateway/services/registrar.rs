//! `AgentRegistrar`: agent processes register, and unregister when they stop.

use std::sync::Arc;

use control_plane::usage::Usage;
use proto::{
    agent::agent_registrar::rpc::{
        RegisterRequest, RegisterResponse, UnregisterRequest, UnregisterResponse,
    },
    bounds::Bounds,
};
use tonic::Status;

use super::super::{
    caller::Identity,
    service::{Method, Unary},
};
use crate::tracker::Tracker;

/// A process's description of itself.
const REQUEST: Bounds = Bounds::bytes(16 << 10);

struct Register {
    tracker: Arc<Tracker>,
    usage: Option<Usage>,
}

struct Unregister(Arc<Tracker>);

/// Agent processes register by it when they have connected, and regularly after that.
pub(super) fn register(tracker: Arc<Tracker>, usage: Option<Usage>) -> Method {
    Method::unary(Register { tracker, usage })
}

/// Agent processes unregister by it when they stop.
pub(super) fn unregister(tracker: Arc<Tracker>) -> Method {
    Method::unary(Unregister(tracker))
}

impl Unary for Register {
    const PATH: &'static str = "/gitlab.agent.agent_registrar.rpc.AgentRegistrar/Register";
    const BOUNDS: Bounds = REQUEST;
    type Request = RegisterRequest;
    type Response = RegisterResponse;

    async fn call(
        &self,
        identity: &Identity,
        request: RegisterRequest,
    ) -> Result<RegisterResponse, Status> {
        let RegisterRequest { agent_meta, pod_id } = request;
        let meta = agent_meta.unwrap_or_default();
        let origin = &identity.caller.origin;
        let registered = self
            .tracker
            .register_from(&identity.agent, pod_id, &meta, origin);
        let registered =
            registered.map_err(|refused| Status::resource_exhausted(refused.to_string()))?;
        let registrations = &identity.caller.registrations;
        registrations.add(identity.agent.id, pod_id, registered);
        if let Some(usage) = &self.usage {
            let cluster = meta.kubernetes_version.as_ref();
            let platform = cluster.map_or("", |it| &it.platform);
            usage.registered(&identity.agent, &meta.version, platform);
        }
        Ok(RegisterResponse {})
    }
}

impl Unary for Unregister {
    const PATH: &'static str = "/gitlab.agent.agent_registrar.rpc.AgentRegistrar/Unregister";
    const BOUNDS: Bounds = REQUEST;
    type Request = UnregisterRequest;
    type Response = UnregisterResponse;

    async fn call(
        &self,
        identity: &Identity,
        request: UnregisterRequest,
    ) -> Result<UnregisterResponse, Status> {
        let agent = identity.agent.id;
        self.0.unregister(agent, request.pod_id);
        let registrations = &identity.caller.registrations;
        registrations.remove(agent, request.pod_id);
        Ok(UnregisterResponse {})
    }
}

//! `AgentRegistrar`: agent processes say that they are there, and that they go.

use proto::{
    agent::agent_registrar::rpc::{
        RegisterRequest, RegisterResponse, UnregisterRequest, UnregisterResponse,
    },
    bounds::Bounds,
};
use tonic::Status;

use super::{AgentApi, caller::Known};

/// What a process says of itself.
pub(super) const REQUEST: Bounds = Bounds::bytes(16 << 10);

/// A process of a known agent is there.
///
/// # Errors
/// RESOURCE_EXHAUSTED when it says so too often, or the agent has too many.
pub(super) fn register(
    api: &AgentApi,
    known: &Known,
    request: RegisterRequest,
) -> Result<RegisterResponse, Status> {
    let RegisterRequest { agent_meta, pod_id } = request;
    let meta = agent_meta.unwrap_or_default();
    let here = api.tracker.register(&known.agent, pod_id, &meta);
    let here = here.map_err(|refused| Status::resource_exhausted(refused.to_string()))?;
    let caller = &known.caller;
    caller.registrations.add(known.agent.id, pod_id, here);
    Ok(RegisterResponse {})
}

/// A process of a known agent goes.
pub(super) fn unregister(
    api: &AgentApi,
    known: &Known,
    request: &UnregisterRequest,
) -> UnregisterResponse {
    let agent = known.agent.id;
    api.tracker.unregister(agent, request.pod_id);
    known.caller.registrations.remove(agent, request.pod_id);
    UnregisterResponse {}
}

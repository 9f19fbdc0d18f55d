//! One tunnel: idle until kas sends a call down it, then answered.

use std::sync::Arc;

use prost::Message as _;
use proto::{
    agent::reverse_tunnel::{
        info::{AgentDescriptor, Method, Service},
        rpc::{
            ConnectRequest, ConnectResponse, Descriptor, connect_request, connect_response::Msg,
        },
    },
    frame::Frame,
};
use runtime::grpc::SendRequest;

use super::{
    agent::Agent,
    call::Call,
    rpc::{self, Failure, Inbound},
    stats::Gauge,
};

const CONNECT_PATH: &str = "/gitlab.agent.reverse_tunnel.rpc.ReverseTunnel/Connect";
const SERVICE: &str = "gitlab.agent.kubernetes_api.rpc.KubernetesApi";

/// The first message of every tunnel: what can be called through it.
pub(super) fn descriptor() -> Frame {
    let service = Service {
        name: SERVICE.to_owned(),
        methods: vec![Method {
            name: "MakeRequest".to_owned(),
        }],
    };
    let descriptor = Descriptor {
        agent_descriptor: Some(AgentDescriptor {
            services: vec![service],
        }),
    };
    Frame::message(&ConnectRequest {
        msg: Some(connect_request::Msg::Descriptor(descriptor)),
    })
}

/// Opens a tunnel and waits for its call; `None` when kas ended it in order.
pub(super) async fn wait(agent: Arc<Agent>, send: SendRequest) -> Result<Option<Call>, Failure> {
    let first = agent.fleet.descriptor.clone();
    let (response, send) = rpc::open(send, &agent.head, CONNECT_PATH, first, false).await?;
    let _idle = Gauge::new(&agent.fleet.stats.idle);
    let mut inbound = Inbound::accept(response).await?;
    let Some(message) = inbound.message().await? else {
        return Ok(None);
    };
    match ConnectResponse::decode(message)?.msg {
        Some(Msg::RequestInfo(info)) if is_make_request(&info.method_name) => {
            Ok(Some(Call { send, inbound }))
        }
        Some(Msg::RequestInfo(_)) => Err(Failure::Protocol("a call of an unknown method")),
        Some(Msg::Message(_) | Msg::CloseSend(_)) | None => Err(Failure::Protocol(
            "a tunnel that does not begin with a call",
        )),
    }
}

fn is_make_request(method: &str) -> bool {
    method
        .strip_prefix('/')
        .and_then(|method| method.strip_prefix(SERVICE))
        .is_some_and(|method| method == "/MakeRequest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_offered_method_is_answered() {
        assert!(is_make_request(
            "/gitlab.agent.kubernetes_api.rpc.KubernetesApi/MakeRequest"
        ));
        assert!(!is_make_request("/gitlab.agent.other.Service/MakeRequest"));
    }
}

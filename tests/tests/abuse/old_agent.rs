//! An agent of our own making: as old as it likes, and with methods that nobody knows.

use anyhow::Result;
use http::Request;
use prost::Message as _;
use proto::agent::reverse_tunnel::{
    info::{AgentDescriptor, Method, Service},
    rpc::{ConnectRequest, Descriptor, connect_request::Msg},
};

use crate::wire::{Call, Wire, framed};

const CONNECT: &str = "http://kas/gitlab.agent.reverse_tunnel.rpc.ReverseTunnel/Connect";

/// Tunnels that serve nothing, open as long as this lives.
pub(crate) struct OldAgent {
    _wire: Wire,
    _tunnels: Vec<Call>,
}

impl OldAgent {
    /// Connects an agent of this version, whose tunnels offer this method of this service.
    pub(crate) async fn connect(
        port: u16,
        token: &str,
        version: &str,
        (service, method): (&str, &str),
    ) -> Result<Self> {
        let service = Service {
            name: service.to_owned(),
            methods: vec![Method {
                name: method.to_owned(),
            }],
        };
        let descriptor = Descriptor {
            agent_descriptor: Some(AgentDescriptor {
                services: vec![service],
            }),
        };
        let first = ConnectRequest {
            msg: Some(Msg::Descriptor(descriptor)),
        };
        let (wire, mut tunnels) = (Wire::open(port).await?, Vec::new());
        for _ in 0..2 {
            let request = Request::post(CONNECT)
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header(
                    "user-agent",
                    format!("gitlab-agent/{version}/abc grpc-go/1.38.0"),
                )
                .header("authorization", format!("Bearer {token}"));
            let mut tunnel = wire.request(request.body(())?).await?;
            let first = framed(false, &first.encode_to_vec());
            tunnel.send.send_data(first, false)?;
            tunnels.push(tunnel);
        }
        Ok(Self {
            _wire: wire,
            _tunnels: tunnels,
        })
    }
}

//! The first message of a tunnel: what can be called through it.

use bytes::{Buf as _, Bytes};
use proto::{
    agent::reverse_tunnel::{
        info::AgentDescriptor,
        rpc::{ConnectRequest, Descriptor, connect_request::Msg},
    },
    bounds::{Bounds, Repeated},
    frame::Frame,
    sequence::{CONNECT_REQUEST, FieldNumber, Sequence},
};
use tonic::Status;

/// Methods that one tunnel may offer.
const MAX_METHODS: usize = 256;
/// Longest name of a service or method.
const MAX_NAME_BYTES: usize = 128;
/// Bounds of a tunnel's first message.
pub const BOUNDS: Bounds = Bounds {
    bytes: 16 << 10,
    repeated: &[
        Repeated {
            path: &[1, 1, 1],
            most: MAX_METHODS,
            what: "services",
        },
        Repeated {
            path: &[1, 1, 1, 2],
            most: MAX_METHODS,
            what: "methods",
        },
    ],
};

/// The first message of each tunnel that offers these services, framed.
#[must_use]
pub fn framed(descriptor: AgentDescriptor) -> Bytes {
    let mut frame = Frame::message(&ConnectRequest {
        msg: Some(Msg::Descriptor(Descriptor {
            agent_descriptor: Some(descriptor),
        })),
    });
    frame.copy_to_bytes(frame.remaining())
}

/// The paths of the methods that a tunnel's first message offers.
///
/// # Errors
/// The refusal of a message that is no descriptor, or one out of bounds.
pub fn methods(message: Bytes) -> Result<Vec<String>, Status> {
    paths(&descriptor(message)?)
}

fn descriptor(message: Bytes) -> Result<AgentDescriptor, Status> {
    let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
    let message: ConnectRequest = BOUNDS
        .decode(message)
        .map_err(|error| crate::grpc::out_of_bounds(&error))?;
    let message = message
        .msg
        .ok_or_else(|| invalid(&"no value for the oneof msg"))?;
    Sequence::new(CONNECT_REQUEST)
        .step(message.field_number())
        .map_err(|error| invalid(&error))?;
    let Msg::Descriptor(descriptor) = message else {
        return Err(invalid(&"expected a descriptor"));
    };
    descriptor
        .agent_descriptor
        .ok_or_else(|| invalid(&"the descriptor is empty"))
}

fn paths(descriptor: &AgentDescriptor) -> Result<Vec<String>, Status> {
    let services = descriptor.services.iter();
    let names = services.clone().map(|service| &service.name);
    let methods = services.clone().flat_map(|service| &service.methods);
    if let Some(long) = names
        .chain(methods.map(|method| &method.name))
        .find(|name| name.len() > MAX_NAME_BYTES)
    {
        return Err(Status::invalid_argument(format!(
            "the tunnel offers a service or method with a name of {} bytes, more than the {MAX_NAME_BYTES} allowed",
            long.len()
        )));
    }
    let paths = services.flat_map(|service| {
        let methods = service.methods.iter();
        methods.map(|method| format!("/{}/{}", service.name, method.name))
    });
    Ok(paths.collect())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use proto::agent::reverse_tunnel::info::{Method, Service};

    use super::*;

    fn message(services: &[(&str, &[&str])]) -> Bytes {
        let services = services.iter().map(|(name, methods)| Service {
            name: (*name).into(),
            methods: methods
                .iter()
                .map(|name| Method {
                    name: (*name).into(),
                })
                .collect(),
        });
        let agent_descriptor = Some(AgentDescriptor {
            services: services.collect(),
        });
        let msg = Some(Msg::Descriptor(Descriptor { agent_descriptor }));
        ConnectRequest { msg }.encode_to_vec().into()
    }

    #[test]
    fn what_would_make_long_lists_is_refused() {
        let name = "n".repeat(MAX_NAME_BYTES);
        let longer = "n".repeat(MAX_NAME_BYTES + 1);
        let many = vec!["m"; MAX_METHODS + 1];

        assert!(methods(message(&[(&name, &[&name])])).is_ok());
        assert!(methods(message(&[("s", &many[1..])])).is_ok());
        for bad in [
            message(&[(&longer, &["m"])]),
            message(&[("s", &[&longer])]),
            message(&[("s", &many)]),
            message(&vec![("s", [].as_slice()); MAX_METHODS + 1]),
            message(&[(&"n".repeat(1 << 20), &vec!["m"; 300_000])]),
        ] {
            assert!(methods(bad).is_err());
        }
    }
}

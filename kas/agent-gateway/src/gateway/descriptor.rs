//! The descriptor of a tunnel: the methods that it offers. Each list is kept once, since agents of one version
//! offer the same.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use proto::{
    agent::reverse_tunnel::{
        info::AgentDescriptor,
        rpc::{ConnectRequest, connect_request::Msg},
    },
    bounds::{Bounds, Repeated},
    sequence::{CONNECT_REQUEST, FieldNumber, Sequence},
};
use tonic::Status;

/// Paths of methods, in order, each once.
pub(super) type Methods = Arc<[String]>;

/// Methods that one tunnel may offer.
const MAX_METHODS: usize = 256;
/// Longest name of a service or method.
const MAX_NAME_BYTES: usize = 128;
/// Number of lists from which on unused ones are removed.
const SWEEP_MIN_LISTS: usize = 64;

/// Bounds of a tunnel's first message.
pub(super) const DESCRIPTOR_BOUNDS: Bounds = Bounds {
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

/// The lists that tunnels of this replica offer.
#[derive(Debug, Default)]
pub(super) struct MethodLists(Mutex<Lists>);

#[derive(Debug, Default)]
struct Lists {
    all: HashSet<Methods>,
    sweep_at: usize,
}

impl MethodLists {
    /// The methods in a tunnel's first message.
    ///
    /// # Errors
    /// The refusal of a message that is no descriptor, or one out of bounds.
    pub(super) fn read(&self, message: Bytes) -> Result<Methods, Status> {
        Ok(self.intern(paths(&descriptor(message)?)?))
    }

    fn intern(&self, mut paths: Vec<String>) -> Methods {
        paths.sort_unstable();
        paths.dedup();
        let mut lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lists.all.get(paths.as_slice()) {
            return known.clone();
        }
        if lists.all.len() >= lists.sweep_at.max(SWEEP_MIN_LISTS) {
            lists.all.retain(|methods| Arc::strong_count(methods) > 1);
            lists.sweep_at = 2 * lists.all.len();
        }
        let methods = Methods::from(paths);
        lists.all.insert(methods.clone());
        methods
    }
}

fn descriptor(message: Bytes) -> Result<AgentDescriptor, Status> {
    let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
    let message: ConnectRequest = DESCRIPTOR_BOUNDS
        .decode(message)
        .map_err(|error| runtime::grpc::out_of_bounds(&error))?;
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
    use proto::agent::reverse_tunnel::{
        info::{Method, Service},
        rpc::Descriptor,
    };

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
    fn whoever_offers_the_same_shares_one_list_whatever_its_order() {
        let lists = MethodLists::default();

        let first = lists.read(message(&[("a", &["x", "y"]), ("b", &["z"])]));
        let second = lists.read(message(&[("b", &["z"]), ("a", &["y", "x", "x"])]));

        let (first, second) = (first.unwrap(), second.unwrap());
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(*first, ["/a/x", "/a/y", "/b/z"]);
    }

    #[test]
    fn lists_that_nobody_offers_are_forgotten() {
        let lists = MethodLists::default();
        let kept = lists.read(message(&[("kept", &["x"])])).unwrap();

        for number in 0..1000 {
            let name = format!("s{number}");
            drop(lists.read(message(&[(&name, &["x"])])).unwrap());
        }

        assert!(lists.0.lock().unwrap().all.len() <= SWEEP_MIN_LISTS);
        let again = lists.read(message(&[("kept", &["x"])])).unwrap();
        assert!(Arc::ptr_eq(&kept, &again));
    }

    #[test]
    fn what_would_make_long_lists_is_refused_before_any_is_made() {
        let lists = MethodLists::default();
        let name = "n".repeat(MAX_NAME_BYTES);
        let longer = "n".repeat(MAX_NAME_BYTES + 1);
        let many = vec!["m"; MAX_METHODS + 1];

        assert!(lists.read(message(&[(&name, &[&name])])).is_ok());
        assert!(lists.read(message(&[("s", &many[1..])])).is_ok());
        for bad in [
            message(&[(&longer, &["m"])]),
            message(&[("s", &[&longer])]),
            message(&[("s", &many)]),
            message(&vec![("s", [].as_slice()); MAX_METHODS + 1]),
            message(&[(&"n".repeat(1 << 20), &vec!["m"; 300_000])]),
        ] {
            assert!(lists.read(bad).is_err());
        }
        assert_eq!(lists.0.lock().unwrap().all.len(), 2);
    }
}

//! The descriptor of a tunnel: the methods that it offers. Each list is kept once, since agents of one version
//! offer the same.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use tonic::Status;

/// Paths of methods, in order, each once.
pub(super) type Methods = Arc<[String]>;

/// Number of lists from which on unused ones are removed.
const SWEEP_MIN_LISTS: usize = 64;

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
        Ok(self.intern(runtime::tunnel::methods(message)?))
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

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use proto::agent::reverse_tunnel::{
        info::{AgentDescriptor, Method, Service},
        rpc::{ConnectRequest, Descriptor, connect_request::Msg},
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
}

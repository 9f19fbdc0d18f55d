//! The descriptor of a tunnel: the methods that it offers. Each list is kept once, since an agent's tunnels offer the
//! same, and so is each method, since agents of one version offer the same but for one that names the process.

use std::{
    collections::HashSet,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use tonic::Status;

/// Paths of methods, in order, each once.
pub(super) type Methods = Arc<[Arc<str>]>;

/// Number of lists, or of methods, from which on unused ones are removed.
const SWEEP_MIN: usize = 64;

/// The lists that tunnels of this replica offer.
#[derive(Debug, Default)]
pub(super) struct MethodLists(Mutex<Lists>);

#[derive(Debug, Default)]
struct Lists {
    all: Interned<[Arc<str>]>,
    paths: Interned<str>,
}

/// Values that are kept once, as long as somebody has them.
#[derive(Debug)]
struct Interned<T: ?Sized> {
    known: HashSet<Arc<T>>,
    sweep_at: usize,
}

impl<T: ?Sized> Default for Interned<T> {
    fn default() -> Self {
        Self {
            known: HashSet::new(),
            sweep_at: 0,
        }
    }
}

impl<T: ?Sized + Eq + Hash> Interned<T> {
    fn intern(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some(known) = self.known.get(&*value) {
            return known.clone();
        }
        if self.known.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.known.retain(|it| Arc::strong_count(it) > 1);
            self.sweep_at = 2 * self.known.len();
        }
        self.known.insert(value.clone());
        value
    }
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
        let paths = paths
            .into_iter()
            .map(|path| lists.paths.intern(path.into()));
        let methods = paths.collect();
        lists.all.intern(methods)
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
        let paths: Vec<&str> = first.iter().map(|it| &**it).collect();
        assert_eq!(paths, ["/a/x", "/a/y", "/b/z"]);
        let other = lists
            .read(message(&[("a", &["x"]), ("own", &["1"])]))
            .unwrap();
        assert!(Arc::ptr_eq(&first[0], &other[0]));
    }

    #[test]
    fn lists_that_nobody_offers_are_forgotten() {
        let lists = MethodLists::default();
        let kept = lists.read(message(&[("kept", &["x"])])).unwrap();

        for number in 0..1000 {
            let name = format!("s{number}");
            drop(lists.read(message(&[(&name, &["x"])])).unwrap());
        }

        {
            let lists = lists.0.lock().unwrap();
            assert!(lists.all.known.len() <= SWEEP_MIN);
            assert!(lists.paths.known.len() <= 4 * SWEEP_MIN);
        }
        let again = lists.read(message(&[("kept", &["x"])])).unwrap();
        assert!(Arc::ptr_eq(&kept, &again));
    }
}

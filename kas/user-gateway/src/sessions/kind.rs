//! What a session is, by its request.

use audit::Attributes;
use http::{Method, Uri};

use crate::query;

/// The kinds of sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionKind {
    /// A command in a container.
    Exec,
    /// The streams of a container's process.
    Attach,
    /// Connections to ports of a pod.
    PortForward,
    /// A log that is followed.
    Logs,
    /// A Kubernetes watch.
    Watch,
    /// Many watches on one WebSocket.
    WatchAggregator,
    /// The objects of a cluster, as a graph or a table of them.
    Graph,
    /// Whatever lasts that a pod, a service or a node answers, or an aggregated API.
    Proxy,
}

const ALL: [SessionKind; 8] = [
    SessionKind::Exec,
    SessionKind::Attach,
    SessionKind::PortForward,
    SessionKind::Logs,
    SessionKind::Watch,
    SessionKind::WatchAggregator,
    SessionKind::Graph,
    SessionKind::Proxy,
];

impl SessionKind {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "port-forward",
            Self::Logs => "logs",
            Self::Watch => "watch",
            Self::WatchAggregator => "watch-aggregator",
            Self::Graph => "graph",
            Self::Proxy => "proxy",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        ALL.into_iter().find(|it| it.as_str() == name)
    }

    /// All names, for messages.
    #[must_use]
    pub fn names() -> String {
        ALL.map(Self::as_str).join(", ")
    }

    /// What a connection is that speaks another protocol.
    pub(crate) fn of_upgrade(path: &str) -> Self {
        match &*asked(path).subresource {
            "exec" => Self::Exec,
            "attach" => Self::Attach,
            "portforward" => Self::PortForward,
            _ => Self::Proxy,
        }
    }

    /// What an answer is that comes bit by bit and is no watch that can be resumed; nothing where it ends by itself.
    pub(crate) fn of_stream(path: &str, uri: &Uri, watch: bool) -> Option<Self> {
        let asked = asked(path);
        if asked.subresource == "proxy" {
            return Some(Self::Proxy);
        }
        if watch || asked.verb == "watch" {
            return Some(Self::Watch);
        }
        let follow = query::values(uri.query().unwrap_or_default(), "follow");
        let follows = follow.iter().any(|it| !matches!(&**it, "false" | "0"));
        follows.then_some(Self::Logs)
    }
}

/// What the cluster understands by a path: escapes hide nothing, and a name that is a word of the API is a name.
fn asked(path: &str) -> Attributes {
    let bytes = query::decode_path(path).unwrap_or_default();
    Attributes::of(
        &Method::GET,
        &String::from_utf8_lossy(&bytes),
        |_| &[],
        false,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_what_the_cluster_takes_it_for() {
        const POD: &str = "/api/v1/namespaces/a/pods/b";
        for (path, kind) in [
            ("/exec", SessionKind::Exec),
            ("/%65xec", SessionKind::Exec),
            ("/attach", SessionKind::Attach),
            ("/portforward", SessionKind::PortForward),
            ("/proxy/exec", SessionKind::Proxy),
            ("/console", SessionKind::Proxy),
        ] {
            assert_eq!(SessionKind::of_upgrade(&format!("{POD}{path}")), kind);
        }
        let proxy = "/api/v1/namespaces/proxy/pods/proxy/exec";
        assert_eq!(SessionKind::of_upgrade(proxy), SessionKind::Exec);
        let of = |target: &str, watch| {
            let uri: Uri = target.parse().unwrap();
            SessionKind::of_stream(uri.path(), &uri, watch)
        };
        assert_eq!(
            of("/api/v1/namespaces/a/pods/b/log?follow=true", false),
            Some(SessionKind::Logs)
        );
        assert_eq!(
            of("/api/v1/namespaces/a/pods/b/lo%67?f%6fllow=1", false),
            Some(SessionKind::Logs)
        );
        assert_eq!(of("/api/v1/namespaces/a/pods/b/log", false), None);
        assert_eq!(
            of("/api/v1/namespaces/a/pods/b/log?follow=false", false),
            None
        );
        assert_eq!(of("/api/v1/pods", true), Some(SessionKind::Watch));
        assert_eq!(of("/api/v1/w%61tch/pods", false), Some(SessionKind::Watch));
        assert_eq!(
            of("/api/v1/namespaces/a/services/b/pro%78y/events", false),
            Some(SessionKind::Proxy)
        );
        for kind in ALL {
            assert_eq!(SessionKind::parse(kind.as_str()), Some(kind));
        }
    }
}

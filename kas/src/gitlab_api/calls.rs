//! Calls of GitLab by method, counted as GitLab's kas counts them.

use std::collections::HashMap;

use runtime::grpc::{CallKind, CountedCall, MethodMetrics, ServerMetrics};

/// The methods that are counted.
const METHODS: [(&str, CallKind); 15] = [
    (
        "/gitlab.agent.agent_tracker.rpc.AgentTracker/GetConnectedAgents",
        CallKind::Unary,
    ),
    (
        "/gitlab.agent.agent_tracker.rpc.AgentTracker/GetConnectedAgentsByProjectIDs",
        CallKind::Unary,
    ),
    (
        "/gitlab.agent.agent_tracker.rpc.AgentTracker/GetConnectedAgentsByAgentIDs",
        CallKind::Unary,
    ),
    (
        "/gitlab.agent.agent_tracker.rpc.AgentTracker/GetConnectedAgentksByProjectIDs",
        CallKind::Unary,
    ),
    (
        "/gitlab.agent.agent_tracker.rpc.AgentTracker/GetConnectedAgentksByAgentIDs",
        CallKind::Unary,
    ),
    (
        "/gitlab.agent.agent_tracker.rpc.AgentTracker/CountAgentsByAgentVersions",
        CallKind::Unary,
    ),
    (
        "/gitlab.agent.configuration_project.rpc.ConfigurationProject/ListAgentConfigFiles",
        CallKind::Unary,
    ),
    (
        "/gitlab.agent.notifications.rpc.Notifications/GitPushEvent",
        CallKind::Unary,
    ),
    (
        "/gitlab.agent.server_info.rpc.ServerInfo/GetServerInfo",
        CallKind::Unary,
    ),
    (
        "/gitlab.agent.kas_events.rpc.Reader/Follow",
        CallKind::ServerStream,
    ),
    (
        "/gitlab.agent.kas_graph.rpc.Graph/Watch",
        CallKind::ServerStream,
    ),
    ("/grpc.health.v1.Health/Check", CallKind::Unary),
    ("/grpc.health.v1.Health/Watch", CallKind::ServerStream),
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        CallKind::BidiStream,
    ),
    (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        CallKind::BidiStream,
    ),
];

/// What is counted of the port.
#[derive(Debug, Default)]
pub(super) struct Calls {
    metrics: ServerMetrics,
    methods: HashMap<&'static str, MethodMetrics>,
}

impl Calls {
    /// Those of all methods.
    pub(super) fn new() -> Self {
        let metrics = ServerMetrics::default();
        let methods = METHODS.map(|(path, kind)| (path, metrics.method(path, kind)));
        Self {
            metrics,
            methods: methods.into(),
        }
    }

    /// The metrics of all calls of the replica.
    pub(super) fn metrics(&self) -> &ServerMetrics {
        &self.metrics
    }

    /// A call of the method at this path begins.
    pub(super) fn begin(&self, path: &str) -> Option<CountedCall> {
        self.methods.get(path).map(MethodMetrics::begin)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn the_methods_are_those_of_the_services() {
        let sets = [
            proto::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let mut known = HashMap::new();
        for set in sets {
            for file in FileDescriptorSet::decode(set).unwrap().file {
                for service in &file.service {
                    for method in &service.method {
                        let (package, service) = (file.package(), service.name());
                        let path = format!("/{package}.{service}/{}", method.name());
                        known.insert(path, (method.client_streaming(), method.server_streaming()));
                    }
                }
            }
        }
        for (path, kind) in METHODS {
            let streams = match kind {
                CallKind::Unary => (false, false),
                CallKind::ServerStream => (false, true),
                CallKind::BidiStream => (true, true),
            };
            assert_eq!(known.get(path), Some(&streams), "{path}");
        }
    }
}

//! How long a message of a call may be. Pure.

use proto::{bounds::Bounds, frame::MAX_MESSAGE};

/// A push, a repository, the versions of a project's agents.
const DEFAULT_BOUNDS: Bounds = Bounds::bytes(64 << 10);
/// Numbers of projects or agents, which GitLab asks about many of at once.
const ID_LIST_BOUNDS: Bounds = Bounds::bytes(1 << 20);
/// What a watcher knows already.
const GRAPH_BOUNDS: Bounds = Bounds::bytes(MAX_MESSAGE);
/// The longest question of reflection, in bytes: the name of a service or file.
pub(super) const QUESTION_BYTES: usize = 16 << 10;

/// The bounds of the one message that a call of this path takes; none where one call takes many.
pub(super) fn of(path: &str) -> Option<&'static Bounds> {
    let service = path.trim_start_matches('/').split('/').next();
    match service.unwrap_or_default() {
        "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection" => None,
        "gitlab.agent.agent_tracker.rpc.AgentTracker"
        | "gitlab.agent.kas_clusters.rpc.Clusters"
        | "gitlab.agent.kas_events.rpc.Reader" => Some(&ID_LIST_BOUNDS),
        "gitlab.agent.kas_graph.rpc.Graph" => Some(&GRAPH_BOUNDS),
        _ => Some(&DEFAULT_BOUNDS),
    }
}

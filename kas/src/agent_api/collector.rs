//! `Collector`: agents tell what happens in their clusters.

use proto::{
    bounds::{Bounds, Repeated},
    events::rpc::{Batch, ReportRequest, ReportResponse},
};
use router::AgentId;
use runtime::shares::{Limits, Shares};
use tonic::Status;

use super::{AgentApi, caller::Known};
use crate::events::Events;

/// One report; agents tell a hundred events at once.
pub(super) const REPORT: Bounds = Bounds {
    bytes: 1 << 20,
    repeated: &[Repeated {
        path: &[1],
        most: 1000,
        what: "events",
    }],
};
/// Reports that are read or passed on at a time. An agent's two are those of a leader and the next one.
const REPORTS: Limits = Limits {
    total: 128,
    each: 2,
    reserved: 32,
};

/// Reports in progress, by whose they are.
pub(super) fn reports() -> Shares<AgentId> {
    Shares::new(REPORTS)
}

/// Passes on what a known agent reports.
pub(super) async fn report(
    known: &Known,
    events: &Events,
    request: ReportRequest,
) -> ReportResponse {
    let ReportRequest {
        events: told,
        dropped,
    } = request;
    if !told.is_empty() || dropped > 0 {
        let agent = &known.agent;
        let batch = Batch {
            agent_id: agent.id.0,
            agent_name: agent.name.clone(),
            project_id: agent.project_id,
            project_path: agent.project_path.clone(),
            events: told,
            dropped,
        };
        events.pass_on(batch).await;
    }
    ReportResponse {}
}

/// A place for a report of an agent.
///
/// # Errors
/// RESOURCE_EXHAUSTED when too many are in progress.
pub(super) fn place(
    api: &AgentApi,
    agent: AgentId,
) -> Result<runtime::shares::Share<AgentId>, Status> {
    api.reports.take(agent, 1).map_err(|full| {
        Status::resource_exhausted(format!("too many reports of events in progress: {full}"))
    })
}

//! `Collector.Report`: agents report the events of their clusters.

use control_plane::AgentInfo;
use proto::{
    bounds::{Bounds, Repeated},
    events::rpc::{Batch, ReportRequest, ReportResponse},
};
use router::AgentId;
use runtime::shares::{Limits, Share, Shares};
use tonic::Status;

use super::super::{
    caller::Identity,
    service::{Method, Unary},
};
use crate::events::Events;

/// Reports that are read or published at a time. An agent's two are those of a leader and the next one.
const CONCURRENT_REPORTS: Limits = Limits {
    total: 128,
    each: 2,
    reserved: 32,
};

struct Report {
    events: Events,
    in_progress: Shares<AgentId>,
}

/// Agents report events of their clusters by it.
#[must_use]
pub fn report_events(events: Events) -> Method {
    Method::unary(Report {
        events,
        in_progress: Shares::new(CONCURRENT_REPORTS),
    })
}

impl Unary for Report {
    const PATH: &'static str = "/gitlab.agent.kas_events.rpc.Collector/Report";
    /// Agents report a hundred events at once.
    const BOUNDS: Bounds = Bounds {
        bytes: 1 << 20,
        repeated: &[Repeated {
            path: &[1],
            most: 1000,
            what: "events",
        }],
    };
    type Request = ReportRequest;
    type Response = ReportResponse;

    fn admit(&self, agent: &AgentInfo) -> Result<Option<Share<AgentId>>, Status> {
        let share = self.in_progress.take(agent.id, 1).map_err(|full| {
            Status::resource_exhausted(format!("too many reports of events in progress: {full}"))
        });
        share.map(Some)
    }

    async fn call(
        &self,
        identity: &Identity,
        request: ReportRequest,
    ) -> Result<ReportResponse, Status> {
        let ReportRequest { events, dropped } = request;
        if !events.is_empty() || dropped > 0 {
            let agent = &identity.agent;
            let batch = Batch {
                agent_id: agent.id.0,
                agent_name: agent.name.clone(),
                project_id: agent.project_id,
                project_path: agent.project_path.clone(),
                events,
                dropped,
                changes: Vec::new(),
            };
            self.events.publish(batch).await;
        }
        Ok(ReportResponse {})
    }
}

//! `Collector`: agents tell what happens in their clusters.

use std::sync::Arc;

use proto::events::rpc::{Batch, ReportRequest, ReportResponse, collector_server};
use tonic::{Request, Response, Status};

use super::{AgentApi, authenticate::Shown};
use crate::events::Events;

/// Events of one report; agents tell a hundred at once.
const MOST: usize = 1000;

/// The service, for the calls of one connection.
#[derive(Debug, Clone)]
pub(super) struct Collector {
    pub(super) api: Arc<AgentApi>,
    pub(super) shown: Shown,
    pub(super) events: Events,
}

#[tonic::async_trait]
impl collector_server::Collector for Collector {
    async fn report(
        &self,
        request: Request<ReportRequest>,
    ) -> Result<Response<ReportResponse>, Status> {
        let headers = request.metadata().as_ref();
        let agent = self.api.authenticator.agent(headers, &self.shown).await?;
        let ReportRequest { events, dropped } = request.into_inner();
        if events.len() > MOST {
            let words = format!("{} events, more than the {MOST} allowed", events.len());
            return Err(Status::invalid_argument(words));
        }
        if !events.is_empty() || dropped > 0 {
            let batch = Batch {
                agent_id: agent.id.0,
                agent_name: agent.name.clone(),
                project_id: agent.project_id,
                project_path: agent.project_path.clone(),
                events,
                dropped,
            };
            self.events.pass_on(batch).await;
        }
        Ok(Response::new(ReportResponse {}))
    }
}

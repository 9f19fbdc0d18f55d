//! `Reader.Follow`: clients of GitLab's port follow the events that all replicas get.

use std::pin::Pin;

use futures_util::{Stream, stream};
use proto::events::rpc::{FollowRequest, FollowResponse, reader_server};
use tokio::sync::broadcast::error::RecvError;
use tonic::{Request, Response, Status};

use super::{Delivery, Events};

/// Agents that one reader may name.
const MAX_AGENTS: usize = 10_000;

/// The service.
#[derive(Debug)]
pub struct Reader(pub Events);

#[tonic::async_trait]
impl reader_server::Reader for Reader {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<FollowResponse, Status>> + Send>>;

    async fn follow(
        &self,
        request: Request<FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let agents = request.into_inner().agent_ids;
        if agents.len() > MAX_AGENTS {
            let message = format!(
                "{} agents, more than the {MAX_AGENTS} allowed",
                agents.len()
            );
            return Err(Status::invalid_argument(message));
        }
        let deliveries = self.0.0.readers.subscribe();
        let end = self.0.0.readers_end.clone();
        let responses = stream::unfold(
            (deliveries, agents),
            |(mut deliveries, agents)| async move {
                loop {
                    let response = match deliveries.recv().await {
                        Ok(delivery) => response(&delivery, &agents),
                        Err(RecvError::Lagged(_)) => response(&Delivery::Missed, &agents),
                        Err(RecvError::Closed) => return None,
                    };
                    if let Some(response) = response {
                        return Some((Ok(response), (deliveries, agents)));
                    }
                }
            },
        );
        let end = async move { end.cancelled().await };
        let responses = futures_util::StreamExt::take_until(responses, end);
        Ok(Response::new(Box::pin(responses)))
    }
}

fn response(delivery: &Delivery, agents: &[i64]) -> Option<FollowResponse> {
    match delivery {
        Delivery::Missed => Some(FollowResponse {
            batch: None,
            missed: true,
        }),
        Delivery::Batch(batch) if !batch.changes.is_empty() => {
            let mut batch = (**batch).clone();
            let wanted = |id| agents.is_empty() || agents.contains(&id);
            batch.changes.retain(|change| wanted(change.agent_id));
            (!batch.changes.is_empty()).then_some(FollowResponse {
                batch: Some(batch),
                missed: false,
            })
        }
        Delivery::Batch(batch) => {
            let wanted = agents.is_empty() || agents.contains(&batch.agent_id);
            wanted.then(|| FollowResponse {
                batch: Some((**batch).clone()),
                missed: false,
            })
        }
    }
}

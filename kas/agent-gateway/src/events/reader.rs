//! `Reader`: whoever GitLab's token lets in follows the events of all replicas.

use std::pin::Pin;

use futures_util::{Stream, stream};
use proto::events::rpc::{FollowRequest, FollowResponse, reader_server};
use tokio::sync::broadcast::error::RecvError;
use tonic::{Request, Response, Status};

use super::{Events, Told};

/// Agents that one reader may name.
const MOST: usize = 10_000;

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
        if agents.len() > MOST {
            let words = format!("{} agents, more than the {MOST} allowed", agents.len());
            return Err(Status::invalid_argument(words));
        }
        let told = self.0.0.readers.subscribe();
        let leaving = self.0.0.leaving.clone();
        let responses = stream::unfold((told, agents), |(mut told, agents)| async move {
            loop {
                let response = match told.recv().await {
                    Ok(told) => response(&told, &agents),
                    Err(RecvError::Lagged(_)) => response(&Told::Missed, &agents),
                    Err(RecvError::Closed) => return None,
                };
                if let Some(response) = response {
                    return Some((Ok(response), (told, agents)));
                }
            }
        });
        let left = async move { leaving.cancelled().await };
        let responses = futures_util::StreamExt::take_until(responses, left);
        Ok(Response::new(Box::pin(responses)))
    }
}

fn response(told: &Told, agents: &[i64]) -> Option<FollowResponse> {
    match told {
        Told::Missed => Some(FollowResponse {
            batch: None,
            missed: true,
        }),
        Told::Batch(batch) => {
            let wanted = agents.is_empty() || agents.contains(&batch.agent_id);
            wanted.then(|| FollowResponse {
                batch: Some((**batch).clone()),
                missed: false,
            })
        }
    }
}

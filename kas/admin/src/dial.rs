//! Whether a replica reaches the others: it dials them when `kas doctor` asks it to.

use std::{fmt::Debug, sync::Arc, time::Duration};

use cluster_state::{Owner, ReplicaId, RoutingTable};
use proto::bounds::Bounds;
use router::peers::Peers;
use tonic::{Code, Status};

use crate::{
    peers,
    v1::{DialPeersRequest, DialPeersResponse, DialedPeer},
};

/// The question's path.
const DIAL_PEERS: &str = "/kas.admin.v1.Replica/DialPeers";
/// Replicas that one dials when it is asked.
const MAX_DIALED: usize = 50;
/// How long one of them may take to answer; with all of them silent it is four times that.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// The answer: an id, a URL and a sentence for each.
const ANSWER_BOUNDS: Bounds = Bounds::bytes(256 << 10);

/// Why a replica was not reached.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotReached(pub String);

/// Dials replicas as a request does that needs a tunnel of theirs.
#[tonic::async_trait]
pub trait PeerDialer: Debug + Send + Sync {
    /// Dials one, which has to prove who it is. The caller has a deadline.
    async fn dial(&self, peer: &Owner) -> Result<(), NotReached>;
}

/// Dials all replicas but `own`.
pub(crate) async fn dial_all(
    table: &dyn RoutingTable,
    own: &ReplicaId,
    dialer: &Arc<dyn PeerDialer>,
) -> DialPeersResponse {
    let others = peers::members(table).into_iter().map(|it| it.replica);
    let others = others.filter(|it| it.replica != *own);
    let dials = others.take(MAX_DIALED).map(|peer| async move {
        let dialed = tokio::time::timeout(DIAL_TIMEOUT, dialer.dial(&peer)).await;
        let problem = match dialed {
            Ok(Ok(())) => String::new(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {DIAL_TIMEOUT:?}"),
        };
        DialedPeer {
            replica: peer.replica.to_string(),
            url: peer.url,
            problem,
        }
    });
    DialPeersResponse {
        peers: peers::all(dials.collect()).await,
    }
}

/// Asks the replica at `url` to dial the others. The caller has a deadline.
///
/// # Errors
/// The refusal, or why it was not reached. An older version does not know the question: [`is_older`].
pub async fn dialed_by(peers: &Peers, url: &str) -> Result<Vec<DialedPeer>, Status> {
    let asked = peers.ask(url, DIAL_PEERS, &DialPeersRequest {}, &ANSWER_BOUNDS);
    let answer: DialPeersResponse = asked.await?;
    Ok(answer.peers)
}

/// Whether a replica does not know the question.
#[must_use]
pub fn is_older(refusal: &Status) -> bool {
    refusal.code() == Code::Unimplemented
}

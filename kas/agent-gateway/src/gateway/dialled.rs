//! A connection that this replica dialled: it is for one agent only.

use std::sync::Arc;

use control_plane::AgentInfo;
use router::AgentId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::authenticate::is_refusal;

/// The agent at the other end of a dialled connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DialledAgent {
    /// No token was shown yet.
    Unauthenticated,
    /// The agent that was dialled.
    Expected,
    /// Another agent.
    Other(AgentId),
    /// Its token is not valid, for this reason.
    Rejected(String),
}

/// A dialled connection: its agent, and how it is given up.
#[derive(Debug)]
pub struct DialledConnection {
    expected: AgentId,
    agent: watch::Sender<DialledAgent>,
    leave: CancellationToken,
    /// Whether the pod that was dialled is at its other end.
    direct: bool,
    /// Whether load balancers on the way see each of its calls as a stream.
    seen: bool,
}

impl DialledConnection {
    /// A connection on which this agent is expected. `seen`: load balancers on the way see each of its calls as a
    /// stream, and may cut those that are silent.
    #[must_use]
    pub fn new(expected: AgentId, seen: bool) -> Arc<Self> {
        Arc::new(Self {
            expected,
            agent: watch::Sender::new(DialledAgent::Unauthenticated),
            leave: CancellationToken::new(),
            direct: true,
            seen,
        })
    }

    /// The agent at the other end, now and when that changes.
    #[must_use]
    pub fn agent(&self) -> watch::Receiver<DialledAgent> {
        self.agent.subscribe()
    }

    /// Whether the pod that was dialled is at its other end, and may carry others.
    pub(super) fn is_direct(&self) -> bool {
        self.direct
    }

    /// Whether its calls are streams that load balancers on the way see.
    pub(super) fn is_seen(&self) -> bool {
        self.seen
    }

    /// The connection of another pod that this one carries.
    pub(super) fn of_another_pod(&self) -> Arc<Self> {
        Arc::new(Self {
            expected: self.expected,
            agent: watch::Sender::new(DialledAgent::Unauthenticated),
            leave: self.leave.clone(),
            direct: false,
            seen: false,
        })
    }

    /// Gives the connection up: it ends as one that is too old.
    pub fn leave(&self) {
        self.leave.cancel();
    }

    pub(super) async fn left(&self) {
        self.leave.cancelled().await;
    }

    /// Notes whose token was shown, and refuses other agents than the expected one.
    pub(super) fn check(
        &self,
        authenticated: &Result<Arc<AgentInfo>, Status>,
    ) -> Result<(), Status> {
        let agent = match authenticated {
            Ok(agent) if agent.id == self.expected => DialledAgent::Expected,
            Ok(agent) => DialledAgent::Other(agent.id),
            Err(status) if is_refusal(status) => {
                DialledAgent::Rejected(status.message().to_owned())
            }
            Err(_) => return Ok(()),
        };
        let other = matches!(agent, DialledAgent::Other(_));
        self.agent.send_if_modified(|known| {
            let changed = *known != agent;
            *known = agent;
            changed
        });
        if other {
            return Err(Status::permission_denied(format!(
                "kas dialled this URL for agent {}, and this is another agent",
                self.expected
            )));
        }
        Ok(())
    }
}

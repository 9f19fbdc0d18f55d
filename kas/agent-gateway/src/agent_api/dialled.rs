//! A connection that this replica dialled: one agent only belongs on it.

use std::sync::Arc;

use router::AgentId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use control_plane::AgentInfo;

/// Who answers where this replica dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nobody yet.
    None,
    /// The agent that was to answer.
    Expected,
    /// Another agent.
    Other(AgentId),
    /// One whose token is not good.
    Refused(String),
}

/// What is known of a dialled connection, and the word to leave it.
#[derive(Debug)]
pub struct Dialled {
    agent: AgentId,
    answer: watch::Sender<Answer>,
    leave: CancellationToken,
    /// Whether the pod that was dialled is at its other end.
    direct: bool,
}

impl Dialled {
    /// A connection on which this agent is expected.
    #[must_use]
    pub fn new(agent: AgentId) -> Arc<Self> {
        Arc::new(Self {
            agent,
            answer: watch::Sender::new(Answer::None),
            leave: CancellationToken::new(),
            direct: true,
        })
    }

    /// Who answers, now and when that changes.
    #[must_use]
    pub fn answer(&self) -> watch::Receiver<Answer> {
        self.answer.subscribe()
    }

    /// Whether the pod that was dialled is at its other end, and may carry others.
    pub(super) fn is_direct(&self) -> bool {
        self.direct
    }

    /// What is known of a connection of another pod that this one carries.
    pub(super) fn of_another_pod(&self) -> Arc<Self> {
        Arc::new(Self {
            agent: self.agent,
            answer: watch::Sender::new(Answer::None),
            leave: self.leave.clone(),
            direct: false,
        })
    }

    /// Asks the agent to leave the connection, as one that is too old.
    pub fn leave(&self) {
        self.leave.cancel();
    }

    pub(super) async fn left(&self) {
        self.leave.cancelled().await;
    }

    /// Notes who showed a token; refuses whoever is not expected.
    pub(super) fn check(&self, asked: &Result<Arc<AgentInfo>, Status>) -> Result<(), Status> {
        let answer = match asked {
            Ok(agent) if agent.id == self.agent => Answer::Expected,
            Ok(agent) => Answer::Other(agent.id),
            Err(status) if is_no_answer(status) => return Ok(()),
            Err(status) => Answer::Refused(status.message().to_owned()),
        };
        let other = matches!(answer, Answer::Other(_));
        self.answer.send_if_modified(|known| {
            let changed = *known != answer;
            *known = answer;
            changed
        });
        if other {
            return Err(Status::permission_denied(format!(
                "kas dialled this URL for agent {}, and this is another agent",
                self.agent
            )));
        }
        Ok(())
    }
}

/// Whether nobody could say whose the token is.
fn is_no_answer(status: &Status) -> bool {
    use tonic::Code::{ResourceExhausted, Unavailable};
    matches!(status.code(), Unavailable | ResourceExhausted)
}

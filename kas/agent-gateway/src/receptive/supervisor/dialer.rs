//! Keeps one agent connected while this replica is its assignee, and until the next assignee owns the agent.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use control_plane::ReceptiveAgent;
use router::{AgentId, RoutingTable};
use runtime::{backoff::Backoff, drain::Drain};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::super::{
    assignee::Assignee,
    dial::{Attached, dial},
    dial_error::DialError,
    form::{Form, Forms},
    states::ReceptiveStates,
};
use crate::gateway::{AgentGateway, DialledAgent, DialledConnection};

const RECONNECT_BACKOFF_MIN: Duration = Duration::from_millis(200);
const RECONNECT_BACKOFF_MAX: Duration = Duration::from_secs(30);
const RECONNECT_BACKOFF_FACTOR: f64 = 1.8;
/// Longest wait after the loss of a connection that had worked: requests wait for the agent.
const LOST_CONNECTION_BACKOFF_MAX: Duration = Duration::from_millis(50);
/// How long an agent may take to show its token.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an agent that was rejected may take to close the connection.
const REJECTED_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the agent's owners are read while another replica is the assignee.
const OWNERS_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Dials one agent.
#[derive(Debug)]
pub(super) struct AgentDialer {
    pub(super) agent: ReceptiveAgent,
    pub(super) assignee: watch::Receiver<Assignee>,
    /// The agent is not listed any more, or its entry has changed.
    pub(super) unlisted: CancellationToken,
    pub(super) gateway: Arc<AgentGateway>,
    pub(super) table: Arc<dyn RoutingTable>,
    pub(super) states: ReceptiveStates,
    pub(super) user_agent: Arc<str>,
    pub(super) forms: Forms,
    pub(super) descriptor: Bytes,
    pub(super) drain: Drain,
}

/// A connection that is being served.
struct HeldConnection {
    connection: Arc<DialledConnection>,
    agent: watch::Receiver<DialledAgent>,
    form: Form,
    ended: CancellationToken,
    /// Closes the socket.
    cut: CancellationToken,
}

/// Why a connection is not held any more.
enum Outcome {
    Failed(DialError),
    /// The new assignee owns the agent.
    Moved,
    Unlisted,
}

impl AgentDialer {
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(
            RECONNECT_BACKOFF_MIN,
            RECONNECT_BACKOFF_MAX,
            RECONNECT_BACKOFF_FACTOR,
        );
        while self.is_assigned().await {
            self.states.dialling(self.agent.id);
            let unlisted = self.unlisted.clone();
            let (choice, descriptor) = (self.forms.choice(), self.descriptor.clone());
            let dialled = dial(&self.agent, &self.user_agent, choice, descriptor);
            let Some(dialled) = unlisted.run_until_cancelled(dialled).await else {
                break;
            };
            let outcome = match dialled {
                Ok(attached) => self.hold(attached).await,
                Err(error) => Outcome::Failed(error),
            };
            match outcome {
                Outcome::Failed(error) => self.pause(&error, &mut backoff).await,
                Outcome::Moved => self.states.remove(self.agent.id),
                Outcome::Unlisted => break,
            }
        }
        self.states.remove(self.agent.id);
    }

    /// Waits until this replica is the assignee; `false` when the agent is not listed any more.
    async fn is_assigned(&mut self) -> bool {
        let unlisted = self.unlisted.clone();
        let assigned = self.assignee.wait_for(Assignee::is_this_replica);
        matches!(unlisted.run_until_cancelled(assigned).await, Some(Ok(_)))
    }

    /// Waits before the next attempt, as long as there is to be one.
    async fn pause(&mut self, error: &DialError, backoff: &mut Backoff) {
        self.states.failed(self.agent.id, &self.agent.url, error);
        let delay = if matches!(error, DialError::Ended) {
            backoff.reset();
            LOST_CONNECTION_BACKOFF_MAX.mul_f64(rand::random())
        } else {
            backoff.next(rand::random())
        };
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = self.unlisted.cancelled() => {}
            Ok(_) = self.assignee.wait_for(|assignee| !assignee.is_this_replica()) => {
                self.states.remove(self.agent.id);
            }
        }
    }

    /// Holds a connection until it ends or is given up.
    async fn hold(&mut self, attached: Attached) -> Outcome {
        let mut held = self.serve(attached);
        let token_deadline = Instant::now() + TOKEN_TIMEOUT;
        loop {
            let agent = held.agent.borrow_and_update().clone();
            match agent {
                DialledAgent::Unauthenticated => {}
                DialledAgent::Expected => {
                    self.forms.is(held.form);
                    let (id, url) = (self.agent.id, &self.agent.url);
                    self.states.connected(id, url, held.form.name());
                }
                DialledAgent::Other(other) => return held.rejected(DialError::Other(other)).await,
                DialledAgent::Rejected(why) => return held.rejected(DialError::Token(why)).await,
            }
            let unauthenticated = agent == DialledAgent::Unauthenticated;
            tokio::select! {
                Ok(()) = held.agent.changed() => {}
                () = held.ended.cancelled() => return Outcome::Failed(held.end()),
                () = tokio::time::sleep_until(token_deadline), if unauthenticated => {
                    return held.rejected(DialError::Silent).await;
                }
                () = taken_over(&mut self.assignee, &*self.table, self.agent.id) => {
                    held.connection.leave();
                    return Outcome::Moved;
                }
                () = self.unlisted.cancelled() => {
                    held.connection.leave();
                    return Outcome::Unlisted;
                }
            }
        }
    }

    /// Serves the connection in a task that the replica waits for when it drains.
    fn serve(&self, attached: Attached) -> HeldConnection {
        let Attached {
            accepted,
            form,
            seen,
            mut driver,
        } = attached;
        let connection = DialledConnection::new(self.agent.id, seen);
        let (ended, cut) = (CancellationToken::new(), CancellationToken::new());
        let held = HeldConnection {
            agent: connection.agent(),
            connection: connection.clone(),
            form,
            ended: ended.clone(),
            cut: cut.clone(),
        };
        let gateway = self.gateway.clone();
        let served = gateway.serve_dialled(accepted, connection, self.drain.clone());
        self.drain.spawn(async move {
            let _ended = ended.drop_guard();
            let mut served = std::pin::pin!(served);
            tokio::select! {
                () = &mut served => return,
                () = &mut driver => {}
                () = cut.cancelled() => drop(driver),
            }
            // Without its driver the connection carries no bytes any more, and ends.
            served.await;
        });
        held
    }
}

impl HeldConnection {
    /// What its end means.
    fn end(&self) -> DialError {
        match &*self.agent.borrow() {
            DialledAgent::Unauthenticated => DialError::Silent,
            DialledAgent::Expected => DialError::Ended,
            DialledAgent::Other(other) => DialError::Other(*other),
            DialledAgent::Rejected(why) => DialError::Token(why.clone()),
        }
    }

    /// Lets the other end read why it was rejected, and ends the connection.
    async fn rejected(self, error: DialError) -> Outcome {
        let closed = tokio::time::timeout(REJECTED_CLOSE_TIMEOUT, self.ended.cancelled());
        if closed.await.is_err() {
            self.cut.cancel();
        }
        Outcome::Failed(error)
    }
}

/// Waits until another replica is the assignee and owns the agent. Cancel-safe.
async fn taken_over(
    assignee: &mut watch::Receiver<Assignee>,
    table: &dyn RoutingTable,
    agent: AgentId,
) {
    let mut changes = table.changes(agent);
    loop {
        changes.mark_unchanged();
        let now = assignee.borrow_and_update().clone();
        if !now.is_this_replica()
            && now.has_taken_over(
                &table.owners(agent).await,
                table.is_authoritative_for(agent),
            )
        {
            return;
        }
        tokio::select! {
            changed = assignee.changed() => if changed.is_err() {
                // The supervisor has ended: the replica drains.
                return std::future::pending().await;
            },
            Ok(()) = changes.changed() => {}
            () = tokio::time::sleep(OWNERS_POLL_INTERVAL), if !now.is_this_replica() => {}
        }
    }
}

//! Keeps one agent connected while this replica has the duty, and until whoever
//! has it next holds the agent.

use std::{sync::Arc, time::Duration};

use control_plane::ReceptiveAgent;
use router::{AgentId, RoutingTable};
use runtime::{backoff::Backoff, drain::Drain};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::super::{
    dial::{Reached, dial},
    duty::Duty,
    states::ReceptiveStates,
    trouble::Trouble,
};
use crate::agent_api::{AgentApi, Answer, Dialled};

/// Waits after failures: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// After the loss of a connection that had worked, requests wait.
const AT_ONCE: Duration = Duration::from_millis(50);
/// How long an agent may take to show its token.
const WORD: Duration = Duration::from_secs(15);
/// How long it may take to leave when it does not belong there.
const FAREWELL: Duration = Duration::from_secs(2);
/// How often it is looked whether another replica holds the agent.
const LOOK: Duration = Duration::from_secs(1);

/// Sees to one agent.
#[derive(Debug)]
pub(super) struct Warden {
    pub(super) agent: ReceptiveAgent,
    pub(super) duty: watch::Receiver<Duty>,
    /// The agent is listed no more, or differently.
    pub(super) dismissed: CancellationToken,
    pub(super) api: Arc<AgentApi>,
    pub(super) table: Arc<dyn RoutingTable>,
    pub(super) states: ReceptiveStates,
    pub(super) user_agent: Arc<str>,
    pub(super) drain: Drain,
}

/// A connection that is being served.
struct Held {
    dialled: Arc<Dialled>,
    answer: watch::Receiver<Answer>,
    ended: CancellationToken,
    /// Cuts it.
    cut: CancellationToken,
}

/// Why a connection is not held any more.
enum Over {
    /// Something is wrong with it.
    Failed(Trouble),
    /// Another replica holds the agent.
    Moved,
    /// The agent is listed no more.
    Dismissed,
}

impl Warden {
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1, 1.8);
        while self.has_duty().await {
            self.states.dialling(self.agent.id);
            let dismissed = self.dismissed.clone();
            let Some(dialled) = dismissed
                .run_until_cancelled(dial(&self.agent, &self.user_agent))
                .await
            else {
                break;
            };
            let over = match dialled {
                Ok(reached) => self.hold(reached).await,
                Err(trouble) => Over::Failed(trouble),
            };
            match over {
                Over::Failed(trouble) => self.pause(&trouble, &mut backoff).await,
                Over::Moved => self.states.gone(self.agent.id),
                Over::Dismissed => break,
            }
        }
        self.states.gone(self.agent.id);
    }

    /// Waits until this replica is to dial; `false` when nobody is.
    async fn has_duty(&mut self) -> bool {
        let dismissed = self.dismissed.clone();
        let mine = self.duty.wait_for(Duty::is_mine);
        matches!(dismissed.run_until_cancelled(mine).await, Some(Ok(_)))
    }

    /// Waits before the next attempt, as long as there is to be one.
    async fn pause(&mut self, trouble: &Trouble, backoff: &mut Backoff) {
        self.states.failed(self.agent.id, &self.agent.url, trouble);
        let delay = if matches!(trouble, Trouble::Ended) {
            backoff.reset();
            AT_ONCE.mul_f64(rand::random())
        } else {
            backoff.next(rand::random())
        };
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = self.dismissed.cancelled() => {}
            Ok(_) = self.duty.wait_for(|duty| !duty.is_mine()) => {
                self.states.gone(self.agent.id);
            }
        }
    }

    /// Holds a connection until it is over.
    async fn hold(&mut self, reached: Reached) -> Over {
        let mut held = self.serve(reached);
        let silent = Instant::now() + WORD;
        loop {
            let answer = held.answer.borrow_and_update().clone();
            match answer {
                Answer::None => {}
                Answer::Expected => self.states.connected(self.agent.id, &self.agent.url),
                Answer::Other(other) => return held.rejected(Trouble::Other(other)).await,
                Answer::Refused(why) => return held.rejected(Trouble::Token(why)).await,
            }
            let waits = answer == Answer::None;
            tokio::select! {
                Ok(()) = held.answer.changed() => {}
                () = held.ended.cancelled() => return Over::Failed(held.end()),
                () = tokio::time::sleep_until(silent), if waits => {
                    return held.rejected(Trouble::Silent).await;
                }
                () = moved(&mut self.duty, &*self.table, self.agent.id) => {
                    held.dialled.leave();
                    return Over::Moved;
                }
                () = self.dismissed.cancelled() => {
                    held.dialled.leave();
                    return Over::Dismissed;
                }
            }
        }
    }

    /// Serves the connection in a task that the replica waits for when it drains.
    fn serve(&self, reached: Reached) -> Held {
        let Reached {
            accepted,
            mut driver,
        } = reached;
        let dialled = Dialled::new(self.agent.id);
        let (ended, cut) = (CancellationToken::new(), CancellationToken::new());
        let held = Held {
            answer: dialled.answer(),
            dialled: dialled.clone(),
            ended: ended.clone(),
            cut: cut.clone(),
        };
        let api = self.api.clone();
        let served = api.serve_dialled(accepted, dialled, self.drain.clone());
        self.drain.spawn(async move {
            let _ended = ended.drop_guard();
            let mut served = std::pin::pin!(served);
            tokio::select! {
                () = &mut served => return,
                () = &mut driver => {}
                () = cut.cancelled() => drop(driver),
            }
            // The bytes end, and with them what is made of them.
            served.await;
        });
        held
    }
}

impl Held {
    /// What its end says of it.
    fn end(&self) -> Trouble {
        match &*self.answer.borrow() {
            Answer::None => Trouble::Silent,
            Answer::Expected => Trouble::Ended,
            Answer::Other(other) => Trouble::Other(*other),
            Answer::Refused(why) => Trouble::Token(why.clone()),
        }
    }

    /// Lets whoever does not belong there hear why, and ends the connection.
    async fn rejected(self, trouble: Trouble) -> Over {
        let left = tokio::time::timeout(FAREWELL, self.ended.cancelled());
        if left.await.is_err() {
            self.cut.cancel();
        }
        Over::Failed(trouble)
    }
}

/// Waits until whoever has the duty now holds the agent. Cancel-safe.
async fn moved(duty: &mut watch::Receiver<Duty>, table: &dyn RoutingTable, agent: AgentId) {
    let mut changes = table.changes(agent);
    loop {
        changes.mark_unchanged();
        let now = duty.borrow_and_update().clone();
        if !now.is_mine() && now.is_done_by(&table.owners(agent).await, table.certain_of(agent)) {
            return;
        }
        tokio::select! {
            changed = duty.changed() => if changed.is_err() {
                // The keeper is gone: the replica drains.
                return std::future::pending().await;
            },
            Ok(()) = changes.changed() => {}
            () = tokio::time::sleep(LOOK), if !now.is_mine() => {}
        }
    }
}

//! Asking the owners of an agent, one after the other and then all at once.
//!
//! The next owner is asked as soon as one says that it has no idle tunnel, or
//! is silent for the hedge delay. All questions stay open: an owner without a
//! tunnel may get one. The first that is ready wins.

use std::{collections::HashSet, future::Future, pin::Pin, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::watch;
use tonic::Status;

use super::Need;
use crate::{
    id::AgentId,
    peers::{Answer, Asked, Peers},
    table::RoutingTable,
};

/// An owner's silence after which the next is asked too.
const HEDGE: Duration = Duration::from_millis(10);
/// How long an owner that failed is left alone.
const RETRY: Duration = Duration::from_millis(100);

pub(super) struct Owners<'a> {
    peers: &'a Peers,
    table: &'a dyn RoutingTable,
    agent: AgentId,
    need: &'a Need,
    changes: watch::Receiver<u64>,
    asking: FuturesUnordered<Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>>,
    asked: HashSet<String>,
    /// Whether the next owner is to be asked now.
    next: bool,
}

struct Outcome {
    url: String,
    answer: Result<(Answer, Asked), Status>,
}

impl<'a> Owners<'a> {
    pub(super) fn new(
        peers: &'a Peers,
        table: &'a dyn RoutingTable,
        agent: AgentId,
        need: &'a Need,
    ) -> Self {
        let changes = table.changes(agent);
        let asking = FuturesUnordered::new();
        Self {
            peers,
            table,
            agent,
            need,
            changes,
            asking,
            asked: HashSet::new(),
            next: true,
        }
    }

    /// Waits for an owner that has a tunnel reserved. Cancel-safe.
    pub(super) async fn ready(&mut self) -> Asked {
        loop {
            let waits = if self.next {
                self.ask_next().await
            } else {
                false
            };
            tokio::select! {
                Some(outcome) = self.asking.next(), if !self.asking.is_empty() => {
                    if let Some(asked) = self.consider(outcome) {
                        return asked;
                    }
                }
                changed = self.changes.changed() => match changed {
                    Ok(()) => self.next = true,
                    Err(_) => return std::future::pending().await,
                },
                () = tokio::time::sleep(HEDGE), if waits => self.next = true,
            }
        }
    }

    /// Asks the next owner that is not being asked; false if there is none.
    async fn ask_next(&mut self) -> bool {
        self.changes.mark_unchanged();
        let owners = self.table.owners(self.agent).await;
        self.next = false;
        let fresh = owners
            .into_iter()
            .find(|owner| !self.asked.contains(&owner.url));
        let Some(owner) = fresh else { return false };
        self.asked.insert(owner.url.clone());
        let (peers, agent, need) = (self.peers, self.agent, self.need);
        self.asking.push(Box::pin(async move {
            let url = owner.url;
            let answer = async {
                let mut asked = peers.ask(&url, agent, need).await?;
                Ok((asked.answer().await?, asked))
            };
            let answer = answer.await;
            if answer.is_err() {
                tokio::time::sleep(RETRY).await;
            }
            Outcome { url, answer }
        }));
        true
    }

    fn consider(&mut self, outcome: Outcome) -> Option<Asked> {
        let Outcome { url, answer } = outcome;
        match answer {
            Ok((Answer::Ready, asked)) => {
                self.asked.remove(&url);
                return Some(asked);
            }
            Ok((Answer::None, mut asked)) => self.asking.push(Box::pin(async move {
                let answer = asked.answer().await.map(|answer| (answer, asked));
                Outcome { url, answer }
            })),
            Err(status) => {
                tracing::debug!(%status, url, "an owner could not be asked");
                self.asked.remove(&url);
            }
        }
        self.next = true;
        None
    }
}

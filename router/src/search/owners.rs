//! Asking the owners of an agent. The first that is ready wins.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use cluster_state::{AgentId, Owner, ReplicaId, RoutingTable};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{Notify, watch};
use tonic::{Code, Status};

use super::{
    Need,
    plan::{Plan, Turn},
};
use crate::{
    call::Opening,
    peers::{Answer, Asked, Peers},
    refusal::Refusal,
};

/// An owner's silence after which the next is asked too.
const HEDGE: Duration = Duration::from_millis(10);
/// How long an owner that failed is left alone.
const RETRY: Duration = Duration::from_millis(100);

/// Why owners give no tunnel.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// Why one could not be asked, last.
    unasked: Mutex<Option<Status>>,
    /// Why all refuse.
    refusal: Mutex<Option<Refusal>>,
    refused: Notify,
}

impl Trouble {
    /// The reason, if there was trouble at all.
    pub(super) fn reason(&self) -> Option<String> {
        let trouble = self.unasked.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.as_ref().map(|status| status.message().to_owned())
    }

    /// Waits until all owners that are asked refuse. Cancel-safe.
    pub(super) async fn refused(&self) -> Refusal {
        loop {
            self.refused.notified().await;
            let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(refusal) = refusal.take() {
                return refusal;
            }
        }
    }

    fn refuse(&self, refusal: Refusal) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
        self.refused.notify_one();
    }

    fn note(&self, status: Option<Status>) {
        *self.unasked.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

pub(super) struct Owners<'a> {
    peers: &'a Peers,
    table: &'a dyn RoutingTable,
    agent: AgentId,
    need: &'a Need,
    opening: &'a Opening,
    trouble: &'a Trouble,
    changes: watch::Receiver<u64>,
    asking: FuturesUnordered<Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>>,
    plan: Plan,
    /// Those that hold tunnels of the agent, and refuse.
    refusals: BTreeMap<ReplicaId, Refusal>,
    /// Whether the next question may bring the call with it: the first only,
    /// since the others are asked when it is slow or in vain.
    begins: bool,
}

struct Outcome {
    owner: Owner,
    answer: Result<(Answer, Asked), Status>,
}

impl<'a> Owners<'a> {
    pub(super) fn new(
        peers: &'a Peers,
        table: &'a dyn RoutingTable,
        agent: AgentId,
        need: &'a Need,
        opening: &'a Opening,
        trouble: &'a Trouble,
    ) -> Self {
        Self {
            peers,
            table,
            agent,
            need,
            opening,
            trouble,
            changes: table.changes(agent),
            asking: FuturesUnordered::new(),
            plan: Plan::new(),
            refusals: BTreeMap::new(),
            begins: opening.safe && opening.close,
        }
    }

    /// Waits for an owner that has a tunnel reserved. Cancel-safe.
    pub(super) async fn ready(&mut self) -> Asked {
        loop {
            if self.plan.turn() == Turn::Pick {
                self.ask_next().await;
            }
            let hedge = self.plan.turn() == Turn::Hedge;
            tokio::select! {
                biased;
                Some(outcome) = self.asking.next(), if !self.asking.is_empty() => {
                    if let Some(asked) = self.consider(outcome) {
                        return asked;
                    }
                }
                changed = self.changes.changed() => match changed {
                    Ok(()) => self.plan.go_on(),
                    Err(_) => return std::future::pending().await,
                },
                () = tokio::time::sleep(HEDGE), if hedge => self.plan.go_on(),
            }
        }
    }

    async fn ask_next(&mut self) {
        self.changes.mark_unchanged();
        let owners = self.table.owners(self.agent).await;
        let Some(owner) = self.plan.pick(owners) else {
            return;
        };
        let (peers, table) = (self.peers, self.table);
        let (agent, need, opening) = (self.agent, self.need, self.opening);
        let begin = std::mem::take(&mut self.begins);
        self.asking.push(Box::pin(async move {
            let answer = ask(peers, &owner, agent, need, opening, begin).await;
            if let Err(status) = &answer {
                if status.code() == Code::Unavailable {
                    table.unreachable(&owner.replica);
                }
                tokio::time::sleep(RETRY).await;
            }
            Outcome { owner, answer }
        }));
    }

    fn consider(&mut self, outcome: Outcome) -> Option<Asked> {
        let Outcome { owner, answer } = outcome;
        match answer {
            Ok((Answer::Ready, asked)) => {
                self.plan.over(&owner.replica);
                return Some(asked);
            }
            Ok((Answer::None, asked)) if asked.has_begun() => {
                self.trouble.note(None);
                self.plan.over(&owner.replica);
            }
            Ok((Answer::None, mut asked)) => {
                self.trouble.note(None);
                self.asking.push(Box::pin(async move {
                    let answer = asked.answer().await.map(|answer| (answer, asked));
                    Outcome { owner, answer }
                }));
                self.plan.go_on();
            }
            Err(status) => {
                tracing::debug!(%status, url = owner.url, "an owner could not be asked");
                self.plan.over(&owner.replica);
                match Refusal::from_owner(&status) {
                    Some(refusal) => {
                        self.refusals.insert(owner.replica, refusal);
                    }
                    None => self.trouble.note(Some(status)),
                }
                self.conclude();
            }
        }
        None
    }

    /// Those who are still asked may have what others lack, unless they are asked for want of better knowledge.
    fn conclude(&self) {
        let all = self.plan.asks_only(|it| self.refusals.contains_key(it));
        if let Some(best) = self.refusals.values().max()
            && (all || !self.table.certain_of(self.agent))
        {
            self.trouble.refuse(*best);
        }
    }
}

async fn ask(
    peers: &Peers,
    owner: &Owner,
    agent: AgentId,
    need: &Need,
    opening: &Opening,
    begin: bool,
) -> Result<(Answer, Asked), Status> {
    let mut asked = if begin {
        peers.ask_and_begin(&owner.url, agent, need, opening).await
    } else {
        peers.ask(&owner.url, agent, need, opening).await
    }?;
    Ok((asked.answer().await?, asked))
}

//! Questions to the other replicas: all at once, each within a deadline, and never more than a bounded number.

use std::time::Duration;

use cluster_state::{Member, ReplicaId, RoutingTable};
use futures_util::{StreamExt, stream};
use prost::Message;
use proto::bounds::Bounds;
use router::Router;
use tonic::Status;

use crate::{Failure, Sources, coverage::silent, v1::Coverage};

/// How long a replica may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Replicas that are asked, at most.
pub(crate) const MAX_REPLICAS: usize = 100;
/// Replicas that are asked at the same time.
const AT_ONCE: usize = 16;
/// A replica's answer: 500 requests in progress, with room to spare.
const ANSWER_BOUNDS: Bounds = Bounds::bytes(1 << 20);

/// Why a replica did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("it publishes no URL, so it cannot be asked")]
    NoUrl,
    #[error("{}", .0.message())]
    Refused(Box<Status>),
    #[error("it did not answer within {0:?}")]
    Timeout(Duration),
    #[error("its answer is empty")]
    Empty,
}

/// What replicas are asked.
pub(crate) struct Question<'a, M> {
    method: &'static str,
    message: &'a M,
    /// How long each may take.
    limit: Duration,
}

impl<'a, M: Message> Question<'a, M> {
    pub(crate) fn new(method: &'static str, message: &'a M) -> Self {
        Self {
            method,
            message,
            limit: ANSWER_TIMEOUT,
        }
    }

    /// The same of who cannot wait so long.
    pub(crate) fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Asks the replica of this URL.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn ask<A: Message + Default>(
        &self,
        router: &Router,
        url: &str,
    ) -> Result<A, AskError> {
        if url.is_empty() {
            return Err(AskError::NoUrl);
        }
        let asked = (router.peers()).ask(url, self.method, self.message, &ANSWER_BOUNDS);
        match tokio::time::timeout(self.limit, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => Err(AskError::Refused(Box::new(status))),
            Err(_) => Err(AskError::Timeout(self.limit)),
        }
    }
}

/// What all replicas told.
pub(crate) struct Told<A> {
    /// Who asked.
    me: ReplicaId,
    /// Of those that answered, this one's first.
    pub(crate) answers: Vec<A>,
    /// How many did not, those among them that were one too many to be asked.
    pub(crate) unanswered: usize,
    /// How many there are.
    pub(crate) all: usize,
}

impl<A> Told<A> {
    /// What an answer covers that is made of it.
    pub(crate) fn coverage(&self) -> Coverage {
        silent(&self.me, self.unanswered, self.all)
    }
}

impl Sources {
    /// What all replicas answer to a question; `own` is what this one does.
    pub(crate) async fn ask_all<A: Message + Default>(
        &self,
        question: Question<'_, impl Message>,
        own: impl FnOnce() -> Result<A, Failure>,
    ) -> Told<A> {
        let mut others = self.table.members();
        others.retain(|it| it.replica.replica != self.me.replica);
        let replicas = others.len() + 1;
        others.truncate(MAX_REPLICAS);
        let questions = others.iter().map(|it| self.ask(&question, it));
        let told = all(questions.collect()).await;
        let told = told.into_iter().filter_map(Result::ok);
        let answers: Vec<A> = own().into_iter().chain(told).collect();
        Told {
            me: self.me.replica.clone(),
            unanswered: replicas - answers.len(),
            all: replicas,
            answers,
        }
    }

    /// What each of these replicas answers to a question, in their order.
    pub(crate) async fn ask_each<A: Message + Default>(
        &self,
        members: &[Member],
        question: Question<'_, impl Message>,
        own: impl Fn() -> Result<A, Failure>,
    ) -> Vec<Result<A, AskError>> {
        let (own, question) = (&own, &question);
        let questions = members.iter().map(|member| async move {
            if member.replica.replica == self.me.replica {
                return own().map_err(|failure| AskError::Refused(Box::new(failure.into())));
            }
            self.ask(question, member).await
        });
        all(questions.collect()).await
    }

    async fn ask<A: Message + Default>(
        &self,
        question: &Question<'_, impl Message>,
        member: &Member,
    ) -> Result<A, AskError> {
        question.ask(&self.router, &member.replica.url).await
    }
}

/// The replicas that may live, by their ids, this one included.
pub(crate) fn members(table: &dyn RoutingTable) -> Vec<Member> {
    let mut members = table.members();
    members.sort_by(|a, b| a.replica.replica.cmp(&b.replica.replica));
    members.truncate(MAX_REPLICAS);
    members
}

/// Asks several, and gives the answers in their order.
pub(crate) async fn all<T, F: Future<Output = T>>(questions: Vec<F>) -> Vec<T> {
    stream::iter(questions).buffered(AT_ONCE).collect().await
}

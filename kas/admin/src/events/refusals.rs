//! Agents that are refused, as events: what each replica has refused since it was asked last.

use std::{collections::HashMap, sync::Arc};

use cluster_state::{Member, ReplicaId};
use jiff::Timestamp;
use router::Router;

use crate::{
    fleet::Snapshot,
    peers::{self, AskError, Question},
    replica::{LIST_REFUSALS, Own},
    v1::{AgentReference, Event, ListRefusalsRequest, ListRefusalsResponse, Refusal},
};

/// The replicas that were asked, with the place of what each has told last.
#[derive(Debug, Default)]
pub(crate) struct Places(HashMap<ReplicaId, u64>);

/// Asks replicas what they have refused.
#[derive(Debug)]
pub(crate) struct RefusalFeed {
    own: Own,
    router: Arc<Router>,
}

impl RefusalFeed {
    pub(crate) fn new(own: Own, router: Arc<Router>) -> Self {
        Self { own, router }
    }

    /// What these replicas have refused since they were asked last; of those that were not, nothing. Replicas that do
    /// not answer are asked again.
    pub(super) async fn new_since(
        &self,
        places: &mut Places,
        members: &[Member],
        fleet: &Snapshot,
    ) -> Vec<Event> {
        places
            .0
            .retain(|id, _| members.iter().any(|it| it.replica.replica == *id));
        let questions = members.iter().map(|it| {
            let after = places.0.get(&it.replica.replica).copied();
            self.ask(it, ListRefusalsRequest { after })
        });
        let answers = peers::all(questions.collect()).await;
        let mut events = Vec::new();
        for (member, answer) in members.iter().zip(answers) {
            let Ok(answer) = answer else {
                continue;
            };
            let replica = &member.replica.replica;
            places.0.insert(replica.clone(), answer.last);
            let refusals = answer.refusals.into_iter();
            events.extend(refusals.map(|it| event(it, replica, fleet)));
        }
        events
    }

    async fn ask(
        &self,
        member: &Member,
        question: ListRefusalsRequest,
    ) -> Result<ListRefusalsResponse, AskError> {
        if member.replica.replica == self.own.id {
            return Ok(self.own.refusals(&question));
        }
        let question = Question::new(LIST_REFUSALS, &question);
        question.ask(&self.router, &member.replica.url).await
    }
}

fn event(refusal: Refusal, replica: &ReplicaId, fleet: &Snapshot) -> Event {
    let id = refusal.agent_id;
    let found = fleet.agents.binary_search_by_key(&id, |agent| agent.id);
    let name = found.map_or(String::new(), |at| fleet.agents[at].name.clone());
    Event {
        r#type: "agent.refused".to_owned(),
        at: Timestamp::now().to_string(),
        agent: Some(AgentReference { id, name }),
        replica: replica.to_string(),
        detail: refusal.reason,
        count: refusal.count,
        remote_addr: refusal.remote_addr,
        missed: 0,
    }
}

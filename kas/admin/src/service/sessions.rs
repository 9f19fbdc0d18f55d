//! What users have open at any replica, and its end.

use std::sync::Arc;

use super::{Admin, change::Subject, find};
use crate::{
    Failure,
    caller::Caller,
    peers::Question,
    replica::{
        END_OWN_SESSION, LIST_OWN_SESSIONS, limit,
        sessions::{kind, session_id},
    },
    role::Action,
    v1::{
        EndSessionRequest, EndSessionResponse, ListOwnSessionsRequest, ListSessionsRequest,
        ListSessionsResponse, Session,
    },
};

/// Bytes of a caller's name in a question, at most.
const MAX_USER_BYTES: usize = 1024;

impl Admin {
    /// A page of what users have open, the oldest first.
    ///
    /// # Errors
    /// When the filter is not understood.
    pub async fn sessions(
        &self,
        asked: &ListSessionsRequest,
    ) -> Result<ListSessionsResponse, Failure> {
        let question = self.question(asked).await?;
        let own = || self.own.sessions(&question);
        let question = Question::new(LIST_OWN_SESSIONS, &question);
        let told = self.sources.ask_all(question, own).await;
        let coverage = told.coverage();
        let (mut page, mut more) = (ListSessionsResponse::default(), false);
        for its in told.answers {
            page.sessions.extend(its.sessions);
            page.total = page.total.saturating_add(its.total);
            more |= !its.next_page_token.is_empty();
        }
        page.sessions.sort_by(|a, b| a.id.cmp(&b.id));
        let size = limit(asked.page_size);
        more |= page.sessions.len() > size;
        page.sessions.truncate(size);
        let last = page.sessions.last().filter(|_| more);
        page.next_page_token = last.map_or(String::new(), |it| it.id.clone());
        let names = self.names();
        for session in &mut page.sessions {
            if let Some(agent) = &mut session.agent
                && let Some(name) = names.get(&agent.id)
            {
                agent.name.clone_from(name);
            }
        }
        page.coverage = Some(coverage);
        Ok(page)
    }

    /// Ends a session, wherever it is, for `caller`.
    ///
    /// # Errors
    /// When the caller may not, the id is none, or no replica that answers has it.
    pub(crate) async fn end_session(
        self: &Arc<Self>,
        asked: EndSessionRequest,
        caller: &Caller,
    ) -> Result<EndSessionResponse, Failure> {
        let subject = Subject::named(format!("session {}", asked.id));
        let allowed = self.allow(caller, Action::EndSession, &subject)?;
        session_id(&asked.id, "id")?;
        let admin = self.clone();
        let ending = async move {
            let session = admin.end_session_anywhere(&asked).await?;
            let subject = Subject {
                agent: session.agent.clone().unwrap_or_default(),
                words: format!(
                    "ended session {} ({}) of {} at {}: {}",
                    session.id, session.kind, session.caller, session.replica, session.path
                ),
                session: Some(session.clone()),
            };
            let session = Some(session);
            Ok((EndSessionResponse { session }, subject))
        };
        self.change(allowed, subject, ending).await
    }

    async fn end_session_anywhere(&self, asked: &EndSessionRequest) -> Result<Session, Failure> {
        let own = || self.own.end_session(asked);
        let question = Question::new(END_OWN_SESSION, asked);
        let told = self.sources.ask_all(question, own).await;
        let mut ended = told.answers.into_iter().filter_map(|it| it.session);
        let Some(mut session) = ended.next() else {
            return Err(match told.unanswered {
                0 => Failure::NotFound(
                    "no session with this id is open: see `kas session list`".to_owned(),
                ),
                unanswered => Failure::Unavailable(format!(
                    "no replica that answers has a session with this id, and {unanswered} of {} do not answer",
                    told.all
                )),
            });
        };
        if let Some(agent) = &mut session.agent
            && let Some(name) = self.names().remove(&agent.id)
        {
            agent.name = name;
        }
        Ok(session)
    }

    /// The question for each replica.
    async fn question(
        &self,
        asked: &ListSessionsRequest,
    ) -> Result<ListOwnSessionsRequest, Failure> {
        if asked.user.len() > MAX_USER_BYTES {
            let words = format!("user has more than {MAX_USER_BYTES} bytes");
            return Err(Failure::Invalid(words));
        }
        kind(&asked.kind)?;
        if !asked.page_token.is_empty() {
            session_id(&asked.page_token, "page_token")?;
        }
        let agent_id = match &*asked.agent {
            "" => 0,
            agent => find(&*self.fleet.snapshot().await, agent)?.id,
        };
        Ok(ListOwnSessionsRequest {
            agent_id,
            user: asked.user.clone(),
            kind: asked.kind.clone(),
            limit: asked.page_size,
            after: asked.page_token.clone(),
        })
    }
}

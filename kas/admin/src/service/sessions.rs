//! What users have open at any replica, and its end.

use std::sync::Arc;

use cluster_state::Member;

use super::{Admin, change::Subject, find, silent};
use crate::{
    Failure,
    caller::Caller,
    peers,
    peers::AskError,
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
        let members = peers::members(&*self.sources.table);
        let questions = members.iter().map(|it| self.sessions_of(it, &question));
        let answers = peers::all(questions.collect()).await;
        let (mut page, mut more, mut unanswered) = (ListSessionsResponse::default(), false, 0);
        for answer in answers {
            match answer {
                Ok(its) => {
                    page.sessions.extend(its.sessions);
                    page.total = page.total.saturating_add(its.total);
                    more |= !its.next_page_token.is_empty();
                }
                Err(_) => unanswered += 1,
            }
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
        page.coverage = Some(silent(&self.sources.me.replica, unanswered, members.len()));
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
        let members = peers::members(&*self.sources.table);
        let questions = members.iter().map(|it| self.end_session_of(it, asked));
        let answers = peers::all(questions.collect()).await;
        let unanswered = answers.iter().filter(|it| it.is_err()).count();
        let ended = answers.into_iter().filter_map(Result::ok);
        let Some(mut session) = ended.filter_map(|it| it.session).next() else {
            return Err(match unanswered {
                0 => Failure::NotFound(
                    "no session with this id is open: see `kas session list`".to_owned(),
                ),
                _ => Failure::Unavailable(format!(
                    "no replica that answers has a session with this id, and {unanswered} of {} do not answer",
                    members.len()
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

    async fn sessions_of(
        &self,
        member: &Member,
        asked: &ListOwnSessionsRequest,
    ) -> Result<ListSessionsResponse, AskError> {
        if self.is_me(member) {
            return self.own.sessions(asked).map_err(refused);
        }
        let (router, url) = (&self.sources.router, &member.replica.url);
        peers::ask(router, url, LIST_OWN_SESSIONS, asked).await
    }

    async fn end_session_of(
        &self,
        member: &Member,
        asked: &EndSessionRequest,
    ) -> Result<EndSessionResponse, AskError> {
        if self.is_me(member) {
            return self.own.end_session(asked).map_err(refused);
        }
        let (router, url) = (&self.sources.router, &member.replica.url);
        peers::ask(router, url, END_OWN_SESSION, asked).await
    }
}

fn refused(failure: Failure) -> AskError {
    AskError::Refused(Box::new(failure.into()))
}

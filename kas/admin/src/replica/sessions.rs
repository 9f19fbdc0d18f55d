//! What users have open at this replica.

use cluster_state::AgentId;
use jiff::Timestamp;
use user_gateway::{SessionFilter, SessionId, SessionInfo, SessionKind};

use super::{Own, count, limit};
use crate::{
    Failure,
    v1::{
        AgentReference, EndSessionRequest, EndSessionResponse, ListOwnSessionsRequest,
        ListSessionsResponse, Session,
    },
};

impl Own {
    /// What is open here and matches.
    ///
    /// # Errors
    /// When the question is not understood.
    pub(crate) fn sessions(
        &self,
        asked: &ListOwnSessionsRequest,
    ) -> Result<ListSessionsResponse, Failure> {
        let after = match &*asked.after {
            "" => None,
            after => Some(session_id(after, "page_token")?),
        };
        let filter = SessionFilter {
            agent: Some(AgentId(asked.agent_id)).filter(|it| it.0 != 0),
            caller: Some(asked.user.clone()).filter(|it| !it.is_empty()),
            kind: kind(&asked.kind)?,
            after,
        };
        let sessions = self.requests.sessions();
        let (found, total, more) = sessions.find(&filter, limit(asked.limit));
        let last = found.last().filter(|_| more);
        Ok(ListSessionsResponse {
            next_page_token: last.map_or(String::new(), |it| it.id.to_string()),
            sessions: found.into_iter().map(|it| self.told(it)).collect(),
            total: count(total),
            coverage: None,
        })
    }

    /// Ends one, if it is here.
    ///
    /// # Errors
    /// When the id is none.
    pub(crate) fn end_session(
        &self,
        asked: &EndSessionRequest,
    ) -> Result<EndSessionResponse, Failure> {
        let ended = self.requests.sessions().end(session_id(&asked.id, "id")?);
        Ok(EndSessionResponse {
            session: ended.map(|it| self.told(it)),
        })
    }

    fn told(&self, session: SessionInfo) -> Session {
        let started = Timestamp::try_from(session.started);
        Session {
            id: session.id.to_string(),
            kind: session.kind.as_str().to_owned(),
            caller: session.caller.to_string(),
            agent: Some(AgentReference {
                id: session.agent.0,
                name: String::new(),
            }),
            path: session.path,
            started_at: started.map_or(String::new(), |it| it.to_string()),
            remote_addr: session.remote_addr,
            request_id: session.request_id,
            replica: self.id.to_string(),
        }
    }
}

/// The id of a session, which came as `what`.
pub(crate) fn session_id(text: &str, what: &str) -> Result<SessionId, Failure> {
    let id = SessionId::parse(text);
    id.ok_or_else(|| Failure::Invalid(format!("{what} is no session's id: see `kas session list`")))
}

/// The kind of this name; nothing for none.
pub(crate) fn kind(name: &str) -> Result<Option<SessionKind>, Failure> {
    if name.is_empty() {
        return Ok(None);
    }
    let kind = SessionKind::parse(name).map(Some);
    kind.ok_or_else(|| Failure::Invalid(format!("kind must be one of {}", SessionKind::names())))
}

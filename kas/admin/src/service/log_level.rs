//! How much replicas log, and its change.

use std::sync::Arc;

use cluster_state::Member;

use super::{Admin, change::Subject};
use crate::{
    Failure,
    caller::Caller,
    peers::{self, AskError},
    replica::{SET_OWN_LOG_LEVEL, level},
    role::Action,
    v1::{ReplicaLogLevel, SetLogLevelRequest, SetLogLevelResponse},
};

impl Admin {
    /// Changes how much one replica logs, or all.
    ///
    /// # Errors
    /// When the caller may not, or there is no such level or no such replica.
    pub(crate) async fn set_log_level(
        self: &Arc<Self>,
        asked: SetLogLevelRequest,
        caller: &Caller,
    ) -> Result<SetLogLevelResponse, Failure> {
        let replica = match &*asked.replica {
            "" => "all replicas",
            replica => replica,
        };
        let subject = Subject::named(format!("log level {} of {replica}", asked.level));
        let allowed = self.allow(caller, Action::SetLogLevel, &subject)?;
        level(&asked.level)?;
        let (admin, about) = (self.clone(), subject.clone());
        let changing = async move { Ok((admin.set_log_levels(&asked).await?, about)) };
        self.change(allowed, subject, changing).await
    }

    async fn set_log_levels(
        &self,
        asked: &SetLogLevelRequest,
    ) -> Result<SetLogLevelResponse, Failure> {
        let mut members = peers::members(&*self.sources.table);
        if !asked.replica.is_empty() {
            members.retain(|it| it.replica.replica.to_string() == asked.replica);
        }
        if members.is_empty() {
            return Err(Failure::NotFound(
                "no replica with this id is known: see `kas replica list`".to_owned(),
            ));
        }
        let questions = members
            .iter()
            .map(|member| self.set_log_level_of(member, asked));
        let replicas = peers::all(questions.collect()).await;
        Ok(SetLogLevelResponse { replicas })
    }

    async fn set_log_level_of(
        &self,
        member: &Member,
        asked: &SetLogLevelRequest,
    ) -> ReplicaLogLevel {
        let answer = if self.is_me(member) {
            let own = self.own.set_log_level(asked);
            own.map_err(|failure| failure.to_string())
        } else {
            let (router, url) = (&self.sources.router, &member.replica.url);
            let answer: Result<SetLogLevelResponse, _> =
                peers::ask(router, url, SET_OWN_LOG_LEVEL, asked).await;
            let first = answer.and_then(|it| it.replicas.into_iter().next().ok_or(AskError::Empty));
            first.map_err(|error| error.to_string())
        };
        answer.unwrap_or_else(|problem| ReplicaLogLevel {
            replica: member.replica.replica.to_string(),
            level: String::new(),
            problem,
        })
    }
}

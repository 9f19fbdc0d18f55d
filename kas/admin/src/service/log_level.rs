//! How much replicas log, and its change.

use std::sync::Arc;

use cluster_state::Member;

use super::{Admin, change::Subject};
use crate::{
    Failure,
    caller::Caller,
    peers::{self, AskError, Question},
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
        let own = || {
            let replicas = vec![self.own.set_log_level(asked)?];
            Ok(SetLogLevelResponse { replicas })
        };
        let sources = &self.sources;
        let question = Question::new(SET_OWN_LOG_LEVEL, asked);
        let answers = sources.ask_each(&members, question, own);
        let told = members.iter().zip(answers.await);
        let replicas = told.map(|(member, told)| of_replica(member, told));
        Ok(SetLogLevelResponse {
            replicas: replicas.collect(),
        })
    }
}

/// What a replica answered of itself.
fn of_replica(member: &Member, told: Result<SetLogLevelResponse, AskError>) -> ReplicaLogLevel {
    let first = told.and_then(|it| it.replicas.into_iter().next().ok_or(AskError::Empty));
    first.unwrap_or_else(|error| ReplicaLogLevel {
        replica: member.replica.replica.to_string(),
        level: String::new(),
        problem: error.to_string(),
    })
}

//! What operators change: by whose role, with records before and after, and to its end even where nobody waits for it.
//!
//! A change is a task of its own, so that a caller who leaves, or an answer that takes too long, costs neither the
//! change its record nor a half-made change its other half.

use std::{sync::Arc, time::Duration};

use audit::{AgentName, Audit, Kind, Record, Text};
use http::StatusCode;
use runtime::telemetry::Untrusted;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::Admin;
use crate::{
    Failure,
    caller::Caller,
    role::Action,
    v1::{AgentReference, Session},
};

/// Changes that are being made at the same time. Those of the file wait for its lock in turn anyway.
const MAX_CHANGES: usize = 8;
/// How long a change may take behind its begin record. A file system that hangs holds no place for longer.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);

/// The changes that are being made.
#[derive(Debug)]
pub(super) struct Changes {
    places: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MAX_CHANGES)),
            tasks: TaskTracker::new(),
        }
    }
}

/// What a change is about, for its records.
#[derive(Debug, Clone, Default)]
pub(super) struct Subject {
    /// The agent.
    pub(super) agent: AgentReference,
    /// The session that was ended.
    pub(super) session: Option<Session>,
    /// More in words.
    pub(super) words: String,
}

impl Subject {
    /// About an agent.
    pub(super) fn agent(agent: &AgentReference) -> Self {
        Self {
            agent: agent.clone(),
            ..Self::default()
        }
    }

    /// About what is called so.
    pub(super) fn named(words: impl Into<String>) -> Self {
        Self {
            words: words.into(),
            ..Self::default()
        }
    }
}

impl Admin {
    /// Whether the role of `caller` allows it. A refusal is recorded.
    ///
    /// # Errors
    /// The refusal, which says what role is needed and where it is given.
    pub(super) fn allow(
        &self,
        caller: &Caller,
        action: Action,
        subject: &Subject,
    ) -> Result<Allowed, Failure> {
        let allowed = Allowed {
            audit: self.sources.audit.clone(),
            caller: caller.clone(),
            action,
        };
        if let Err(refusal) = caller.require(action.role()) {
            allowed.record_end(subject, Some(&refusal));
            return Err(refusal);
        }
        Ok(allowed)
    }

    /// Does what is allowed; see [`Changes::make`].
    pub(super) async fn change<T: Send + 'static>(
        &self,
        allowed: Allowed,
        subject: Subject,
        doing: impl Future<Output = Result<(T, Subject), Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        self.changes.make(allowed, subject, doing).await
    }

    /// Waits until all changes that have begun were made. No others are to come.
    pub(crate) async fn finish_changes(&self) {
        self.changes.tasks.close();
        self.changes.tasks.wait().await;
    }
}

impl Changes {
    /// Makes a change: `doing` runs to its end whether or not anybody still waits, and tells what it was about. Where records
    /// are required it does not begin without one, nor where who asked was told that nothing was done.
    ///
    /// # Errors
    /// When the begin record is not written, or `doing` fails.
    async fn make<T: Send + 'static>(
        &self,
        allowed: Allowed,
        subject: Subject,
        doing: impl Future<Output = Result<(T, Subject), Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        if self.tasks.is_closed() {
            return Err(Failure::Unavailable(
                "this replica stops; nothing was changed".to_owned(),
            ));
        }
        // Never closed.
        let place = self.places.clone().acquire_owned().await.ok();
        let changing = self.tasks.spawn(async move {
            let _place = place;
            if let Err(failure) = allowed.record_begin(&subject).await {
                // One of several sinks may have it.
                allowed.record_end(&subject, Some(&failure));
                return Err(failure);
            }
            let done = allowed.run(doing).await;
            match &done {
                Ok((_, about)) => allowed.record_end(about, None),
                Err(failure) => allowed.record_end(&subject, Some(failure)),
            }
            done.map(|(told, _)| told)
        });
        changing.await.unwrap_or_else(|_| {
            Err(Failure::Unfinished(
                "this was interrupted: look whether it was done".to_owned(),
            ))
        })
    }
}

/// A change that somebody may make, and its records.
#[derive(Debug)]
pub(super) struct Allowed {
    audit: Audit,
    caller: Caller,
    action: Action,
}

impl Allowed {
    /// Does it, unless it was given up meanwhile.
    async fn run<T>(&self, doing: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        if !self.caller.request.begin() {
            return Err(Failure::Unavailable(
                "it was given up before it began; nothing was changed".to_owned(),
            ));
        }
        let done = tokio::time::timeout(CHANGE_TIMEOUT, doing).await;
        done.unwrap_or_else(|_| {
            Err(Failure::Unfinished(format!(
                "not done within {CHANGE_TIMEOUT:?}, and may be done yet"
            )))
        })
    }

    /// Records what is about to be changed.
    async fn record_begin(&self, subject: &Subject) -> Result<(), Failure> {
        let written = {
            let user = self.user();
            let record = self.record(&user, subject);
            self.audit.announce(&record)
        };
        match written {
            None => Ok(()),
            Some(written) => written
                .await
                .map_err(|error| Failure::Unavailable(error.to_string())),
        }
    }

    /// Records what became of it, and logs it. Nothing of a token is in it.
    fn record_end(&self, subject: &Subject, failure: Option<&Failure>) {
        let user = self.user();
        let mut record = self.record(&user, subject);
        let status = failure.map_or(StatusCode::OK, Failure::status);
        record.status = Some(status.as_u16());
        let reason = failure.map(|it| match &*subject.words {
            "" => it.to_string(),
            words => format!("{words}: {it}"),
        });
        if let Some(reason) = &reason {
            record.reason = Text::given(reason);
        }
        self.audit.note(&record);
        let (who, role, verb) = (&*self.caller.name, self.caller.role, self.action.verb());
        let agent = &subject.agent;
        // It may have words of who asked.
        let reason = reason.as_deref().map(Untrusted);
        match (reason, &subject.session) {
            (Some(reason), _) => tracing::info!(
                target: "audit",
                who,
                %role,
                verb,
                %reason,
                "an operator's change was refused or failed"
            ),
            (None, Some(session)) => tracing::info!(
                target: "audit",
                who,
                %role,
                verb = "END_SESSION",
                session = session.id,
                kind = session.kind,
                caller = session.caller,
                agent.id = agent.id,
                agent.name = agent.name,
                path = session.path,
                replica = session.replica,
                request_id = session.request_id,
                "an operator ended a session"
            ),
            (None, None) if agent.id != 0 => tracing::info!(
                target: "audit",
                who,
                %role,
                verb,
                agent.id = agent.id,
                agent.name = agent.name,
                "an operator changed the tokens of an agent"
            ),
            (None, None) => tracing::info!(
                target: "audit",
                who,
                %role,
                verb,
                what = subject.words,
                "an operator changed a running server"
            ),
        }
    }

    fn user(&self) -> String {
        format!("admin:{}", self.caller.name)
    }

    fn record<'a>(&'a self, user: &'a str, subject: &'a Subject) -> Record<'a> {
        let request = &*self.caller.request;
        let mut record = Record::new(Kind::Admin);
        record.user = Some(user.into());
        record.role = Some(self.caller.role.as_str());
        record.verb = Some(self.action.verb().into());
        record.method = Some(request.method.as_str().into());
        record.path = Text::given(&request.path);
        record.client = Some(request.remote_addr.to_string());
        if subject.agent.id != 0 {
            record.agent = Some(AgentName {
                id: subject.agent.id,
                name: &subject.agent.name,
            });
        }
        if let Some(session) = &subject.session {
            let id = session.request_id.as_str();
            record.request_id = Some(id).filter(|it| !it.is_empty());
        }
        record.reason = Text::given(&subject.words);
        record
    }
}

#[cfg(test)]
mod tests {
    use runtime::listen::RemoteAddr;
    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        Role,
        caller::{Proof, RequestFacts},
    };

    fn allowed() -> Allowed {
        let request = http::Request::new(());
        Allowed {
            audit: Audit::default(),
            caller: Caller {
                name: "ana".into(),
                role: Role::Administrator,
                proof: Proof::Token,
                request: Arc::new(RequestFacts::new(&request, RemoteAddr::Unix)),
            },
            action: Action::AddAgent,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_begun_goes_on_when_nobody_waits_for_it() {
        let (changes, allowed) = (Changes::default(), allowed());
        let facts = allowed.caller.request.clone();
        let ((begun, has_begun), (go, may_go)) = (oneshot::channel(), oneshot::channel());
        let (told, made) = oneshot::channel();
        let doing = async move {
            let _ = begun.send(());
            let _: Result<(), _> = may_go.await;
            let _ = told.send(());
            Ok(((), Subject::default()))
        };

        {
            let making = changes.make(allowed, Subject::default(), doing);
            tokio::select! {
                _ = making => panic!("it cannot be done yet"),
                begun = has_begun => begun.unwrap(),
            }
        }
        assert!(
            !facts.give_up(),
            "the answer must not say that nothing was done"
        );
        go.send(()).unwrap();

        made.await.unwrap();
        changes.tasks.close();
        changes.tasks.wait().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_given_up_before_it_began_is_not_done() {
        let (changes, allowed) = (Changes::default(), allowed());
        assert!(allowed.caller.request.give_up());
        let (told, mut done) = oneshot::channel();
        let doing = async move {
            let _ = told.send(());
            Ok(((), Subject::default()))
        };

        let made = changes.make(allowed, Subject::default(), doing).await;

        assert!(matches!(made, Err(Failure::Unavailable(_))), "{made:?}");
        assert!(done.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_hangs_gives_its_place_to_others() {
        let changes = Changes::default();
        for _ in 0..=MAX_CHANGES {
            let doing = std::future::pending();
            let made: Result<(), _> = changes.make(allowed(), Subject::default(), doing).await;
            assert!(matches!(made, Err(Failure::Unfinished(_))), "{made:?}");
        }
    }
}

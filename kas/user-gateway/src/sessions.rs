//! Sessions: what a caller has opened that lasts, such as an exec or a watch. They are listed for whoever operates this
//! server, can be ended one by one, and end by themselves when their caller may not have them any more.
//!
//! Other requests cost nothing: a request becomes a session once its answer has begun and goes on.

mod kind;
mod recheck;

use std::{
    collections::BTreeMap,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Context, Poll},
    time::{SystemTime, UNIX_EPOCH},
};

use control_plane::{Access, Identity};
use futures_util::future::BoxFuture;
use http::StatusCode;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use proto::agent::kubernetes_api::rpc::ImpersonationConfig;
use router::AgentId;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::failure::Failure;
pub use kind::SessionKind;

/// Bytes of a path that are told.
const MAX_PATH_BYTES: usize = 256;

/// The name of a session in the whole set. Younger ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(u128);

impl SessionId {
    /// Hexadecimal digits of one: twelve of its time in milliseconds, eight at random.
    const DIGITS: usize = 20;

    /// Another one.
    pub(crate) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let milliseconds = now.map_or(0, |it| it.as_millis()) & 0xFFFF_FFFF_FFFF;
        Self((milliseconds << 32) | u128::from(rand::random::<u32>()))
    }

    /// Reads one as it is displayed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.bytes().all(|it| it.is_ascii_hexdigit());
        (digits && text.len() == Self::DIGITS)
            .then(|| u128::from_str_radix(text, 16).ok().map(Self))
            .flatten()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020x}", self.0)
    }
}

/// A session in progress.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    /// Its name.
    pub id: SessionId,
    /// What it is.
    pub kind: SessionKind,
    /// Whose it is, as in `user:alice`.
    pub caller: Arc<str>,
    /// The agent.
    pub agent: AgentId,
    /// Its path, without the query, cut.
    pub path: String,
    /// Where it came from.
    pub remote_addr: String,
    /// The id of the request that opened it; empty where it has none.
    pub request_id: String,
    /// When it began.
    pub started: SystemTime,
}

/// Which sessions are wanted.
#[derive(Debug, Clone, Default)]
pub struct SessionFilter {
    /// Those for this agent.
    pub agent: Option<AgentId>,
    /// Those of this caller: `user:alice`, or `alice` whatever kind of caller that is.
    pub caller: Option<String>,
    /// Those of this kind.
    pub kind: Option<SessionKind>,
    /// Those behind this one, in the order of their ids.
    pub after: Option<SessionId>,
}

impl SessionFilter {
    fn matches(&self, session: &SessionInfo) -> bool {
        let is_caller = |wanted: &String| {
            let name = session.caller.split_once(':').map(|(_, name)| name);
            *session.caller == **wanted || name == Some(wanted)
        };
        self.agent.is_none_or(|agent| session.agent == agent)
            && self.kind.is_none_or(|kind| session.kind == kind)
            && self.caller.as_ref().is_none_or(is_caller)
    }
}

/// Why a session ends before its caller or its cluster ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum EndReason {
    /// An operator wants it.
    Operator,
    /// Its caller may not have it any more.
    Revoked,
}

const END_REASONS: [EndReason; 2] = [EndReason::Operator, EndReason::Revoked];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    reason: EndReason,
}

/// A session was ended, with what its client is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct SessionEnded(pub(crate) String);

/// Says whether the caller of a session may still have it.
pub(crate) trait Authority: fmt::Debug + Send + Sync {
    /// When the question was put whose answer was last.
    fn decided(&self) -> Instant;

    /// Asks again.
    fn ask(&self) -> BoxFuture<'_, Result<Access, Failure>>;
}

/// On what ground a session was opened.
#[derive(Debug)]
pub(crate) struct Ground {
    /// Whom to ask again.
    pub(crate) authority: Box<dyn Authority>,
    /// Whose it is.
    pub(crate) identity: Identity,
    /// As whom it acts in the cluster.
    pub(crate) acts_as: Option<ImpersonationConfig>,
}

/// What is known of a session when it is opened.
#[derive(Debug)]
pub(crate) struct NewSession {
    /// Its name, where it was given one before.
    pub(crate) id: Option<SessionId>,
    pub(crate) kind: SessionKind,
    pub(crate) caller: Arc<str>,
    pub(crate) agent: AgentId,
    pub(crate) path: String,
    pub(crate) remote_addr: String,
    pub(crate) request_id: String,
    /// None where the credentials were good for one use: nobody can be asked again.
    pub(crate) ground: Option<Ground>,
}

/// The sessions of a replica. Clones share them. Each is a request in progress, by whose limits their number is
/// bounded.
#[derive(Debug, Clone)]
pub struct Sessions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    list: Mutex<List>,
    /// Some are to be checked that were decided on before the last check began.
    late: Notify,
    ended: Family<Ended, Counter>,
}

#[derive(Debug, Default)]
struct List {
    open: BTreeMap<SessionId, Arc<Open>>,
    late: Vec<Arc<Open>>,
    /// When the last check of all began.
    checked: Option<Instant>,
}

/// A session that is open, as the list has it.
#[derive(Debug)]
struct Open {
    info: SessionInfo,
    ground: Option<Ground>,
    end: CancellationToken,
    /// What its client is told at the end.
    told: OnceLock<Failure>,
}

impl Default for Sessions {
    fn default() -> Self {
        let ended = Family::<Ended, Counter>::default();
        // A series that begins with its first event hides it from rates.
        for reason in END_REASONS {
            let _ = ended.get_or_create_owned(&Ended { reason });
        }
        Self(Arc::new(Inner {
            list: Mutex::default(),
            late: Notify::new(),
            ended,
        }))
    }
}

impl Sessions {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "k8s_api_proxy_sessions_ended",
            "Sessions of users that kas ended, because an operator wanted it or because the caller may not have it any more",
            self.0.ended.clone(),
        );
    }

    /// Opens one, which lasts as long as what is given.
    pub(crate) fn open(&self, new: NewSession) -> Session {
        let NewSession {
            id,
            kind,
            caller,
            agent,
            mut path,
            remote_addr,
            request_id,
            ground,
        } = new;
        path.truncate(path.floor_char_boundary(MAX_PATH_BYTES));
        let decided = ground.as_ref().map(|it| it.authority.decided());
        let mut list = self.list();
        let mut id = id.unwrap_or_else(SessionId::new);
        while list.open.contains_key(&id) {
            id = SessionId::new();
        }
        let open = Arc::new(Open {
            info: SessionInfo {
                id,
                kind,
                caller,
                agent,
                path,
                remote_addr,
                request_id,
                started: SystemTime::now(),
            },
            ground,
            end: CancellationToken::new(),
            told: OnceLock::new(),
        });
        list.open.insert(id, open.clone());
        // The check of all that began meanwhile did not see it.
        if list.checked >= decided && decided.is_some() {
            list.late.push(open.clone());
            self.0.late.notify_one();
        }
        drop(list);
        Session {
            end: Box::pin(open.end.clone().cancelled_owned()),
            open,
            sessions: self.clone(),
        }
    }

    /// Those that match, the oldest first, `limit` at most; how many match in all; and whether there are more.
    #[must_use]
    pub fn find(&self, filter: &SessionFilter, limit: usize) -> (Vec<SessionInfo>, usize, bool) {
        let all: Vec<_> = self.list().open.values().cloned().collect();
        let matching = all
            .iter()
            .filter(|it| it.told.get().is_none() && filter.matches(&it.info));
        let (mut found, mut total, mut more) = (Vec::new(), 0, false);
        for open in matching {
            total += 1;
            if filter.after.is_some_and(|after| open.info.id <= after) {
                continue;
            }
            if found.len() < limit {
                found.push(open.info.clone());
            } else {
                more = true;
            }
        }
        (found, total, more)
    }

    /// Ends one because an operator wants it. Gives what it was, unless it is not here.
    #[must_use]
    pub fn end(&self, id: SessionId) -> Option<SessionInfo> {
        let open = self.list().open.get(&id).cloned()?;
        let words = "Forbidden: an operator of this server ended the session";
        let ended = self.end_with(
            &open,
            EndReason::Operator,
            Failure::new(StatusCode::FORBIDDEN, words),
        );
        ended.then(|| open.info.clone())
    }

    /// Ends one; says whether it was not ended before.
    fn end_with(&self, open: &Open, reason: EndReason, failure: Failure) -> bool {
        let first = open.told.set(failure).is_ok();
        if first {
            self.0.ended.get_or_create(&Ended { reason }).inc();
            open.end.cancel();
        }
        first
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.0.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open session. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Session {
    open: Arc<Open>,
    end: Pin<Box<WaitForCancellationFutureOwned>>,
    sessions: Sessions,
}

impl Session {
    /// Ready with what its client is told when it is ended.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        if self.open.told.get().is_none() && self.end.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(self.open.farewell())
    }

    /// Waits until it is ended. Cancel-safe.
    pub(crate) fn ended(&self) -> impl Future<Output = Failure> + Send + use<> {
        let open = self.open.clone();
        async move {
            open.end.cancelled().await;
            open.farewell()
        }
    }
}

impl Open {
    fn farewell(&self) -> Failure {
        let told = self.told.get().cloned();
        told.unwrap_or_else(|| Failure::new(StatusCode::FORBIDDEN, "the session was ended"))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let removed = self.sessions.list().open.remove(&self.open.info.id);
        drop(removed);
    }
}

#[cfg(test)]
mod tests;

//! Which connections there are, and what carries them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use proto::agent::{grpctool::ResumeOffer, kubernetes_api::rpc::ImpersonationConfig};
use tokio::sync::oneshot;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::AbortOnDropHandle,
};
use tonic::Status;

use super::connection::Connection;
use crate::metrics::Metrics;

/// Connections, at most; there are fewer tunnels.
const MAX_CONNECTIONS: usize = 1000;
/// How long a connection waits for another call, at most, whatever kas says.
const MAX_DETACHED_TIMEOUT: Duration = Duration::from_secs(300);
/// How long the call that carries a connection may take to give it up.
const GIVE_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// Names a connection. It is a secret, and has no `Debug`.
type Id = [u8; 16];

/// The connections of this process. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Table(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    entries: Mutex<Entries>,
    force: CancellationToken,
    metrics: Metrics,
}

#[derive(Default)]
struct Entries(HashMap<Id, Entry>);

impl std::fmt::Debug for Entries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} connections", self.0.len())
    }
}

struct Entry {
    identity: Option<ImpersonationConfig>,
    /// The newest call that wants it. Older ones that come late do not get it.
    attachment: u64,
    keep: Duration,
    place: Place,
}

/// Where a connection is.
enum Place {
    /// With a call, and with the next one as soon as that gives it up.
    Carried {
        wanted: CancellationToken,
        next: Option<Next>,
    },
    /// Here.
    Detached {
        connection: Box<Connection>,
        _expiry: AbortOnDropHandle<()>,
    },
}

/// A call that waits for the connection.
struct Next {
    give: oneshot::Sender<Carried>,
    wanted: CancellationToken,
}

/// What becomes of asking for a connection.
enum Asked {
    Here(Box<Connection>),
    /// The call that has it gives it up.
    Later(oneshot::Receiver<Carried>),
}

/// A connection in the hands of a call. Dropping it has the connection wait for another one.
pub(super) struct Carried {
    id: Id,
    connection: Option<Box<Connection>>,
    wanted: CancellationToken,
    table: Table,
}

impl Table {
    pub(super) fn new(force: CancellationToken, metrics: Metrics) -> Self {
        Self(Arc::new(Shared {
            entries: Mutex::default(),
            force,
            metrics,
        }))
    }

    /// Waits until the agent must stop at once.
    pub(super) fn stopping(&self) -> WaitForCancellationFutureOwned {
        self.0.force.clone().cancelled_owned()
    }

    pub(super) fn has_room(&self) -> bool {
        self.entries().0.len() < MAX_CONNECTIONS
    }

    /// Adds a connection.
    ///
    /// # Errors
    /// When its name is none, or another's.
    pub(super) fn open(
        &self,
        offer: &ResumeOffer,
        identity: Option<ImpersonationConfig>,
        connection: Box<Connection>,
    ) -> Result<Carried, Status> {
        let id = id(offer)?;
        let wanted = CancellationToken::new();
        let keep = Duration::from_secs(offer.keep_seconds.into());
        let entry = Entry {
            identity,
            attachment: offer.attachment,
            keep: keep.min(MAX_DETACHED_TIMEOUT),
            place: Place::Carried {
                wanted: wanted.clone(),
                next: None,
            },
        };
        let mut entries = self.entries();
        if entries.0.contains_key(&id) {
            return Err(Status::already_exists("a connection of this name is open"));
        }
        entries.0.insert(id, entry);
        drop(entries);
        Ok(self.carried(id, connection, wanted))
    }

    /// Gives the connection to a call that is newer than all that had it.
    ///
    /// # Errors
    /// NOT_FOUND without such a connection of this identity; others when it cannot be had now.
    pub(super) async fn attach(
        &self,
        offer: &ResumeOffer,
        identity: Option<&ImpersonationConfig>,
    ) -> Result<Carried, Status> {
        let (id, wanted) = (id(offer)?, CancellationToken::new());
        let carried = match self.ask(id, offer.attachment, identity, &wanted)? {
            Asked::Here(connection) => self.carried(id, connection, wanted),
            Asked::Later(given) => {
                let given = tokio::time::timeout(GIVE_UP_TIMEOUT, given).await;
                let given =
                    given.map_err(|_| Status::unavailable("the connection is still in use"))?;
                given.map_err(|_| unknown())?
            }
        };
        self.0.metrics.upgrades_resumed.inc();
        Ok(carried)
    }

    /// The connection, or where it will come.
    fn ask(
        &self,
        id: Id,
        attachment: u64,
        identity: Option<&ImpersonationConfig>,
        wanted: &CancellationToken,
    ) -> Result<Asked, Status> {
        let mut entries = self.entries();
        let entry = entries.0.get_mut(&id).ok_or_else(unknown)?;
        if entry.identity.as_ref() != identity {
            return Err(unknown());
        }
        if attachment <= entry.attachment {
            return Err(Status::aborted("a later call carries the connection"));
        }
        entry.attachment = attachment;
        if let Place::Carried { wanted: now, next } = &mut entry.place {
            let (give, waiting) = oneshot::channel();
            let wanted = wanted.clone();
            *next = Some(Next { give, wanted });
            now.cancel();
            return Ok(Asked::Later(waiting));
        }
        let carried = Place::Carried {
            wanted: wanted.clone(),
            next: None,
        };
        let Place::Detached { connection, .. } = std::mem::replace(&mut entry.place, carried)
        else {
            unreachable!("it is one or the other");
        };
        self.0.metrics.upgrades_detached.dec();
        Ok(Asked::Here(connection))
    }

    /// A call has given a connection up.
    fn detach(&self, id: Id, mut connection: Box<Connection>) {
        let mut entries = self.entries();
        // Dropped without the lock: what is inside may ask for it.
        let mut abandoned = None;
        if let Some(entry) = entries.0.get_mut(&id) {
            if let Place::Carried { next, .. } = &mut entry.place
                && let Some(Next { give, wanted }) = next.take()
            {
                // Who has given up waiting just now gives it back by dropping it.
                let carried = self.carried(id, connection, wanted.clone());
                entry.place = Place::Carried { wanted, next: None };
                match give.send(carried) {
                    Ok(()) => return,
                    // Taken out: dropping it with the lock would wait for the lock.
                    Err(mut back) => match back.connection.take() {
                        Some(back) => connection = back,
                        None => return,
                    },
                }
            }
            let keep = entry.keep;
            if self.0.force.is_cancelled() || keep.is_zero() {
                abandoned = entries.0.remove(&id);
            } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                let (table, attachment) = (self.clone(), entry.attachment);
                let expiry = runtime.spawn(async move {
                    tokio::time::sleep(keep).await;
                    table.expire(id, attachment);
                });
                entry.place = Place::Detached {
                    connection,
                    _expiry: AbortOnDropHandle::new(expiry),
                };
                self.0.metrics.upgrades_detached.inc();
                drop(entries);
                tracing::debug!(
                    seconds = keep.as_secs(),
                    "an upgraded connection lost its tunnel; waiting for kas to resume it"
                );
                return;
            }
        }
        drop(entries);
        drop(abandoned);
        drop(connection);
    }

    fn expire(&self, id: Id, attachment: u64) {
        let mut entries = self.entries();
        let is_it =
            |it: &Entry| it.attachment == attachment && matches!(it.place, Place::Detached { .. });
        if !entries.0.get(&id).is_some_and(is_it) {
            return;
        }
        let expired = entries.0.remove(&id);
        drop(entries);
        self.0.metrics.upgrades_detached.dec();
        self.0.metrics.upgrades_abandoned.inc();
        tracing::info!("ended an upgraded connection that kas did not resume in time");
        drop(expired);
    }

    fn carried(&self, id: Id, connection: Box<Connection>, wanted: CancellationToken) -> Carried {
        Carried {
            id,
            connection: Some(connection),
            wanted,
            table: self.clone(),
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Carried {
    /// The connection, and what is cancelled when another call wants it.
    pub(super) fn parts(&mut self) -> (&mut Connection, CancellationToken) {
        let connection = self.connection.as_mut();
        let connection = connection.expect("only end and drop take the connection");
        (connection, self.wanted.clone())
    }

    /// The connection is over.
    pub(super) fn end(mut self) {
        let connection = self.connection.take();
        let entry = self.table.entries().0.remove(&self.id);
        drop((connection, entry));
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.table.detach(self.id, connection);
        }
    }
}

fn id(offer: &ResumeOffer) -> Result<Id, Status> {
    let id = Id::try_from(&*offer.id);
    id.map_err(|_| Status::invalid_argument("a name of a connection that is none"))
}

/// Nobody learns whether there is such a connection of another identity.
fn unknown() -> Status {
    Status::not_found("this agent process has no such connection")
}

//! Memory that objects take: of all hubs of a process, of those of one group, of one hub.
//!
//! An object counts as long as anybody keeps it: the hub that collects or tells it, or one who watches and
//! is slow to hear of it. When there is no more room the hub that takes most gives way, whoever wants more.

use std::{
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bytes::Bytes;
use proto::graph::rpc::Object;
use tonic::Status;

use super::{Limits, hub::Hub, mirror};
use runtime::shares::{self, Full, Share, Shares};

const TOO_MUCH: &str = "the objects that are watched take more memory than allowed";

/// What all hubs of a process may take.
#[derive(Debug)]
pub(super) struct Budget {
    groups: Shares<u64>,
    bytes_each: usize,
    hubs: Mutex<Vec<Weak<Hub>>>,
}

/// What one hub takes.
#[derive(Debug)]
pub(super) struct Account {
    group: u64,
    share: Mutex<Share<u64>>,
}

/// An object that counts for a hub as long as this is somewhere. Clones share it, and count once.
#[derive(Debug, Clone)]
pub(super) struct Kept(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    object: Object,
    bytes: usize,
    account: Arc<Account>,
}

impl Budget {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            groups: Shares::new(shares::Limits {
                total: limits.bytes,
                each: limits.bytes_of_group,
                reserved: limits.bytes_reserved,
            }),
            bytes_each: limits.bytes_each,
            hubs: Mutex::default(),
        })
    }

    /// An account without anything on it.
    pub(super) fn account(&self, group: u64) -> Arc<Account> {
        let share = self.groups.take(group, 0);
        Arc::new(Account {
            group,
            share: Mutex::new(share.expect("there is always room for nothing")),
        })
    }

    /// Knows of one more hub that may have to give way.
    pub(super) fn add(&self, hub: &Arc<Hub>) {
        let mut hubs = self.hubs();
        hubs.retain(|hub| hub.strong_count() > 0);
        hubs.push(Arc::downgrade(hub));
    }

    /// Makes room for more of `hub`'s objects.
    ///
    /// # Errors
    /// When it is this hub that takes too much.
    pub(super) fn charge(&self, hub: &Hub, bytes: usize) -> Result<(), Status> {
        loop {
            let account = hub.account();
            let within = if account.bytes() + bytes > self.bytes_each {
                None
            } else {
                match account.take(bytes) {
                    Ok(()) => return Ok(()),
                    Err(Full::Holder(_)) => Some(Some(account.group)),
                    Err(Full::Total(_)) => Some(None),
                }
            };
            let largest = within.and_then(|group| self.largest(group, account.bytes() + bytes));
            let refused = || Status::resource_exhausted(TOO_MUCH);
            match largest {
                // What is only there for those who are slow goes first.
                Some(other) if other.relieve() => {}
                Some(other) => other.fail(&refused()),
                None if hub.relieve() => {}
                None => return Err(refused()),
            }
        }
    }

    /// The hub, of one group or of all, that takes most, if that is more than this.
    fn largest(&self, group: Option<u64>, than: usize) -> Option<Arc<Hub>> {
        let hubs = self.hubs();
        let hubs = hubs.iter().filter_map(Weak::upgrade);
        let of_group = hubs
            .filter(|hub| group.is_none_or(|it| it == hub.account().group) && !hub.has_failed());
        let largest = of_group.max_by_key(|hub| hub.account().bytes());
        largest.filter(|hub| hub.account().bytes() > than)
    }

    fn hubs(&self) -> MutexGuard<'_, Vec<Weak<Hub>>> {
        self.hubs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// Bytes of all that counts.
    pub(super) fn bytes(&self) -> usize {
        self.share().places()
    }

    fn take(&self, bytes: usize) -> Result<(), Full> {
        self.share().grow(bytes)
    }

    /// Gives back what was charged for and is not kept.
    fn give_back(&self, bytes: usize) {
        self.share().shrink(bytes);
    }

    fn share(&self) -> MutexGuard<'_, Share<u64>> {
        self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// An object that was charged for.
    pub(super) fn new(mut object: Object, account: &Arc<Account>) -> Self {
        // A part of a message would keep all of it.
        object.json = Bytes::copy_from_slice(&object.json);
        Self(Arc::new(Counted {
            bytes: mirror::size(&object),
            object,
            account: account.clone(),
        }))
    }

    /// What it counts.
    pub(super) fn bytes(&self) -> usize {
        self.0.bytes
    }
}

impl Deref for Kept {
    type Target = Object;

    fn deref(&self) -> &Object {
        &self.0.object
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.account.give_back(self.bytes);
    }
}

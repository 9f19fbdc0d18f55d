//! Memory budget for objects: of the process, of a group of caches, of one cache.
//!
//! An object counts as long as anything holds it: a cache, a list that is being collected, or the
//! backlog of a slow watcher. When the budget is exhausted, the largest cache fails, not the one
//! that happened to ask.

use std::{
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bytes::Bytes;
use proto::graph::rpc::Object;
use runtime::shares::{self, Full, Share, Shares};
use tonic::Status;

use crate::limits::Limits;

const EXHAUSTED: &str = "the watched objects need more memory than the limit allows";
/// Size of an object without its texts: the struct and its place in the map.
const OBJECT_BYTES: usize = 400;
/// Size of an owner reference without its texts.
const OWNER_BYTES: usize = 128;
/// Size of a label without its texts.
const LABEL_BYTES: usize = 96;

/// A cache as the budget sees it.
pub(crate) trait Member: Send + Sync + std::fmt::Debug {
    /// The bytes it uses.
    fn usage(&self) -> &Usage;
    /// Discards the backlog of slow watchers; returns whether that freed anything.
    fn discard_backlog(&self) -> bool;
    /// Ends the cache and frees its objects.
    fn fail(&self, status: &Status);
    /// Whether it has ended.
    fn has_failed(&self) -> bool;
}

/// What all caches of a process may use.
#[derive(Debug)]
pub(crate) struct Budget {
    groups: Shares<u64>,
    bytes_per_cache: usize,
    members: Mutex<Vec<Weak<dyn Member>>>,
}

/// Bytes that one cache uses.
#[derive(Debug)]
pub(crate) struct Usage {
    group: u64,
    share: Mutex<Share<u64>>,
}

/// An object that counts against a cache's usage until the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct CachedObject(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    object: Object,
    bytes: usize,
    usage: Arc<Usage>,
}

/// Which limit was hit, and thus among whom the largest is to give way.
enum Exceeded {
    Cache,
    Group(u64),
    Process,
}

impl Budget {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            groups: Shares::new(shares::Limits {
                total: limits.bytes,
                each: limits.bytes_per_group,
                reserved: limits.bytes_reserved,
            }),
            bytes_per_cache: limits.bytes_per_cache,
            members: Mutex::default(),
        })
    }

    /// A usage of zero bytes in a group.
    pub(crate) fn usage(&self, group: u64) -> Arc<Usage> {
        let share = self.groups.take(group, 0);
        Arc::new(Usage {
            group,
            share: Mutex::new(share.expect("zero bytes always fit")),
        })
    }

    /// Registers a cache, which may have to give way from now on.
    pub(crate) fn add(&self, member: Weak<dyn Member>) {
        let mut members = self.members();
        members.retain(|member| member.strong_count() > 0);
        members.push(member);
    }

    /// Takes `bytes` for `member`, at the expense of larger caches if there is no room.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when `member` itself is the one that uses too much.
    pub(crate) fn charge(&self, member: &dyn Member, bytes: usize) -> Result<(), Status> {
        loop {
            let usage = member.usage();
            let wanted = usage.bytes() + bytes;
            let exceeded = if wanted > self.bytes_per_cache {
                Exceeded::Cache
            } else {
                match usage.take(bytes) {
                    Ok(()) => return Ok(()),
                    Err(Full::Holder(_)) => Exceeded::Group(usage.group),
                    Err(Full::Total(_)) => Exceeded::Process,
                }
            };
            let exhausted = || Status::resource_exhausted(EXHAUSTED);
            match self.larger_than(wanted, &exceeded) {
                // The backlog of slow watchers goes before the objects themselves.
                Some(larger) if larger.discard_backlog() => {}
                Some(larger) => larger.fail(&exhausted()),
                None if member.discard_backlog() => {}
                None => return Err(exhausted()),
            }
        }
    }

    /// The largest cache under the limit that was exceeded, if it uses more than this.
    fn larger_than(&self, bytes: usize, exceeded: &Exceeded) -> Option<Arc<dyn Member>> {
        let group = match exceeded {
            Exceeded::Cache => return None,
            Exceeded::Group(group) => Some(*group),
            Exceeded::Process => None,
        };
        let members = self.members();
        let members = members.iter().filter_map(Weak::upgrade);
        let candidates = members
            .filter(|it| group.is_none_or(|group| group == it.usage().group) && !it.has_failed());
        let largest = candidates.max_by_key(|it| it.usage().bytes());
        largest.filter(|it| it.usage().bytes() > bytes)
    }

    fn members(&self) -> MutexGuard<'_, Vec<Weak<dyn Member>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Usage {
    /// Bytes of all objects that count.
    pub(crate) fn bytes(&self) -> usize {
        self.share().places()
    }

    fn take(&self, bytes: usize) -> Result<(), Full> {
        self.share().grow(bytes)
    }

    fn release(&self, bytes: usize) {
        self.share().shrink(bytes);
    }

    fn share(&self) -> MutexGuard<'_, Share<u64>> {
        self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CachedObject {
    /// An object whose bytes were charged before.
    pub(crate) fn new(mut object: Object, usage: &Arc<Usage>) -> Self {
        // A slice of a received message would keep the whole message alive.
        object.json = Bytes::copy_from_slice(&object.json);
        Self(Arc::new(Counted {
            bytes: size(&object),
            object,
            usage: usage.clone(),
        }))
    }

    /// Its estimated size.
    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes
    }
}

impl Deref for CachedObject {
    type Target = Object;

    fn deref(&self) -> &Object {
        &self.0.object
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.usage.release(self.bytes);
    }
}

/// Estimated memory of an object.
pub(crate) fn size(object: &Object) -> usize {
    let labels = object.labels.iter();
    let labels = labels.map(|(key, value)| LABEL_BYTES + key.len() + value.len());
    let owners = object.owners.iter().map(|it| {
        OWNER_BYTES + it.api_version.len() + it.kind.len() + it.name.len() + it.uid.len()
    });
    let texts = [
        &object.api_version,
        &object.kind,
        &object.namespace,
        &object.name,
        &object.uid,
        &object.resource_version,
    ];
    let texts: usize = texts.map(String::len).into_iter().sum();
    let parts = labels.sum::<usize>() + owners.sum::<usize>();
    OBJECT_BYTES + parts + texts + object.json.len()
}

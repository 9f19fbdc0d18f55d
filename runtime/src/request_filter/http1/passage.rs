//! What goes beside the requests of a connection, between those who read and those who serve them.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::shares::Shares;

/// What the head of a request over HTTP/1.1 may be.
#[derive(Debug, Clone)]
pub struct Limits {
    /// All of it, in bytes.
    pub head_bytes: usize,
    /// Header lines.
    pub lines: usize,
    /// Bytes of long heads that are not whole, by the address they come from.
    pub unfinished: Shares<IpAddr>,
    /// The address of this connection's client.
    pub from: IpAddr,
}

/// Header lines that hyper has not seen.
pub(super) type Lines = Vec<(HeaderName, HeaderValue)>;

const WAITING: u8 = 0;
const DECLINED: u8 = 1;
const SWITCHED: u8 = 2;

/// What is known beside the requests of a connection. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Passage(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Requests that were served.
    served: AtomicU64,
    /// How many are parked, so that the lock is seldom taken.
    parked: AtomicUsize,
    /// By the number of the request, the first of which is 1. No more than one read of a
    /// connection brings.
    lines: Mutex<VecDeque<(u64, Lines)>>,
    upgrade: AtomicU8,
}

impl Passage {
    /// Adds the lines to the next request's headers that are beyond what hyper has room for. To be
    /// called once for each request of HTTP/1.1, in order.
    pub fn complete(&self, headers: &mut HeaderMap) {
        let number = self.0.served.fetch_add(1, Ordering::Relaxed) + 1;
        if self.0.parked.load(Ordering::Acquire) == 0 {
            return;
        }
        let lines = {
            let mut all = self.lines();
            match all.front() {
                Some((of, _)) if *of == number => all.pop_front(),
                Some(_) | None => None,
            }
        };
        let Some((_, lines)) = lines else { return };
        self.0.parked.fetch_sub(1, Ordering::Release);
        for (name, value) in lines {
            // There is room for as many as the limit of lines lets in.
            let _ = headers.try_append(name, value);
        }
    }

    /// To be called when the answer to a request that asked for another protocol is known.
    pub fn answered(&self, switches: bool) {
        let answer = if switches { SWITCHED } else { DECLINED };
        self.0.upgrade.store(answer, Ordering::Release);
    }

    pub(super) fn ask(&self) {
        self.0.upgrade.store(WAITING, Ordering::Release);
    }

    /// Whether the protocol was switched, if that is known.
    pub(super) fn switched(&self) -> Option<bool> {
        match self.0.upgrade.load(Ordering::Acquire) {
            DECLINED => Some(false),
            SWITCHED => Some(true),
            _ => None,
        }
    }

    pub(super) fn park(&self, number: u64, lines: Lines) {
        self.lines().push_back((number, lines));
        self.0.parked.fetch_add(1, Ordering::Release);
    }

    fn lines(&self) -> MutexGuard<'_, VecDeque<(u64, Lines)>> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! What tells the series of a metric of the users' port apart.

use prometheus_client::encoding::EncodeLabelValue;

/// A limit that a request reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Over {
    /// Requests of one address whose credentials are being checked.
    AskedOfAddress,
    /// All of these.
    Asked,
    /// Requests of one caller in progress.
    InProgressOfCaller,
    /// All of these.
    InProgress,
    /// Requests of one caller that wait for a tunnel.
    HeldOfCaller,
    /// All of these.
    Held,
}

pub(super) const LIMITS: [Over; 6] = [
    Over::AskedOfAddress,
    Over::Asked,
    Over::InProgressOfCaller,
    Over::InProgress,
    Over::HeldOfCaller,
    Over::Held,
];

/// Whether the client of an upgraded connection that broke was sent a `Status` with the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum FailureStatus {
    /// It was.
    Sent,
    /// Its protocol has no place for one, or it does not read.
    NotSent,
}

/// What kind of request one is: how long it takes means something else for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// GET, HEAD and the like.
    Read,
    /// Whatever may change something.
    Write,
    /// A watch, which lasts as long as its client wants.
    Watch,
    /// A connection of another protocol, such as that of `kubectl exec`.
    Upgrade,
}

pub(super) const VERBS: [&str; 4] = ["read", "write", "watch", "upgrade"];

pub(super) const OUTCOMES: [&str; 4] = ["success", "refused", "failed", "aborted"];

pub(super) fn outcome(status: u16) -> usize {
    match status {
        0 => 3,
        1..400 => 0,
        400..500 => 1,
        500.. => 2,
    }
}

pub(super) const CLASSES: [&str; 6] = ["aborted", "1xx", "2xx", "3xx", "4xx", "5xx"];

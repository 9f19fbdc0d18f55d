//! What a resume must know of an event of a watch.

/// Longer resource versions than this are not remembered.
pub(super) const MAX_VERSION_BYTES: usize = 1024;
/// The annotation of the bookmark behind the initial events of a watch-list.
pub(super) const INITIAL_END: &[u8] = b"k8s.io/initial-events-end";

/// The type of an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// An object is there.
    Added,
    /// An object is another.
    Modified,
    /// An object is gone.
    Deleted,
    /// The watch has come so far.
    Bookmark,
    /// The watch ends with this `Status`.
    Error,
    /// Nothing that is known.
    #[default]
    Unknown,
}

impl Kind {
    /// The type of this name.
    pub(super) fn of(name: &[u8]) -> Self {
        match name {
            b"ADDED" => Self::Added,
            b"MODIFIED" => Self::Modified,
            b"DELETED" => Self::Deleted,
            b"BOOKMARK" => Self::Bookmark,
            b"ERROR" => Self::Error,
            _ => Self::Unknown,
        }
    }
}

/// An event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// Its type.
    pub(super) kind: Kind,
    /// The resource version of its object.
    pub(super) version: Option<Box<str>>,
    /// Whether it says that the initial events of a watch-list are through.
    pub(super) initial_end: bool,
}

/// How far a scanner came in the bytes that it was given.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// So many bytes lie between events.
    Gap(usize),
    /// An event ends behind so many bytes.
    Event(usize, Event),
    /// All bytes are of an event that goes on.
    Part,
}

/// These bytes are no watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("these bytes are no watch")]
pub(super) struct Malformed;

/// A resource version, unless it is empty, too long, or no text.
pub(super) fn version(bytes: &[u8]) -> Option<Box<str>> {
    let text = std::str::from_utf8(bytes).ok()?;
    (!text.is_empty() && text.len() <= MAX_VERSION_BYTES).then(|| text.into())
}

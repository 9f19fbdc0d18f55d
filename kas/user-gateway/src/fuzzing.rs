//! The decoders of this crate, for the fuzz targets (`tests/fuzz`).

use std::collections::HashMap;

use bytes::Bytes;
use http::Uri;

use crate::{
    graph_api::fuzzing as graph, kubernetes_api::watch_fuzzing as watch, prefix::Prefix,
    target::Target, watch_aggregator::fuzzing as aggregator,
};

pub use crate::{graph_api::fuzzing::Evaluated, kubernetes_api::watch_fuzzing::Cut};

/// A target as it goes to the agent.
#[derive(Debug)]
pub struct Forwarded {
    /// The decoded path; empty, as the parameters are, where encoding it anew would change it.
    pub path: String,
    /// The decoded parameters.
    pub query: HashMap<String, Vec<String>>,
    /// Both as they were sent.
    pub sent: String,
    /// Whether encoding them anew would change something.
    pub changes: bool,
}

/// What an agent is told of a request to `uri`; nothing where it is refused.
#[must_use]
pub fn target(uri: &Uri) -> Option<Forwarded> {
    let target = Target::of(uri, &Prefix::default()).ok()?;
    let changes = target.reencoding().is_some();
    let (path, query, sent) = target.for_agent();
    let query = query.into_iter().map(|(name, all)| (name, all.value));
    Some(Forwarded {
        path,
        query: query.collect(),
        sent,
        changes,
    })
}

/// What a client gets of a watch whose bytes come in these pieces.
pub fn watch(
    protobuf: bool,
    hides_bookmarks: bool,
    pieces: impl IntoIterator<Item = Bytes>,
) -> Cut {
    watch::cut(protobuf, hides_bookmarks, pieces)
}

/// Reads a message on the socket for many watches: bytes of what is asked of the cluster, or of the refusal.
#[must_use]
pub fn watch_message(text: &[u8]) -> usize {
    aggregator::read(text)
}

/// Reads a query of a graph, and evaluates its expressions over an object.
#[must_use]
pub fn graph_query(query: &[u8], object: &[u8]) -> Evaluated {
    graph::query(query, object)
}

/// Reads the release that a secret has whose content inflates from these bytes; bytes of what is shown of it.
#[must_use]
pub fn helm_release(zipped: &[u8]) -> Option<usize> {
    graph::helm_release(zipped)
}

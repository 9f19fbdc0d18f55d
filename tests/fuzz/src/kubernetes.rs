//! What clusters and their users say: watches, queries of graphs, releases of Helm, kubeconfigs.

use std::sync::OnceLock;

use bytes::Bytes;
use serde_json::{Deserializer, Value};
use tokio::runtime::Runtime;
use user_gateway::fuzzing::{self, Cut};

use crate::{Bound, Long, Target, cut, nobody};

/// A watch in JSON, of objects or tables.
pub(crate) const WATCH_JSON: Target = Target {
    name: "watch_json",
    decode: |input| length(&watch(input, false, false)),
    compare: compare_json,
    output: Bound::per_byte(1, 1024),
    memory: Bound::per_byte(8, 64 << 10),
    long: &[
        Long(b"\xff", b"{}", b""),
        Long(
            b"\xff",
            b"{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":\"1\"}}}\n",
            b"",
        ),
        Long(b"\0{\"type\":\"ADDED\",\"object\":", b"[", b""),
        Long(
            b"\0{\"object\":{\"rows\":[",
            b"{\"object\":{\"metadata\":{\"resourceVersion\":\"1\"}}},",
            b"",
        ),
        Long(
            b"\xff{\"object\":{\"metadata\":{\"resourceVersion\":\"",
            b"1",
            b"\"}}}",
        ),
        Long(b"\xff", b"x", b""),
    ],
};

/// A watch in protobuf.
pub(crate) const WATCH_PROTOBUF: Target = Target {
    name: "watch_protobuf",
    decode: |input| length(&watch(input, true, false)),
    compare: |input| compare_cuts(input, true),
    output: Bound::per_byte(1, 1024),
    memory: Bound::per_byte(8, 64 << 10),
    long: &[
        Long(b"\xff", b"\0\0\0\0", b""),
        Long(b"\0\x7f\0\0\0", b"\x12\0", b""),
        Long(b"\xff\x7f\0\0\0", b"\x08\x01", b""),
        Long(b"\xff", b"\0\0\0\x07\x0a\x05ADDED", b""),
    ],
};

/// A message on the socket for many watches.
pub(crate) const WATCH_MESSAGE: Target = Target {
    name: "watch_message",
    decode: fuzzing::watch_message,
    compare: nobody,
    // A character of a selector may be escaped.
    output: Bound::per_byte(6, 1024),
    memory: Bound::per_byte(160, 64 << 10),
    long: &[
        Long(b"{\"type\":\"watch\",\"watch_id\":[", b"0,", b"0]}"),
        Long(b"{\"watch_id\":\"a\",\"x\":", b"[", b""),
        Long(b"{\"type\":\"watch\",\"watch_id\":\"a\",\"watch_params\":{\"version\":\"v1\",\"resource\":\"pods\",\"label_selector\":\"", b"&", b"\"}}"),
    ],
};

/// A query of a graph, a zero byte, and an object over which it is evaluated.
pub(crate) const GRAPH_QUERY: Target = Target {
    name: "graph_query",
    decode: |input| {
        let mut parts = input.splitn(2, |byte| *byte == 0);
        let query = parts.next().unwrap_or_default();
        fuzzing::graph_query(query, parts.next().unwrap_or(b"{}")).refusal
    },
    compare: nobody,
    output: Bound::per_byte(2, 1024),
    memory: Bound::per_byte(400, 1 << 20),
    long: &[
        Long(b"{\"queries\":[", b"{},", b"{}]}"),
        Long(b"{\"queries\":[", b"{\"include\":{\"resource_selector_expression\":\"true\"}},", b"{\"include\":{\"resource_selector_expression\":\"true\"}}]}"),
        Long(b"{\"queries\":[{\"include\":{\"resource_selector_expression\":\"", b"$ ", b"\"}}]}"),
        Long(b"{\"queries\":[{\"include\":{\"resource_selector_expression\":\"true\"}}]}\0", b"[0,", b""),
        Long(b"{\"queries\":[{\"include\":{\"resource_selector_expression\":\"obj.size() > 1\"}}]}\0[0", b",0", b"]"),
    ],
};

/// The content of a secret in which Helm keeps a release, which is compressed.
pub(crate) const HELM_RELEASE: Target = Target {
    name: "helm_release",
    decode: |input| fuzzing::helm_release(input).unwrap_or(0),
    compare: nobody,
    output: Bound {
        per_byte: 1100,
        base: 1024,
        most: 6 << 20,
    },
    memory: Bound {
        per_byte: 40_000,
        base: 128 << 10,
        most: 64 << 20,
    },
    long: &[
        Long(b"\x1f\x8b\x08\0\0\0\0\0\0\xff", b"\0", b""),
        Long(b"\x1f\x8b\x08\x10\0\0\0\0\0\xff", b"x", b""),
    ],
};

/// A kubeconfig.
pub(crate) const KUBECONFIG: Target = Target {
    name: "kubeconfig",
    decode: kubeconfig,
    compare: nobody,
    output: Bound::per_byte(8, 8 << 10),
    memory: Bound::per_byte(1024, 1 << 20),
    long: &[
        Long(b"clusters:\n", b"- name: a\n  cluster: {}\n", b""),
        Long(b"users: [", b"{name: a},", b"]"),
        Long(b"x: &a ", b"[", b""),
        Long(b"server: ", b"x", b""),
    ],
};

fn watch(input: &[u8], protobuf: bool, hides_bookmarks: bool) -> Cut {
    let (piece, data) = cut(input);
    let mut left = Bytes::copy_from_slice(data);
    let pieces = std::iter::from_fn(|| {
        let length = left.len().min(piece);
        (length > 0).then(|| left.split_to(length))
    });
    fuzzing::watch(protobuf, hides_bookmarks, pieces)
}

fn length(cut: &Cut) -> usize {
    let version = cut.version.as_ref().map_or(0, String::len);
    cut.passed.len() + cut.held.len() + version
}

/// However a watch is cut, its client gets all of it, and no bookmarks only if it asked for none.
fn compare_cuts(input: &[u8], protobuf: bool) {
    let (_, data) = cut(input);
    let seen = watch(input, protobuf, false);
    assert_eq!([&seen.passed[..], &seen.held].concat(), data);
    let whole = fuzzing::watch(protobuf, false, [Bytes::copy_from_slice(data)]);
    if data.len() <= 4 << 20 {
        assert_eq!(seen, whole);
    }
    let hidden = watch(input, protobuf, true);
    assert!(hidden.passed.len() + hidden.held.len() <= data.len());
}

/// What serde_json takes for objects one behind the other are whole events, of which nothing is held back.
fn compare_json(input: &[u8]) {
    compare_cuts(input, false);
    let (_, data) = cut(input);
    let values = Deserializer::from_slice(data).into_iter::<Value>();
    let all: Result<Vec<_>, _> = values.collect();
    if all.is_ok() {
        let seen = watch(input, false, false);
        assert_eq!(seen.held.len(), 0, "a whole event is held back");
    }
}

fn kubeconfig(input: &[u8]) -> usize {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.build().expect("a runtime can be had")
    });
    let Ok(text) = std::str::from_utf8(input) else {
        return 0;
    };
    // No file of this machine is read.
    if text.contains("certificate-authority:") {
        return 0;
    }
    match runtime.block_on(agentk::fuzzing::read_kubeconfig(text)) {
        Ok(server) => server.len(),
        Err(error) => runtime::telemetry::Causes(&error).to_string().len(),
    }
}

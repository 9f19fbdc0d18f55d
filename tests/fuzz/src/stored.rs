//! What other replicas and servers have stored: records in Redis, refs of a repository.

use std::sync::{Arc, OnceLock};

use agent_gateway::{GitLabConnections, processes};
use cluster_state::redis::fuzzing::read;
use control_plane::gitaly::fuzzing::head_of_main;
use runtime::jwt::Secret;

use crate::{Bound, Long, Target, cut, nobody};

/// A key or field of Redis, a line end, and its value.
pub(crate) const RECORDS: Target = Target {
    name: "store_records",
    decode: records,
    compare: nobody,
    output: Bound::per_byte(16, 4 << 10),
    memory: Bound::per_byte(256, 64 << 10),
    long: &[
        Long(
            b"1\na/1/1/[",
            b"{\"id\":1,\"at\":\"2026-01-01T00:00:00Z\"},",
            b"{\"id\":1,\"at\":\"2026-01-01T00:00:00Z\"}]",
        ),
        Long(b"1\na/1/1/[", b"{},", b"{}]"),
        Long(b"kas-1\n", b"grpc://a:1,", b""),
        Long(b"kas-1\n{\"url\":\"", b"x", b"\"}"),
        Long(b"1\n\x08\x01\x12\x80\x80\x80\x02", b"\x0a\0", b""),
    ],
};

/// The refs of a repository, as Git advertises them.
pub(crate) const GIT_REFS: Target = Target {
    name: "git_refs",
    decode: refs,
    compare: |input| {
        let (piece, data) = cut(input);
        let seen = head_of_main(data, piece).ok();
        assert_eq!(seen, head_of_main(data, data.len().max(1)).ok());
    },
    output: Bound::per_byte(8, 1024),
    memory: Bound::per_byte(12, 128 << 10),
    long: &[
        Long(
            b"\xff001e# service=git-upload-pack\n0000",
            b"003d0123456789012345678901234567890123456789 refs/heads/other\n",
            b"0000",
        ),
        Long(b"\0", b"0004", b""),
        Long(b"\xfffff0", b"x", b""),
    ],
};

fn records(input: &[u8]) -> usize {
    static SECRET: OnceLock<Secret> = OnceLock::new();
    let secret = SECRET.get_or_init(|| Secret::new(vec![b'x'; 32]));
    let mut parts = input.splitn(2, |byte| *byte == b'\n');
    let field = parts.next().unwrap_or_default();
    let value = parts.next().unwrap_or_default();
    let signed = read(Some(secret), Arc::new(GitLabConnections), field, value);
    let unsigned = read(None, Arc::new(GitLabConnections), field, value);
    let entries = [signed.entries, unsigned.entries].concat();
    let texts: usize = entries.iter().map(|it| it.presence.text.len()).sum();
    let listed = processes(&entries).len();
    signed.bytes + unsigned.bytes + texts + listed
}

fn refs(input: &[u8]) -> usize {
    let (piece, data) = cut(input);
    match head_of_main(data, piece) {
        Ok(head) => format!("{head:?}").len(),
        Err(error) => error.to_string().len(),
    }
}

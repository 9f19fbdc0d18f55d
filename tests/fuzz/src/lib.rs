//! Every decoder as a fuzz target: a function of bytes that panics where something does not hold.
//!
//! [`check`] besides bounds what comes of an input: bytes of output, and bytes of memory at any time, for each byte of
//! it. `tests/replay.rs` runs all targets over the corpora and over long inputs; `libfuzzer/` looks for more. How to
//! add a target: CONTRIBUTING.md.

mod files;
mod http2;
mod kubernetes;
mod requests;
mod stored;
mod tokens;
mod websocket;
mod wire;

use std::path::PathBuf;

/// The longest input, in bytes.
pub const MAX_INPUT_BYTES: usize = 4 << 20;

/// A decoder, and what must hold of it.
#[derive(Debug)]
pub struct Target {
    /// The name of its corpus and of its program.
    pub name: &'static str,
    /// Decodes an input; how many bytes came of it.
    pub decode: fn(&[u8]) -> usize,
    /// Compares what comes of an input with what somebody else makes of it. What that takes does not count.
    pub compare: fn(&[u8]),
    /// Bytes of output.
    pub output: Bound,
    /// Bytes of memory that are in use at any time.
    pub memory: Bound,
    /// Inputs that grow.
    pub long: &'static [Long],
}

/// What may come of an input of some length.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Of each byte of it.
    pub per_byte: usize,
    /// Of every input, however short.
    pub base: usize,
    /// Of every input, however long.
    pub most: usize,
}

impl Bound {
    const fn per_byte(per_byte: usize, base: usize) -> Self {
        Self {
            per_byte,
            base,
            most: usize::MAX,
        }
    }

    fn of(self, length: usize) -> usize {
        let grown = self.per_byte.saturating_mul(length);
        grown.saturating_add(self.base).min(self.most)
    }
}

/// An input that may be as long as one likes: a head, what is repeated, and a tail.
#[derive(Debug, Clone, Copy)]
pub struct Long(pub &'static [u8], pub &'static [u8], pub &'static [u8]);

impl Long {
    /// As many bytes as it takes, and no more than `bytes` unless nothing is repeated.
    #[must_use]
    pub fn of(&self, bytes: usize) -> Vec<u8> {
        let room = bytes.saturating_sub(self.0.len() + self.2.len());
        [self.0, &self.1.repeat(room / self.1.len()), self.2].concat()
    }
}

/// All targets.
pub const TARGETS: &[Target] = &[
    wire::GRPC_FRAMES,
    wire::PROXY_PROTOCOL,
    websocket::SERVER,
    websocket::CLIENT,
    websocket::MESSAGES,
    websocket::HANDSHAKE,
    http2::AUTHORITY,
    http2::HPACK,
    requests::HEADS,
    requests::TARGETS,
    kubernetes::WATCH_JSON,
    kubernetes::WATCH_PROTOBUF,
    kubernetes::WATCH_MESSAGE,
    kubernetes::GRAPH_QUERY,
    kubernetes::HELM_RELEASE,
    kubernetes::KUBECONFIG,
    files::YAML_NOTES,
    files::AGENT_FILE,
    files::STANDALONE_FILE,
    tokens::JWT,
    tokens::KEY_SET,
    stored::RECORDS,
    stored::GIT_REFS,
];

/// Runs a target over an input.
///
/// # Panics
/// Where something does not hold.
pub fn check(target: &Target, input: &[u8]) {
    let mut output = 0;
    let memory = allocation_counter::measure(|| output = (target.decode)(input));
    let (name, length) = (target.name, input.len());
    let most = target.output.of(length);
    assert!(
        output <= most,
        "{name}: {output} bytes came of an input of {length}, more than {most}"
    );
    let most = target.memory.of(length);
    let used = usize::try_from(memory.bytes_max).unwrap_or(usize::MAX);
    assert!(
        used <= most,
        "{name}: an input of {length} bytes took {used} bytes of memory, more than {most}"
    );
    (target.compare)(input);
}

/// The target of this name.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn target(name: &str) -> &'static Target {
    let found = TARGETS.iter().find(|it| it.name == name);
    found.expect("it is one of the targets")
}

/// The inputs that are kept for a target, in the order of their names.
///
/// # Panics
/// If there are none.
#[must_use]
pub fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let folder = folder.join(target.name);
    let files = std::fs::read_dir(&folder).expect("every target has a corpus");
    let mut files: Vec<_> = files
        .map(|it| it.expect("it can be listed").path())
        .collect();
    files.sort();
    let read = |path: PathBuf| (path.clone(), std::fs::read(path).expect("it can be read"));
    files.into_iter().map(read).collect()
}

/// For targets whose input nobody else reads.
fn nobody(_: &[u8]) {}

/// How the input is cut, which its first byte says: pieces of this many bytes.
fn cut(input: &[u8]) -> (usize, &[u8]) {
    match input.split_first() {
        Some((first, rest)) => (usize::from(*first) + 1, rest),
        None => (1, input),
    }
}

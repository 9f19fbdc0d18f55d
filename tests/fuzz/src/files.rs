//! Files: YAML with notes, agents' configuration, the standalone file.

use std::path::Path;

use control_plane::{agent_file::AgentFile, standalone};
use jiff::Timestamp;
use prost::Message;
use runtime::yaml::{self, NonEmpty, Seconds, Spanned, UnknownKey};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{Bound, Long, Target, nobody};

/// What aliases may unfold to, which is bounded whatever the file: 20,000 events of the parser.
const ALIASES_BYTES: usize = 16 << 20;

/// Any document, of which some keys are known.
pub(crate) const YAML_NOTES: Target = Target {
    name: "yaml_notes",
    decode: |input| read::<Sample>(input),
    compare: nobody,
    output: Bound::per_byte(16, 64 << 10),
    memory: Bound::per_byte(1024, ALIASES_BYTES),
    long: &[
        Long(b"", b"a: 1\n", b""),
        Long(b"", b"x", b": 1\n"),
        Long(b"{", b"b: {", b""),
        Long(b"", b"{below: ", b""),
        Long(b"x: [", b"{},", b"]"),
        Long(b"list: [", b"{},", b"]"),
        Long(b"a: &a [x]\nb:\n", b"- *a\n", b""),
        Long(b"a: &a [x]\nlist: [", b"{text: *a},", b"]"),
        Long(b"", b"? ", b""),
        Long(b"text: |\n", b" x\n", b""),
    ],
};

/// The configuration file of an agent.
pub(crate) const AGENT_FILE: Target = Target {
    name: "agent_file",
    decode: agent_file,
    compare: nobody,
    output: Bound::per_byte(8, 64 << 10),
    memory: Bound::per_byte(2048, ALIASES_BYTES),
    long: &[
        Long(b"ci_access:\n  projects:\n", b"  - id: a\n", b""),
        Long(b"gitops: {manifest_projects: [", b"{},", b"]}"),
        Long(b"flux: {", b"a: ,", b"}"),
        Long(b"x: ", b"[", b""),
        Long(b"a: &a [[]]\nb: &b [", b"*a,", b"]\n"),
    ],
};

/// The standalone file.
pub(crate) const STANDALONE_FILE: Target = Target {
    name: "standalone_file",
    decode: standalone_file,
    compare: nobody,
    output: Bound::per_byte(8, 64 << 10),
    memory: Bound::per_byte(2048, ALIASES_BYTES),
    long: &[
        Long(b"agents:\n", b"- {id: 1, name: a}\n", b""),
        Long(b"users: [", b"{},", b"]"),
        Long(b"access:\n", b"- {agents: [a], users: [a]}\n", b""),
        Long(b"agents: [{id: 1, name: a, ", b"x", b": 1}]\n"),
    ],
};

/// Has of everything that a file may have.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Sample {
    text: Option<Spanned<NonEmpty>>,
    number: u32,
    after: Option<Seconds>,
    flag: bool,
    below: Option<Box<Sample>>,
    list: Option<Vec<Sample>>,
    choice: Option<Choice>,
    #[serde(rename = "__unknown")]
    unknown: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Choice {
    One,
    Other(#[expect(dead_code, reason = "what is read is not looked at")] String),
}

fn text(input: &[u8]) -> Option<&str> {
    std::str::from_utf8(input).ok()
}

fn file() -> &'static Path {
    Path::new("file.yaml")
}

/// Reads a document with notes; bytes of these, or of the mistake.
fn read<T: DeserializeOwned>(input: &[u8]) -> usize {
    let Some(text) = text(input) else { return 0 };
    match yaml::read_noting::<T>(file(), text) {
        Ok((_, unknown)) => noted(&unknown),
        Err(mistake) => mistake.to_string().len(),
    }
}

/// Bytes of notes.
fn noted(unknown: &[UnknownKey]) -> usize {
    let each = unknown.iter().map(|it| it.path.len() + it.message.len());
    each.sum()
}

/// Reads a file as GitLab's control plane does; bytes of what the agent and GitLab are told.
fn agent_file(input: &[u8]) -> usize {
    let Some(text) = text(input) else { return 0 };
    let Ok(written) = yaml::read_written(file(), text) else {
        return 0;
    };
    match yaml::read_noting::<AgentFile>(file(), text) {
        Ok((known, unknown)) => {
            let told = known.told(&written).to_string();
            noted(&unknown) + told.len() + known.to_message().encoded_len()
        }
        Err(mistake) => mistake.to_string().len(),
    }
}

fn standalone_file(input: &[u8]) -> usize {
    let Some(text) = text(input) else { return 0 };
    match standalone::parse(file(), text, Timestamp::UNIX_EPOCH) {
        Ok(directory) => directory.agents().map(|it| it.name.len()).sum(),
        Err(mistake) => mistake.to_string().len(),
    }
}

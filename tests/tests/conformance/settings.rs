//! What is run: which tests, by which ways to the API server.

use std::{fmt, str::FromStr};

use anyhow::{Context, Result};

/// Tests at once, unless a variable says otherwise. Most of their time they wait for pods.
const AT_ONCE: usize = 6;

/// What this run is to do.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) groups: Vec<Group>,
    pub(crate) ways: Vec<Way>,
    pub(crate) focus: Option<String>,
    pub(crate) at_once: usize,
}

impl Settings {
    pub(crate) fn from_environment() -> Result<Self> {
        let at_once = variable("CONFORMANCE_AT_ONCE").map(|it| it.parse());
        Ok(Self {
            groups: list("CONFORMANCE_GROUPS", &Group::ALL)?,
            ways: list("CONFORMANCE_WAYS", &Way::ALL)?,
            focus: variable("CONFORMANCE_FOCUS"),
            at_once: at_once
                .transpose()
                .context("CONFORMANCE_AT_ONCE")?
                .unwrap_or(AT_ONCE),
        })
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|it| !it.is_empty())
}

fn list<T: FromStr<Err = anyhow::Error> + Copy>(name: &str, all: &[T]) -> Result<Vec<T>> {
    let Some(words) = variable(name) else {
        return Ok(all.to_vec());
    };
    if words == "none" {
        return Ok(Vec::new());
    }
    words.split(',').map(str::parse).collect()
}

/// The one of `all` that has this word.
fn named<T: Copy>(all: &[T], word: fn(T) -> &'static str, text: &str) -> Result<T> {
    let found = all.iter().copied().find(|it| word(*it) == text);
    found.with_context(|| {
        format!(
            "{text:?} is none of {:?}",
            all.iter().map(|it| word(*it)).collect::<Vec<_>>()
        )
    })
}

/// The tests of one special interest group of Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    ApiMachinery,
    Cli,
    Auth,
    Apps,
    Node,
}

impl Group {
    pub(crate) const ALL: [Self; 5] = [
        Self::ApiMachinery,
        Self::Cli,
        Self::Auth,
        Self::Apps,
        Self::Node,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::ApiMachinery => "api-machinery",
            Self::Cli => "cli",
            Self::Auth => "auth",
            Self::Apps => "apps",
            Self::Node => "node",
        }
    }

    /// What names of its tests begin with.
    pub(crate) fn prefix(self) -> String {
        format!("[sig-{self}]")
    }
}

impl fmt::Display for Group {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

impl FromStr for Group {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        named(&Self::ALL, Self::word, text).context("no group of tests")
    }
}

/// A way to the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Straight, as the agent's identity.
    Direct,
    /// Through kas.
    Kas,
    /// Through kas while connections are reset.
    Cuts,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Direct, Self::Kas, Self::Cuts];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Kas => "kas",
            Self::Cuts => "cuts",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

impl FromStr for Way {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        named(&Self::ALL, Self::word, text).context("no way to the API server")
    }
}

//! One kind of requests at one rate.

use serde::{Deserialize, Serialize};

/// Requests, each begun on time whatever the answers do.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Traffic {
    pub(crate) kind: Kind,
    /// Requests a second.
    #[serde(default)]
    pub(crate) rate: Option<f64>,
    /// Connections; without a rate each sends its next request when it has the answer.
    #[serde(default)]
    pub(crate) clients: Option<usize>,
    /// Length of the body, where the kind has one.
    #[serde(default)]
    pub(crate) bytes: Option<u64>,
    /// Events of a watch, or lines of a log.
    #[serde(default)]
    pub(crate) events: Option<u64>,
    /// Milliseconds between them.
    #[serde(default)]
    pub(crate) every_ms: Option<u64>,
    /// KiB a second at which the client reads.
    #[serde(default)]
    pub(crate) read_kib_per_second: Option<u32>,
    /// How often a request is made again on a new connection when its own broke, as
    /// kubectl and other clients of Kubernetes do.
    #[serde(default)]
    pub(crate) retries: u32,
    /// Seconds that a request may take.
    #[serde(default)]
    pub(crate) timeout: Option<f64>,
}

/// What is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A small object: 4 KiB.
    Short,
    /// A long list: 256 KiB.
    List,
    /// Events that come one by one: ten, each 200 ms.
    Watch,
    /// Many lines in quick succession: two hundred, each 5 ms.
    Logs,
    /// A long body: 64 MiB.
    Bulk,
    /// A body that is sent, and comes back: 1 MiB.
    Upload,
}

impl Kind {
    /// Its name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Logs => "logs",
            Self::Bulk => "bulk",
            Self::Upload => "upload",
        }
    }
}

/// Connections for a request a second: enough for answers that take twenty seconds.
const CLIENTS_PER_RATE: f64 = 20.0;
const MAX_CLIENTS: f64 = 512.0;

impl Traffic {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e6)) {
            return Err("`rate` must be above 0".to_owned());
        }
        if self.clients == Some(0) || self.rate.is_none() && self.clients.is_none() {
            return Err("give it a `rate`, or `clients` of at least 1".to_owned());
        }
        if self
            .timeout
            .is_some_and(|seconds| !(seconds > 0.0 && seconds <= 1e6))
        {
            return Err("`timeout` must be above 0".to_owned());
        }
        Ok(())
    }

    /// Connections at the same time.
    pub(crate) fn clients(&self) -> usize {
        self.clients.unwrap_or_else(|| {
            let clients = self.rate.unwrap_or(1.0) * CLIENTS_PER_RATE;
            clients.clamp(4.0, MAX_CLIENTS) as usize
        })
    }

    /// The path that the agents' script answers in this kind's way.
    pub(crate) fn path(&self) -> String {
        let (events, every) = self.script();
        match self.kind {
            Kind::Short => format!("/json/{}", self.bytes.unwrap_or(4096)),
            Kind::List => format!("/json/{}", self.bytes.unwrap_or(256 << 10)),
            Kind::Watch | Kind::Logs => format!("/watch/{events}/{every}"),
            Kind::Bulk => format!("/bytes/{}", self.bytes.unwrap_or(64 << 20)),
            Kind::Upload => "/echo".to_owned(),
        }
    }

    /// The length of the body that is sent, if one is.
    pub(crate) fn post(&self) -> Option<u64> {
        (self.kind == Kind::Upload).then(|| self.bytes.unwrap_or(1 << 20))
    }

    fn script(&self) -> (u64, u64) {
        let (events, every) = match self.kind {
            Kind::Logs => (200, 5),
            Kind::Short | Kind::List | Kind::Watch | Kind::Bulk | Kind::Upload => (10, 200),
        };
        (
            self.events.unwrap_or(events).max(1),
            self.every_ms.unwrap_or(every),
        )
    }
}

//! One kind of requests at one rate.

use std::time::Duration;

use serde::{
    Deserialize, Serialize,
    de::{IntoDeserializer, value::Error as ValueError},
};

use super::{Exec, Options};
use crate::content;

/// Requests, each begun on time whatever the answers do.
#[derive(Debug, Clone, Default, Deserialize)]
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
    /// Events of a watch, or lines of a log or an exec.
    #[serde(default)]
    pub(crate) events: Option<u64>,
    /// Milliseconds between them.
    #[serde(default)]
    pub(crate) every_ms: Option<u64>,
    /// Milliseconds after which an agent begins to answer.
    #[serde(default)]
    pub(crate) delay_ms: u64,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A small object: 4 KiB.
    #[default]
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
    /// A WebSocket on which ten lines of 256 bytes are said, each 100 ms after the last came back.
    Exec,
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
            Self::Exec => "exec",
        }
    }
}

/// Connections for a request a second: enough for answers that take twenty seconds.
const CLIENTS_PER_RATE: f64 = 20.0;
const MAX_CLIENTS: f64 = 512.0;

impl Traffic {
    /// So many requests a second of a kind given by its name.
    ///
    /// # Errors
    /// When there is no such kind, or the rate is none.
    pub(crate) fn at(kind: &str, rate: f64) -> Result<Self, String> {
        const KNOWN: &[&str] = &["short", "list", "watch", "logs", "bulk", "upload", "exec"];
        let known = Kind::deserialize(IntoDeserializer::<ValueError>::into_deserializer(kind));
        let known = known.map_err(|_| runtime::yaml::unknown("value", kind, KNOWN))?;
        let traffic = Self {
            kind: known,
            rate: Some(rate),
            ..Self::default()
        };
        traffic.check().map(|()| traffic)
    }

    pub(crate) fn check(&self) -> Result<(), String> {
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
        let most = content::MAX_PIECE_BYTES as u64;
        if self.kind == Kind::Exec && self.bytes.is_some_and(|bytes| !(1..=most).contains(&bytes)) {
            return Err(format!("`bytes` of an exec must be from 1 to {most}"));
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

    /// How to send it where `base` says: the Kubernetes proxy, and who asks for how long.
    pub(crate) fn options(&self, base: &Options) -> Options {
        Options {
            url: format!("{}{}", base.url.trim_end_matches('/'), self.path()),
            clients: self.clients(),
            rate: self.rate,
            post: self.post(),
            exec: self.exec(),
            timeout: self.timeout.or(base.timeout),
            retries: self.retries.max(base.retries),
            read_kib_per_second: self.read_kib_per_second.or(base.read_kib_per_second),
            mix: Vec::new(),
            ..base.clone()
        }
    }

    /// The path that the agents' script answers in this kind's way.
    fn path(&self) -> String {
        let delay = match self.delay_ms {
            0 => String::new(),
            delay => format!("/delay/{delay}"),
        };
        format!("{delay}{}", self.answer())
    }

    fn answer(&self) -> String {
        let (events, every) = self.script();
        match self.kind {
            Kind::Short => format!("/json/{}", self.bytes.unwrap_or(4096)),
            Kind::List => format!("/json/{}", self.bytes.unwrap_or(256 << 10)),
            Kind::Watch | Kind::Logs => format!("/watch/{events}/{every}"),
            Kind::Bulk => format!("/bytes/{}", self.bytes.unwrap_or(64 << 20)),
            Kind::Upload => "/echo".to_owned(),
            Kind::Exec => "/exec".to_owned(),
        }
    }

    fn exec(&self) -> Option<Exec> {
        let (lines, every) = self.script();
        let bytes = usize::try_from(self.bytes.unwrap_or(256)).unwrap_or(usize::MAX);
        (self.kind == Kind::Exec).then_some(Exec {
            lines,
            bytes,
            every: Duration::from_millis(every),
        })
    }

    /// The length of the body that is sent, if one is.
    fn post(&self) -> Option<u64> {
        (self.kind == Kind::Upload).then(|| self.bytes.unwrap_or(1 << 20))
    }

    fn script(&self) -> (u64, u64) {
        let (events, every) = match self.kind {
            Kind::Logs => (200, 5),
            Kind::Exec => (10, 100),
            Kind::Short | Kind::List | Kind::Watch | Kind::Bulk | Kind::Upload => (10, 200),
        };
        (
            self.events.unwrap_or(events).max(1),
            self.every_ms.unwrap_or(every),
        )
    }
}

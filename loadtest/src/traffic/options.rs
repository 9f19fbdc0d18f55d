//! The command line of `loadtest traffic`.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{Exec, Traffic};

/// Users that `{user}` in a bearer token stands for.
pub(crate) const USERS: u64 = 16;
/// The length of a `--bulk` body.
const BULK_BYTES: u64 = 200 << 20;
/// Seconds that one request may take, unless told otherwise.
const TIMEOUT_SECONDS: f64 = 30.0;
const BULK_TIMEOUT_SECONDS: f64 = 300.0;

/// Requests to a Kubernetes proxy.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Options {
    /// What to get: http:// or https://host:port/path; with --mix the Kubernetes proxy itself.
    #[arg(long)]
    pub(crate) url: String,
    /// The bearer token; `{agent}` in it stands for each number of --agents in turn, and `{user}` for a number
    /// from 0 to 15 that goes with it.
    #[arg(long)]
    pub(crate) bearer: Option<String>,
    /// Agent ids for `{agent}` in the bearer token, as `1-2000`.
    #[arg(long, value_parser = range)]
    pub(crate) agents: Option<(u64, u64)>,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 1)]
    pub(crate) clients: usize,
    /// Seconds to go on for; 10 if no other end is given.
    #[arg(long)]
    pub(crate) duration: Option<f64>,
    /// Requests after which to end.
    #[arg(long)]
    pub(crate) requests: Option<u64>,
    /// Requests a second, begun on time whatever the answers do; without it
    /// each client sends its next request when it has the answer.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Sends a body of this length by POST, instead of GET.
    #[arg(long)]
    pub(crate) post: Option<u64>,
    /// One GET of 200 MiB: /bytes/209715200 under the URL.
    #[arg(long, conflicts_with_all = ["rate", "requests", "duration", "post"])]
    pub(crate) bulk: bool,
    /// Several kinds at once, each at its rate, as `short=50,list=5,watch=2,logs=1,exec=1,bulk=0.1`;
    /// agents must answer by the script of `loadtest fleet`.
    #[arg(long, value_delimiter = ',', value_parser = super::mix::part, conflicts_with_all = ["rate", "requests", "post", "bulk", "clients"])]
    pub(crate) mix: Vec<Traffic>,
    #[arg(skip)]
    pub(crate) exec: Option<Exec>,
    /// Seconds that one request may take.
    #[arg(long)]
    pub(crate) timeout: Option<f64>,
    /// How often a request is made again when its connection broke before an answer.
    #[arg(long, default_value_t = 0)]
    pub(crate) retries: u32,
    /// Read answers no faster than so many KiB a second.
    #[arg(long)]
    pub(crate) read_kib_per_second: Option<u32>,
    /// A CA certificate for https.
    #[arg(long)]
    pub(crate) ca_cert_file: Option<PathBuf>,
}

impl Options {
    pub(super) fn url(&self) -> String {
        if self.bulk {
            return format!("{}/bytes/{BULK_BYTES}", self.url.trim_end_matches('/'));
        }
        self.url.clone()
    }

    pub(super) fn clients(&self) -> usize {
        if self.bulk { 1 } else { self.clients.max(1) }
    }

    pub(super) fn requests(&self) -> Option<u64> {
        if self.bulk { Some(1) } else { self.requests }
    }

    pub(super) fn duration(&self) -> Option<Duration> {
        let seconds = match (self.duration, self.requests()) {
            (None, None) => Some(10.0),
            (given, _) => given,
        };
        seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }

    pub(super) fn read_rate(&self) -> Option<f64> {
        let kib = self.read_kib_per_second?;
        Some(f64::from(kib.max(1)) * 1024.0)
    }

    pub(super) fn timeout(&self) -> Duration {
        let default = if self.bulk {
            BULK_TIMEOUT_SECONDS
        } else {
            TIMEOUT_SECONDS
        };
        let seconds = self.timeout.unwrap_or(default);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u64>().map_err(|e| format!("{text:?}: {e}"));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!("{first} is above {last}"));
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_end_traffic_lasts_ten_seconds() {
        let mut options = Options::default();
        assert_eq!(options.duration(), Some(Duration::from_secs(10)));

        options.requests = Some(5);

        assert_eq!(options.duration(), None);
    }

    #[test]
    fn ranges_of_agents_are_read() {
        assert_eq!(range("1-2000"), Ok((1, 2000)));
        assert_eq!(range("7"), Ok((7, 7)));
        assert!(range("9-1").is_err() && range("a-b").is_err());
    }
}

//! What `kas up` tells while it runs: which replicas hold the agent, and what came of its own requests.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cluster_state::AgentId;
use playground::traffic::Counts;

use super::{cluster::Cluster, console::Console};

/// How often it is looked whether there are news.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What is counted where connections are cut.
pub(super) struct Counters {
    pub(super) requests: Arc<Counts>,
    pub(super) connections_cut: Arc<AtomicU64>,
}

/// Prints news, until cancelled.
pub(super) async fn run(
    cluster: &Cluster,
    agent: AgentId,
    counters: Option<&Counters>,
    console: &mut Console,
) -> Infallible {
    let (mut shown, mut failure) = (None, None);
    loop {
        match counters {
            // Where it is changes with each cut: too often for lines.
            Some(counters) => {
                let news = counters.requests.take_failure();
                if let Some(news) = news.filter(|news| failure.as_ref() != Some(news)) {
                    console.say(&format!("a request failed: {news}"));
                    failure = Some(news);
                }
                console.count(counters.to_string());
            }
            None => {
                let names = cluster.holders(agent);
                if shown.as_ref() != Some(&names) {
                    match &names[..] {
                        [] => console.say("agent demo: not connected"),
                        names => {
                            console.say(&format!("agent demo: connected to {}", names.join(", ")));
                        }
                    }
                    shown = Some(names);
                }
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

impl std::fmt::Display for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} requests, {} failed, {} connections cut",
            grouped(self.requests.requests()),
            grouped(self.requests.failed()),
            grouped(self.connections_cut.load(Ordering::Relaxed)),
        )
    }
}

/// With commas between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1284, "1,284"),
            (1_000_000, "1,000,000"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }
}

//! The life of a replica: what it has survived lately, and what it waits for when it leaves.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use runtime::drain::Drain;
use tokio_util::sync::CancellationToken;
use user_gateway::Metrics;

use crate::{
    replica::count,
    v1::{Survived, Waiting},
};

/// How often it is noted what was survived until then.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(60);
/// Notes that are kept: an hour of them.
const SAMPLES: usize = 60;

/// The drains of a replica's ports.
#[derive(Debug, Clone)]
pub struct Drains {
    /// That of the users' port, which begins first.
    pub users: Drain,
    /// That of the other replicas' port.
    pub peers: Drain,
    /// That of GitLab's port.
    pub gitlab: Drain,
}

/// What a replica knows of its life. Clones share it.
#[derive(Debug, Clone)]
pub struct Life(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    requests: Metrics,
    tunnels_lost: Counter,
    drains: Drains,
    samples: Mutex<VecDeque<Sample>>,
}

/// What was counted until a moment.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    tunnels_lost: u64,
    replays: u64,
    resumes: u64,
}

impl Life {
    /// That of a replica which counts its requests and its lost tunnels here.
    #[must_use]
    pub fn new(requests: Metrics, tunnels_lost: Counter, drains: Drains) -> Self {
        Self(Arc::new(Inner {
            requests,
            tunnels_lost,
            drains,
            samples: Mutex::default(),
        }))
    }

    /// Notes once a minute what was counted, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let both = async { tokio::join!(self.note(), self.end_minutes()) };
        stop.run_until_cancelled(both).await;
    }

    /// Tells what counts agents' requests when a minute of the clock is over, so that all replicas have the same ones.
    async fn end_minutes(&self) {
        loop {
            let since = Timestamp::now().duration_since(Timestamp::UNIX_EPOCH);
            let since = Duration::try_from(since).unwrap_or_default();
            let minute = since.as_secs() / SAMPLE_INTERVAL.as_secs();
            let end = SAMPLE_INTERVAL * u32::try_from(minute + 1).unwrap_or(u32::MAX);
            tokio::time::sleep(end.saturating_sub(since)).await;
            self.0.requests.end_minute(minute);
        }
    }

    async fn note(&self) {
        loop {
            tokio::time::sleep(SAMPLE_INTERVAL).await;
            let now = self.count();
            let mut samples = self
                .0
                .samples
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if samples.len() >= SAMPLES {
                samples.pop_front();
            }
            samples.push_back(now);
        }
    }

    /// What broke in the last hour and cost no request.
    pub(crate) fn survived(&self) -> Survived {
        let samples = self
            .0
            .samples
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let minutes = samples.len();
        // Until there is an hour of notes, all was since the start.
        let before = match samples.front() {
            Some(first) if minutes >= SAMPLES => *first,
            Some(_) | None => Sample::default(),
        };
        let now = self.count();
        Survived {
            tunnels_lost: now.tunnels_lost.saturating_sub(before.tunnels_lost),
            replays: now.replays.saturating_sub(before.replays),
            resumes: now.resumes.saturating_sub(before.resumes),
            minutes: count(minutes),
        }
    }

    /// What is waited for, once the replica leaves.
    pub(crate) fn waiting(&self, agents: usize) -> Option<Waiting> {
        let drains = &self.0.drains;
        drains.users.announced().then(|| Waiting {
            agents: count(agents),
            users: count(drains.users.in_progress()),
            peers: count(drains.peers.in_progress()),
            gitlab: count(drains.gitlab.in_progress()),
        })
    }

    fn count(&self) -> Sample {
        let (replays, resumes) = self.0.requests.survived();
        Sample {
            tunnels_lost: self.0.tunnels_lost.get(),
            replays,
            resumes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_an_hour_is_left_out() {
        let (lost, drain) = (Counter::default(), Drain::new());
        let drains = Drains {
            users: drain.clone(),
            peers: drain.clone(),
            gitlab: drain.clone(),
        };
        let life = Life::new(Metrics::default(), lost.clone(), drains);
        tokio::spawn(life.clone().run(CancellationToken::new()));
        lost.inc_by(5);

        tokio::time::sleep(SAMPLE_INTERVAL * 3 / 2).await;
        let told = life.survived();
        assert_eq!((told.tunnels_lost, told.minutes), (5, 1));
        assert_eq!(life.waiting(1), None);
        lost.inc_by(2);
        tokio::time::sleep(SAMPLE_INTERVAL * 59).await;
        assert_eq!(life.survived().tunnels_lost, 2);
        tokio::time::sleep(SAMPLE_INTERVAL).await;
        let told = life.survived();
        assert_eq!((told.tunnels_lost, told.minutes), (0, 60));

        drain.announce();
        assert_eq!(life.waiting(3).map(|it| it.agents), Some(3));
    }
}

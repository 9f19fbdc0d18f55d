//! A simulated agent connects, and connects again, until the fleet ends.

use std::{
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use runtime::backoff::Backoff;
use tokio::time::{Instant, sleep};

use super::{
    agent::Agent,
    session::{End, Session},
};

/// Connections that may finish their calls beside the current one.
const MAX_DRAINING: usize = 2;

/// How long an impatient agent waits before it connects again.
const IMPATIENT_BACKOFF: Duration = Duration::from_millis(10);

/// What GitLab's agentk remembers of connections that were cut: each of its
/// tunnels backs off on its own, from 1 s to 20 s, until 25 s went well.
struct TunnelBackoffs {
    tunnels: Vec<Backoff>,
    waiting: bool,
}

impl TunnelBackoffs {
    fn new(tunnels: usize) -> Self {
        let backoff = || Backoff::new(Duration::from_secs(1), Duration::from_secs(20), 1.6);
        Self {
            tunnels: (0..tunnels).map(|_| backoff()).collect(),
            waiting: false,
        }
    }

    fn after(&mut self, end: &End, well_for: Duration) {
        if well_for >= Duration::from_secs(25) {
            self.tunnels.iter_mut().for_each(Backoff::reset);
        }
        self.waiting = matches!(end, End::Lost);
    }

    /// How long each tunnel of the next connection waits.
    fn delays(&mut self) -> Vec<Duration> {
        if !self.waiting {
            return Vec::new();
        }
        let next = |backoff: &mut Backoff| backoff.next(rand::random());
        self.tunnels.iter_mut().map(next).collect()
    }
}

type Draining = FuturesUnordered<Pin<Box<dyn Future<Output = ()> + Send>>>;

impl Agent {
    /// Runs until it is dropped.
    pub(super) async fn run(self: Arc<Self>) {
        let mut round = self.fleet.round.subscribe();
        let place = Duration::try_from_secs_f64(self.number as f64 / self.fleet.ramp);
        let place = place.unwrap_or_default();
        let mut delay = place;
        loop {
            round.mark_unchanged();
            tokio::select! {
                () = self.connect_again_and_again(delay) => {}
                changed = round.changed() => {
                    if changed.is_err() { return }
                    delay = place;
                    self.fleet.stats.churned.fetch_add(1, Relaxed);
                }
                () = self.tired() => {
                    delay = Duration::ZERO;
                    self.fleet.stats.dropped.fetch_add(1, Relaxed);
                }
            }
        }
    }

    /// Ready when the agent is to drop its connection, which any moment may bring as well as another.
    async fn tired(&self) {
        let Some(lifetime) = self.fleet.lifetime else {
            return std::future::pending().await;
        };
        self.fleet.settled.cancelled().await;
        let even: f64 = rand::random();
        let lives = Duration::try_from_secs_f64(-lifetime.as_secs_f64() * (1.0 - even).ln());
        sleep(lives.unwrap_or(Duration::MAX)).await;
    }

    async fn connect_again_and_again(self: &Arc<Self>, delay: Duration) {
        sleep(delay).await;
        // grpc-go's own backoff.
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(120), 1.6);
        let mut draining = Draining::new();
        let mut backoffs = TunnelBackoffs::new(self.fleet.tunnels);
        for attempt in 0.. {
            let delays = if self.fleet.eager {
                Vec::new()
            } else {
                backoffs.delays()
            };
            match beside(&mut draining, Session::open(self.clone(), attempt, delays)).await {
                Ok(session) => {
                    self.fleet.stats.connections.fetch_add(1, Relaxed);
                    backoff.reset();
                    let opened = Instant::now();
                    let end = beside(&mut draining, session.run()).await;
                    backoffs.after(&end, opened.elapsed());
                    if let End::Leaving(session) = end {
                        if draining.len() < MAX_DRAINING {
                            draining.push(Box::pin(session.drain()));
                        }
                        continue;
                    }
                    self.fleet.stats.failed("connection lost");
                }
                Err(error) => self.fleet.stats.failed(&format!("connect: {error}")),
            }
            let pause = match self.fleet.impatient {
                true => IMPATIENT_BACKOFF,
                false => backoff.next(rand::random()),
            };
            beside(&mut draining, sleep(pause)).await;
        }
    }
}

/// Awaits `main` while `others` go on.
async fn beside<T>(others: &mut Draining, main: impl Future<Output = T>) -> T {
    let mut main = pin!(main);
    loop {
        tokio::select! {
            result = &mut main => return result,
            Some(()) = others.next(), if !others.is_empty() => {}
        }
    }
}

//! A place for one tunnel after the other.

use std::{sync::Arc, time::Duration};

use runtime::{backoff::Backoff, tunnel::Next};
use tokio::time::Instant;

use super::{Shared, Tunnel, carry};

const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(20);
const BACKOFF_FACTOR: f64 = 1.6;
/// How long an idle tunnel that load balancers see is kept: they cut silent streams, commonly after 60 s.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(45);

/// How a tunnel ended.
enum End {
    /// It carried a call.
    Served,
    /// It was silent for as long as it may be.
    Silent,
    /// The agent ended it, or it could not be opened.
    Failed,
    /// No calls are taken any more.
    Leaving,
}

/// Keeps a tunnel open, as long as it is needed.
pub(super) async fn run(shared: Arc<Shared>, mut open: Option<Tunnel>) {
    let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX, BACKOFF_FACTOR);
    let mut used: Option<Instant> = None;
    loop {
        let end = match open.take() {
            Some(tunnel) => keep(&shared, tunnel).await,
            None => match shared.agent.open().await {
                Ok(tunnel) => keep(&shared, tunnel).await,
                Err(error) => {
                    tracing::debug!(%error, "could not open a tunnel to a receptive agent");
                    End::Failed
                }
            },
        };
        match end {
            End::Served => {
                used = Some(Instant::now());
                backoff.reset();
                continue;
            }
            End::Leaving => return shared.pool().closed(),
            End::Silent | End::Failed => {}
        }
        let unused = used.map(|used| used.elapsed());
        if shared.pool().idle_ended(unused) == Next::Stop {
            return;
        }
        if matches!(end, End::Failed) {
            // Without a pause, an agent that ends tunnels at once would be asked in a tight loop.
            tokio::select! {
                () = tokio::time::sleep(backoff.next(rand::random())) => {}
                () = shared.leaving.cancelled() => return shared.pool().closed(),
            }
        }
    }
}

async fn keep(shared: &Arc<Shared>, mut tunnel: Tunnel) -> End {
    let silent = async {
        if !shared.agent.seen {
            return std::future::pending().await;
        }
        let jitter = 1.0 - 0.25 * rand::random::<f64>();
        tokio::time::sleep(SILENCE_TIMEOUT.mul_f64(jitter)).await;
    };
    tokio::select! {
        // A call that has arrived is carried, whatever else happens.
        biased;
        call = tunnel.call() => if let Err(error) = call {
            tracing::debug!(%error, "an idle tunnel to a receptive agent ended");
            tunnel.outbound.cancel();
            return End::Failed;
        },
        () = shared.leaving.cancelled() => {
            tunnel.outbound.refuse();
            return End::Leaving;
        }
        () = silent => {
            tunnel.outbound.refuse();
            return End::Silent;
        }
    }
    let more = shared.pool().call_began();
    for _ in 0..more {
        shared.spawn(None);
    }
    carry::carry(tunnel, &shared.gateway).await;
    shared.pool().call_ended();
    End::Served
}

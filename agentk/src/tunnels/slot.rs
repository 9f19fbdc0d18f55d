//! A slot of the pool: opens a tunnel, waits for a call, carries it, and begins again.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};

use runtime::tunnel::Next;

use super::{
    Tunnels, retiring,
    tunnel::{self, Tunnel},
};
use crate::{
    backoff::StreamBackoff,
    call::TunnelError,
    session::{Connection, Uplink, is_refusal, retry_after},
};

const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(20);

/// Where a slot opens its tunnels.
#[derive(Debug)]
pub(super) enum Placement {
    /// On one line, which thus always has an idle tunnel.
    Line(Uplink),
    /// On the line with the fewest idle tunnels.
    Anywhere(Uplink),
}

impl Placement {
    async fn connection(&self) -> Connection {
        match self {
            Self::Line(uplink) => uplink.connection().await,
            Self::Anywhere(uplink) => uplink.least_loaded().await,
        }
    }

    fn uplink(&self) -> &Uplink {
        match self {
            Self::Line(uplink) | Self::Anywhere(uplink) => uplink,
        }
    }
}

/// How one attempt ended.
enum Attempt {
    /// It carried a call.
    Served,
    /// It carried nothing.
    Idle(TunnelError),
    /// Its connection drains and another takes over; this tunnel is still usable.
    Replaced(Box<Tunnel>),
    /// The agent stops.
    Stopped,
}

/// Opens tunnels, one after the other, as long as the pool needs this slot.
pub(super) async fn run(tunnels: Tunnels, placement: Placement) {
    let shared = &tunnels.0;
    let mut backoff = StreamBackoff::new(BACKOFF_MIN, BACKOFF_MAX);
    let mut used = None;
    loop {
        let connection = tokio::select! {
            connection = placement.connection() => connection,
            () = shared.stop.cancelled() => break,
        };
        let begin = Instant::now();
        let delay = match attempt(&tunnels, &placement, &connection).await {
            Attempt::Stopped => break,
            Attempt::Replaced(tunnel) => {
                shared.tasks.spawn(retiring::run(tunnels.clone(), *tunnel));
                continue;
            }
            Attempt::Served => {
                used = Some(Instant::now());
                backoff.reset();
                continue;
            }
            Attempt::Idle(error) => {
                let unused = used.map(|used: Instant| used.elapsed());
                if matches!(placement, Placement::Anywhere(_))
                    && tunnels.pool().idle_ended(unused) == Next::Stop
                {
                    tunnels.update_metrics();
                    return;
                }
                delay(error, begin.elapsed(), &connection, &mut backoff).await
            }
        };
        // Without a delay, a server that refuses streams at once would be asked in a tight loop.
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = shared.stop.cancelled() => break,
        }
    }
    tunnels.pool().closed();
    tunnels.update_metrics();
}

/// How long to wait after a tunnel that carried nothing.
async fn delay(
    error: TunnelError,
    lifetime: Duration,
    connection: &Connection,
    backoff: &mut StreamBackoff,
) -> Duration {
    match error {
        TunnelError::Ended(status) if in_order(&status) => {
            backoff.after_end(lifetime, rand::random())
        }
        TunnelError::Ended(status) => {
            connection.note_failure(&status);
            if !is_refusal(&status) && !connection.is_draining() {
                tracing::warn!(code = ?status.code(), error = status.message(), "kas ended an idle tunnel with an error");
            }
            let asked = retry_after(&status).unwrap_or_default();
            let delay = if is_refusal(&status) {
                backoff.after_refusal(rand::random())
            } else {
                backoff.after_failure(lifetime, rand::random())
            };
            delay.max(asked)
        }
        TunnelError::Broken(status) if status.code() == Code::Cancelled => {
            backoff.after_end(lifetime, rand::random())
        }
        // The session sees to the next connection.
        TunnelError::Broken(_) if connection.is_ending().await => Duration::ZERO,
        TunnelError::Broken(status) => {
            tracing::debug!(code = ?status.code(), error = status.message(), "idle tunnel broke");
            backoff.after_failure(lifetime, rand::random())
        }
        TunnelError::Protocol(status) => {
            tracing::warn!(error = status.message(), "kas violated the tunnel protocol");
            backoff.after_failure(lifetime, rand::random())
        }
    }
}

fn in_order(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Ok | Code::Cancelled | Code::DeadlineExceeded
    )
}

async fn attempt(tunnels: &Tunnels, placement: &Placement, connection: &Connection) -> Attempt {
    let shared = &tunnels.0;
    let mut tunnel = match tunnel::open(tunnels, connection).await {
        Ok(tunnel) => tunnel,
        Err(status) => return Attempt::Idle(TunnelError::Broken(status)),
    };
    let idle = connection.idle_tunnel();
    let info = tokio::select! {
        // A call that has arrived is carried, whatever else happens.
        biased;
        info = tunnel.call() => match info {
            Ok(info) => info,
            Err(error) => {
                tunnel.outbound.cancel();
                return Attempt::Idle(error);
            }
        },
        () = placement.uplink().until_other_than(connection) => {
            return Attempt::Replaced(Box::new(tunnel));
        }
        () = shared.stop.cancelled() => {
            tunnel.outbound.refuse();
            return Attempt::Stopped;
        }
    };
    drop(idle);
    tunnels.call_began();
    tunnel.carry(tunnels, &info).await;
    tunnels.call_ended();
    Attempt::Served
}

//! One place in the pool: opens a tunnel, waits for a call, carries it, again.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};

use super::{
    Tunnels,
    pool::Next,
    retiring,
    tunnel::{self, Tunnel},
};
use crate::{
    backoff::StreamBackoff,
    call::TunnelError,
    session::{Connection, Uplink, is_refusal, retry_after},
};

const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(20);

/// Where a place in the pool opens its tunnels.
#[derive(Debug)]
pub(super) enum Home {
    /// On one line, which thus always has a tunnel.
    Line(Uplink),
    /// Where the fewest idle tunnels are.
    Anywhere(Uplink),
}

impl Home {
    async fn connection(&self) -> Connection {
        match self {
            Self::Line(uplink) => uplink.connection().await,
            Self::Anywhere(uplink) => uplink.lightest().await,
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
    /// Another connection takes over; this tunnel is still good.
    Replaced(Box<Tunnel>),
    /// The agent stops.
    Stopped,
}

/// Opens tunnels, one after the other, as long as the pool wants this one.
pub(super) async fn run(tunnels: Tunnels, home: Home) {
    let shared = &tunnels.0;
    let mut backoff = StreamBackoff::new(MIN_BACKOFF, MAX_BACKOFF);
    let mut used = None;
    loop {
        let connection = tokio::select! {
            connection = home.connection() => connection,
            () = shared.stop.cancelled() => break,
        };
        let begin = Instant::now();
        let delay = match attempt(&tunnels, &home, &connection).await {
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
            Attempt::Idle(end) => {
                let unused = used.map(|used: Instant| used.elapsed());
                if matches!(home, Home::Anywhere(_))
                    && tunnels.pool().idle_ended(unused) == Next::Stop
                {
                    tunnels.show();
                    return;
                }
                after(end, begin.elapsed(), &connection, &mut backoff).await
            }
        };
        // Without this, a server that refuses streams at once would be asked for ever.
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = shared.stop.cancelled() => break,
        }
    }
    tunnels.pool().gone();
    tunnels.show();
}

/// How long to wait after a tunnel that carried nothing.
async fn after(
    end: TunnelError,
    lived: Duration,
    connection: &Connection,
    backoff: &mut StreamBackoff,
) -> Duration {
    match end {
        TunnelError::Ended(status) if in_order(&status) => backoff.after_end(lived, rand::random()),
        TunnelError::Ended(status) => {
            connection.judge(&status);
            if !is_refusal(&status) && !connection.is_left() {
                tracing::warn!(%status, "kas ended a tunnel");
            }
            let asked = retry_after(&status).unwrap_or_default();
            let delay = if is_refusal(&status) {
                backoff.after_refusal(rand::random())
            } else {
                backoff.after_failure(lived, rand::random())
            };
            delay.max(asked)
        }
        TunnelError::Broken(status) if status.code() == Code::Cancelled => {
            backoff.after_end(lived, rand::random())
        }
        // The session sees to the next connection.
        TunnelError::Broken(_) if connection.ends().await => Duration::ZERO,
        TunnelError::Broken(status) => {
            tracing::debug!(%status, "a tunnel broke");
            backoff.after_failure(lived, rand::random())
        }
        TunnelError::Protocol(status) => {
            tracing::warn!(%status, "kas broke the protocol of tunnels");
            backoff.after_failure(lived, rand::random())
        }
    }
}

fn in_order(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Ok | Code::Cancelled | Code::DeadlineExceeded
    )
}

async fn attempt(tunnels: &Tunnels, home: &Home, connection: &Connection) -> Attempt {
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
            Err(lost) => {
                tunnel.outbound.cancel();
                return Attempt::Idle(lost);
            }
        },
        () = home.uplink().other_than(connection) => {
            return Attempt::Replaced(Box::new(tunnel));
        }
        () = shared.stop.cancelled() => {
            tunnel.outbound.give_back();
            return Attempt::Stopped;
        }
    };
    drop(idle);
    tunnels.call_began();
    tunnel.carry(tunnels, &info).await;
    tunnels.call_ended();
    Attempt::Served
}

//! An idle tunnel of a connection that drains: another has taken its place, but it is good for a
//! call until kas ends it.

use std::time::Duration;

use super::{Tunnels, tunnel::Tunnel};

/// How long kas may take to end the idle tunnels of a connection on which it sent GOAWAY: GitLab's does so at 30 % of
/// the connection's age, after 18 % to 22 %.
const AFTER_GOAWAY_TIMEOUT: Duration = Duration::from_secs(1800);
/// How long a tunnel is kept when it is the agent who leaves the connection.
const AFTER_LEAVING_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits for the tunnel's end, or for its last call.
pub(super) async fn run(tunnels: Tunnels, mut tunnel: Tunnel) {
    let limit = if tunnel.connection.has_goaway() {
        AFTER_GOAWAY_TIMEOUT
    } else {
        AFTER_LEAVING_TIMEOUT
    };
    let info = tokio::select! {
        // A call that has arrived is carried, whatever else happens.
        biased;
        info = tunnel.call() => info,
        () = tokio::time::sleep(limit) => return tunnel.outbound.refuse(),
        () = tunnels.0.stop.cancelled() => return tunnel.outbound.refuse(),
    };
    match info {
        Ok(info) => {
            tunnels.uncounted_call_began();
            tunnel.carry(&tunnels, &info).await;
            tunnels.uncounted_call_ended();
        }
        Err(_) => tunnel.outbound.cancel(),
    }
}

//! An idle tunnel of a connection that is left: another has taken its place, but
//! it is good for a call until kas ends it.

use std::time::Duration;

use super::{
    Tunnels,
    slot::{self, Tunnel},
};

/// How long kas may take to end the idle tunnels of a connection that it wants
/// to end: GitLab's does so at 30 % of the connection's age, after 18 % to 22 %.
const SERVER_ENDS: Duration = Duration::from_secs(1800);
/// How long a tunnel is kept when it is the agent who leaves.
const AGENT_ENDS: Duration = Duration::from_secs(5);

/// Waits for the tunnel's end, or for its last call.
pub(super) async fn run(tunnels: Tunnels, mut tunnel: Tunnel) {
    let limit = if tunnel.connection.is_ended_by_server() {
        SERVER_ENDS
    } else {
        AGENT_ENDS
    };
    let info = tokio::select! {
        // A call that is here already is carried, whatever else happens.
        biased;
        info = slot::begin(&mut tunnel.inbound) => info,
        () = tokio::time::sleep(limit) => return tunnel.outbound.give_back(),
        () = tunnels.0.stop.cancelled() => return tunnel.outbound.give_back(),
    };
    match info {
        Ok(info) => {
            tunnels.extra_began();
            slot::carry(&tunnels, &info, tunnel).await;
            tunnels.extra_ended();
        }
        Err(_) => tunnel.outbound.cancel(),
    }
}

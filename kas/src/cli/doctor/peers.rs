//! The other replicas: each is reached at the URL that it publishes, and proves that it is there.

use cluster_state::Lease;
use runtime::doctor::{Fault, Finding, Report, check_clock};
use tokio::time::timeout;

use super::PART_TIMEOUT;
use crate::{
    app::peers,
    config::Config,
    private_api::{Identified, identify},
};

/// Replicas that are dialled.
const MAX_PEERS: usize = 50;

/// Looks at the replicas that have leases, the running one of this configuration among them.
pub(super) async fn examine(config: &Config, leases: &[Lease], report: &mut Report) {
    let Some(listen) = config.private_api.as_ref().map(|it| &it.listen) else {
        return;
    };
    let own = match peers::own_address(listen) {
        Ok(own) => own,
        Err(error) => {
            let finding = Finding::failed(Fault::Configuration, format!("{error:#}"));
            report.add("kas", "own URL", finding);
            return;
        }
    };
    let url = own.url.clone();
    let Ok(settings) = peers::settings(listen, own) else {
        // The configuration's own check has said so.
        return;
    };
    let is_published = leases.iter().any(|it| it.url == url);
    let seen = match is_published {
        true => format!("{url}: replicas reach this one there, see the peer of this URL"),
        false => format!(
            "{url} would be published; no running replica of this configuration has a lease"
        ),
    };
    report.add("kas", "own URL", Finding::ok(seen));
    for lease in leases.iter().take(MAX_PEERS) {
        let hop = format!("replica {} at {}", lease.replica, lease.url);
        let asked = timeout(PART_TIMEOUT, identify(&lease.url, &settings)).await;
        let finding = match asked {
            Err(_) => Finding::failed(
                Fault::PeerUnreachable,
                format!("no answer within {PART_TIMEOUT:?}"),
            ),
            Ok(Identified::Replica { id, clock }) => {
                if let Some((time, took)) = clock {
                    check_clock(report, &hop, time, took);
                }
                match id == lease.replica.to_string() {
                    true => Finding::ok(format!("reached, version {}", lease.version)),
                    false => Finding::warning(
                        Fault::PeerUnknown,
                        format!(
                            "replica {id} answers there: this one has ended, or both publish one URL"
                        ),
                    ),
                }
            }
            Ok(Identified::Stranger(why)) => Finding::failed(Fault::PeerUnknown, why),
            Ok(Identified::Nobody(why)) => Finding::failed(Fault::PeerUnreachable, why),
        };
        report.add(&hop, "private API", finding);
    }
}

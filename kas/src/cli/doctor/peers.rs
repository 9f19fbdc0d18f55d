//! The other replicas: each is reached at the URL that it publishes, and proves that it is there; then each is asked
//! whether it reaches the others, since a way need not lead both ways.

use std::collections::BTreeSet;

use admin::{dial, v1::DialedPeer};
use cluster_state::Lease;
use router::peers::Peers;
use runtime::doctor::{Fault, Finding, Report, check_clock};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::PART_TIMEOUT;
use crate::{
    app::peers,
    config::Config,
    private_api::{self, Identified, identify},
    replica::PeerSettings,
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
        true => format!("{url}: replicas reach this one there, see what they say"),
        false => format!(
            "{url} would be published; no running replica of this configuration has a lease"
        ),
    };
    report.add("kas", "own URL", Finding::ok(seen));
    let leases = &leases[..leases.len().min(MAX_PEERS)];
    let mut reached = BTreeSet::new();
    for lease in leases {
        if dial_one(lease, &settings, report).await {
            reached.insert(lease.replica.to_string());
        }
    }
    ask_all(leases, &reached, &settings, report).await;
}

fn hop(lease: &Lease) -> String {
    format!("replica {} at {}", lease.replica, lease.url)
}

/// Whether a replica is reached from here.
async fn dial_one(lease: &Lease, settings: &PeerSettings, report: &mut Report) -> bool {
    let hop = hop(lease);
    let asked = timeout(PART_TIMEOUT, identify(&lease.url, settings)).await;
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
                true => {
                    let seen = format!("reached, version {}", lease.version);
                    return report.add(&hop, "private API", Finding::ok(seen));
                }
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
    false
}

/// Asks those that were reached whether they reach each other.
async fn ask_all(
    leases: &[Lease],
    reached: &BTreeSet<String>,
    settings: &PeerSettings,
    report: &mut Report,
) {
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let dial = private_api::dial(settings.dial.clone(), &settings.own);
    let peers = Peers::new(dial, settings.tokens.clone(), stop);
    let asked = leases
        .iter()
        .filter(|it| reached.contains(&it.replica.to_string()));
    for lease in asked {
        let answer = timeout(PART_TIMEOUT, dial::dialed_by(&peers, &lease.url)).await;
        let answer = answer.unwrap_or_else(|_| {
            let why = format!("no answer within {PART_TIMEOUT:?}");
            Err(Status::deadline_exceeded(why))
        });
        let own = lease.replica.to_string();
        let finding = both_ways(&own, answer, reached);
        report.add(&hop(lease), "reaches the others", finding);
    }
}

/// What the replica `own` says about its ways to the others. Those that are not reached from here are named already.
fn both_ways(
    own: &str,
    answer: Result<Vec<DialedPeer>, Status>,
    reached: &BTreeSet<String>,
) -> Finding {
    let dialed = match answer {
        Ok(dialed) => dialed,
        Err(refusal) if dial::is_older(&refusal) => {
            return Finding::not_checked("its version cannot be asked");
        }
        Err(refusal) => return Finding::not_checked(refusal.message()),
    };
    let known: Vec<_> = dialed
        .into_iter()
        .filter(|it| reached.contains(&it.replica))
        .collect();
    let failed = known.iter().filter(|it| !it.problem.is_empty());
    let failed: Vec<_> = failed
        .map(|it| format!("replica {} at {}: {}", it.replica, it.url, it.problem))
        .collect();
    if !failed.is_empty() {
        return Finding::failed(
            Fault::PeerUnreachable,
            format!("it does not reach {}", failed.join("; ")),
        );
    }
    let is_unknown = |it: &&String| *it != own && known.iter().all(|peer| peer.replica != **it);
    match reached.iter().find(is_unknown) {
        None => Finding::ok(match known.len() {
            1 => "it reaches the other replica".to_owned(),
            number => format!("it reaches {number} other replicas"),
        }),
        // One that has just started learns of the others within seconds.
        Some(other) => Finding::not_checked(format!("it does not know of replica {other} yet")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_that_leads_one_way_only_is_named_and_one_that_leads_nowhere_is_not_named_twice() {
        let dialed = |replica: &str, problem: &str| DialedPeer {
            replica: replica.into(),
            url: "grpc://10.0.0.2:8155".into(),
            problem: problem.into(),
        };
        let reached = ["a", "b"].map(str::to_owned).into();
        let judge = |answer| {
            let mut report = Report::default();
            report.add("hop", "check", both_ways("a", answer, &reached));
            report.to_string()
        };

        let whole = judge(Ok(vec![dialed("b", ""), dialed("gone", "refused")]));
        let broken = judge(Ok(vec![dialed("b", "connection refused")]));
        let new = judge(Ok(Vec::new()));
        let older = judge(Err(Status::unimplemented("")));

        assert!(whole.contains("it reaches the other replica"), "{whole}");
        assert!(
            broken.contains("does not reach replica b at grpc://10.0.0.2:8155: connection refused"),
            "{broken}"
        );
        assert!(new.contains("does not know of replica b yet"), "{new}");
        assert!(older.contains("cannot be asked"), "{older}");
    }
}

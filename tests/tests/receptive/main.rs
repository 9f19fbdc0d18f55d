//! Agents that kas dials, of a real cluster, behind a load balancer, with several
//! replicas: one dials, and when it dies another does, and kubectl waits meanwhile.

mod site;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use site::{REPLICAS, Site, Way};
use tests::{
    haproxy::Front,
    kube::Cluster,
    parts::{self, Part, skipped},
};
use tokio::time::Instant;

const NEEDS: &[Part] = &[Part::Cluster, Part::Haproxy, Part::Redis];
/// How long a replica's lease lasts that is not renewed.
const LEASE: Duration = Duration::from_secs(15);
/// How often replicas renew theirs, and look at those of others.
const RENEWAL: Duration = Duration::from_secs(5);
/// How long one whose lease is over is waited for that is asked whether it lives.
const ASKED: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(60);
/// kubectl commands that come while nobody has dialled the agent.
const HELD: usize = 8;

/// What others see of the owner's end.
#[derive(Debug, Clone, Copy)]
enum End {
    /// Its port refuses: the process was killed.
    Killed,
    /// Nothing but that its lease stands still, as when a machine is lost.
    Lost,
}

impl End {
    /// When another must have dialled.
    fn deadline(self) -> Duration {
        match self {
            Self::Killed => LEASE,
            // The last renewal is seen one look later, and its age is noticed at another; a busy machine is late with each.
            Self::Lost => LEASE + 3 * RENEWAL + ASKED,
        }
    }
}

const WAYS: &[Way] = &[
    Way {
        name: "by token over gRPC, TLS ended by the load balancer",
        front: Front::Agents,
        scheme: "grpcs",
        mutual: false,
    },
    Way {
        name: "by token over WebSocket, TLS ended by the load balancer",
        front: Front::Agents,
        scheme: "wss",
        mutual: false,
    },
    Way {
        name: "by certificate",
        front: Front::Tcp,
        scheme: "grpcs",
        mutual: true,
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_dials_within_the_lease_when_the_owner_is_killed() -> Result<()> {
    if skipped(
        "another_dials_within_the_lease_when_the_owner_is_killed",
        NEEDS,
    ) {
        return Ok(());
    }
    let cluster = Cluster::up().await?;

    let checked = async {
        for way in WAYS {
            let checked = another_dials(*way, End::Killed, &cluster).await;
            checked.context(way.name)?;
        }
        let way = WAYS[0];
        let checked = another_dials(way, End::Lost, &cluster).await;
        checked.context("its machine is lost")
    };
    let checked = checked.await;

    cluster.down().await?;
    checked
}

async fn another_dials(way: Way, end: End, cluster: &Cluster) -> Result<()> {
    let mut site = Site::start(way, cluster).await?;
    let owner = site.owner(SOON).await?;
    // Replicas that have just started may each have dialled. Now all are served by the one, on connections whose end tells
    // them that it was killed.
    let all = try_join_all((0..REPLICAS).map(|number| site.works_through(number)));
    all.await.with_context(|| site.tails())?;

    let killed = Instant::now();
    match end {
        End::Killed => site.replicas.members[owner].kill().await?,
        End::Lost => site.replicas.members[owner].process.signal("KILL").await?,
    }
    let others = (0..REPLICAS).filter(|it| *it != owner).cycle().take(HELD);
    let held = try_join_all(others.map(|number| site.works_through(number)));
    let dialled = async {
        let next = site.owner(end.deadline()).await?;
        anyhow::Ok((next, killed.elapsed()))
    };
    let (held, dialled) = tokio::join!(held, dialled);

    held.with_context(|| site.tails())?;
    let (next, after) = dialled?;
    ensure!(next != owner, "who was killed has dialled");
    let name = way.name;
    parts::say(&format!(
        "{end:?}, {name}: another had dialled after {after:?}"
    ));
    site.replicas.restart(owner).await?;
    site.owner(SOON).await?;
    let all = try_join_all((0..REPLICAS).map(|number| site.works_through(number)));
    all.await.map(drop).with_context(|| site.tails())
}

//! Load that spreads: a replica with far more agents than the others asks some of them to move.
//!
//! Nobody tells an agent where to go: it is asked to leave as if its connection were old, opens another by the load
//! balancer before the old one ends, and may come back. So only a part of the difference moves at a time, and a
//! replica to which they all come back gives up for a while.

use std::{sync::Arc, time::Duration};

use cluster_state::{Load, MemberState, ReplicaId, RoutingTable, StoreHealth};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    AgentGateway,
    connections::{has_room, is_nearly_full},
};

/// How often a replica compares itself with the others: leases are renewed twice as often.
const INTERVAL: Duration = Duration::from_secs(10);
/// It begins when a replica has this share of the mean more than the mean, in percent, ...
const BEGIN_PERCENT: u64 = 10;
/// ... and goes on down to this one.
const END_PERCENT: u64 = 2;
/// The same for small numbers, in connections: of a few, one more is nothing.
const BEGIN_EXCESS: u64 = 5;
/// The part of the excess that moves at a time.
const PART: u64 = 3;
/// Connections that are asked at a time, at most: half as many in a second as in a drain.
const MAX_AT_A_TIME: u64 = 1000;
/// After so many times it is looked whether that has helped.
const ROUND: u32 = 3;
/// The part of those asked by which a replica has fewer connections, at least, if that has helped.
const HELPED_PART: u64 = 10;
/// How long to leave it if it has not helped, the first time; twice as long each time from then on, ...
const PAUSE: Duration = Duration::from_secs(600);
/// ... up to this.
const MAX_PAUSE: Duration = Duration::from_secs(6 * 3600);

/// Decides how many connections are asked to leave. Pure.
#[derive(Debug, Default)]
struct Rebalancing {
    round: Option<Round>,
    paused_until: Option<Instant>,
    /// How often in a row it has not helped.
    failures: u32,
}

/// A few decisions in a row.
#[derive(Debug)]
struct Round {
    /// Connections at its beginning.
    began_with: u64,
    asked: u64,
    times: u32,
}

/// What comes of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// All stay.
    Stay,
    /// So many are asked to leave.
    Ask(u64),
    /// They come back: nobody is asked for so long.
    GiveUp(Duration),
}

impl Rebalancing {
    /// With so many connections here, and so many at each of the other replicas.
    fn decide(&mut self, own: u64, others: &[u64], now: Instant) -> Decision {
        if self.paused_until.is_some_and(|until| now < until) {
            return Decision::Stay;
        }
        self.paused_until = None;
        let replicas = u64::try_from(others.len())
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let mean = others.iter().fold(own, |sum, it| sum.saturating_add(*it)) / replicas;
        let excess = own.saturating_sub(mean);
        let limit = if self.round.is_some() {
            mean * END_PERCENT / 100
        } else {
            (mean * BEGIN_PERCENT / 100).max(BEGIN_EXCESS)
        };
        if excess <= limit || others.is_empty() {
            self.round = None;
            self.failures = 0;
            return Decision::Stay;
        }
        let round = self.round.get_or_insert(Round {
            began_with: own,
            asked: 0,
            times: 0,
        });
        if round.times == ROUND {
            let gone = round.began_with.saturating_sub(own);
            if gone < round.asked.div_ceil(HELPED_PART) {
                let pause = PAUSE.saturating_mul(2_u32.saturating_pow(self.failures));
                let pause = pause.min(MAX_PAUSE);
                self.round = None;
                self.failures = self.failures.saturating_add(1);
                self.paused_until = Some(now + pause);
                return Decision::GiveUp(pause);
            }
            *round = Round {
                began_with: own,
                asked: 0,
                times: 0,
            };
        }
        let asked = excess.div_ceil(PART).min(MAX_AT_A_TIME);
        round.asked += asked;
        round.times += 1;
        Decision::Ask(asked)
    }

    /// What was begun counts no more.
    fn forget(&mut self) {
        self.round = None;
    }
}

/// The connections of the other replicas, if this is a time to compare: all serve, all have told theirs, and the store
/// that tells them answers.
fn comparable(table: &dyn RoutingTable, me: &ReplicaId) -> Option<Vec<u64>> {
    if table.store_health() != StoreHealth::Available {
        return None;
    }
    let members = table.members();
    let others = members
        .iter()
        .filter(|it| it.replica.replica != *me)
        .map(|member| match (member.state, member.load) {
            (MemberState::Serving, Some(load)) => Some(load.agent_connections.into()),
            _ => None,
        });
    others.collect()
}

/// Whether a replica that is nearly full can leave new work to others: at least as many of them have room as have not, this
/// one among these. What they carry is known only while the store answers.
pub(super) fn others_have_room(table: &dyn RoutingTable, me: &ReplicaId) -> bool {
    if table.store_health() != StoreHealth::Available {
        return false;
    }
    let members = table.members();
    let others = members
        .iter()
        .filter(|it| it.replica.replica != *me && it.state == MemberState::Serving);
    let loads = others.filter_map(|it| it.load);
    let (with_room, others): (Vec<Load>, Vec<Load>) = loads.partition(|it| has_room(*it));
    let full = others.into_iter().filter(|it| is_nearly_full(*it));
    with_room.len() > full.count()
}

/// Tells the others what this replica carries, and has agents move where it is too much, until `stop`.
pub(super) async fn run(gateway: Arc<AgentGateway>, me: ReplicaId, stop: CancellationToken) {
    let mut rebalancing = Rebalancing::default();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let connections = &gateway.connections;
        gateway.table.set_load(connections.load());
        let others = if gateway.settings.rebalance && !gateway.holding.started() {
            comparable(&*gateway.table, &me)
        } else {
            None
        };
        let Some(others) = others else {
            rebalancing.forget();
            continue;
        };
        let own = u64::try_from(connections.staying()).unwrap_or(u64::MAX);
        match rebalancing.decide(own, &others, Instant::now()) {
            Decision::Stay => {}
            Decision::Ask(count) => {
                tracing::info!(
                    agent_connections = own,
                    others = ?others,
                    count,
                    "this replica has more agents than others; asking some to connect again"
                );
                gateway.metrics.rebalanced.inc_by(count);
                gateway.ask_to_leave(usize::try_from(count).unwrap_or(usize::MAX));
            }
            Decision::GiveUp(pause) => tracing::warn!(
                agent_connections = own,
                others = ?others,
                pause_seconds = pause.as_secs(),
                "agents that were asked to connect elsewhere come back to this replica; no agent is asked for a while: does the \
                 load balancer know all replicas?"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Agents that leave go by turns to all replicas; says how many are where after so many times.
    fn spread(mut replicas: Vec<u64>, times: u32) -> Vec<u64> {
        let mut all: Vec<_> = replicas.iter().map(|_| Rebalancing::default()).collect();
        let start = Instant::now();
        let mut turn = 0;
        for time in 0..times {
            let before = replicas.clone();
            for (index, rebalancing) in all.iter_mut().enumerate() {
                let mut others = before.clone();
                let own = others.remove(index);
                let Decision::Ask(asked) =
                    rebalancing.decide(own, &others, start + time * INTERVAL)
                else {
                    continue;
                };
                for _ in 0..asked {
                    turn += 1;
                    replicas[index] -= 1;
                    let next = turn % replicas.len();
                    replicas[next] += 1;
                }
            }
        }
        replicas
    }

    #[tokio::test(start_paused = true)]
    async fn two_replicas_share_with_two_new_ones_within_five_minutes() {
        let after = spread(vec![5000, 5000, 0, 0], 30);

        assert_eq!(after.iter().sum::<u64>(), 10_000);
        let near = |it: &u64| (2250..=2750).contains(it);
        assert!(after.iter().all(near), "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn small_differences_move_nobody() {
        for replicas in [
            vec![10, 5],
            vec![1050, 950],
            vec![3],
            vec![0, 0],
            vec![9, 1],
        ] {
            assert_eq!(spread(replicas.clone(), 30), replicas);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_until_the_difference_is_small() {
        let mut rebalancing = Rebalancing::default();
        let now = Instant::now();

        assert_eq!(rebalancing.decide(1300, &[700], now), Decision::Ask(100));
        assert_eq!(rebalancing.decide(1060, &[940], now), Decision::Ask(20));
        assert_eq!(rebalancing.decide(1020, &[980], now), Decision::Stay);
        assert_eq!(rebalancing.decide(1060, &[940], now), Decision::Stay);
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_to_which_all_come_back_gives_up_for_a_while() {
        let mut rebalancing = Rebalancing::default();
        let now = Instant::now();
        let mut decide = |now| rebalancing.decide(1000, &[0], now);

        for _ in 0..ROUND {
            assert!(matches!(decide(now), Decision::Ask(_)));
        }
        assert_eq!(decide(now), Decision::GiveUp(PAUSE));
        assert_eq!(decide(now + PAUSE / 2), Decision::Stay);
        for _ in 0..ROUND {
            assert!(matches!(decide(now + PAUSE), Decision::Ask(_)));
        }
        assert_eq!(decide(now + PAUSE), Decision::GiveUp(2 * PAUSE));
    }
}

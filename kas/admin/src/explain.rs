//! Why a request would reach its agent, or not: what is known, in words.

use std::{sync::Arc, time::Duration};

use cluster_state::{AgentId, Member, MemberState, Owner};
use router::{Explanation as Found, Need, OpenError};

use crate::{
    Sources,
    peers::{self, Question},
    replica::{GET_TUNNELS, count},
    v1::{Candidate, Explanation, GetTunnelsRequest, Tunnels},
};

/// What requests of users call on an agent.
const METHOD: &str = "/gitlab.agent.kubernetes_api.rpc.KubernetesApi/MakeRequest";
/// Other replicas that are asked for their tunnels of one agent, at most.
const MAX_CANDIDATES: usize = 16;

/// Explains where a request for the agent would go that comes to this replica now.
pub(crate) async fn explain(sources: &Sources, agent: AgentId) -> Explanation {
    let need = Need {
        method: METHOD.into(),
        impersonation: false,
        upgrade: false,
        caller: Arc::default(),
    };
    let found = sources.router.explain(agent, &need).await;
    let members = sources.table.members();
    let here = Candidate {
        replica: sources.me.replica.to_string(),
        why: "a request comes here: tunnels of this replica are tried first".to_owned(),
        tunnels: Some(Tunnels {
            idle: count(found.here.idle),
            alive: count(found.here.alive),
        }),
        problem: String::new(),
    };
    let owners = found.owners.iter().take(MAX_CANDIDATES);
    let others =
        owners.map(|owner| candidate(sources, &members, owner, agent, found.authoritative));
    let mut candidates = vec![here];
    candidates.extend(peers::all(others.collect()).await);
    judge(sources.hold, &found, candidates)
}

async fn candidate(
    sources: &Sources,
    members: &[Member],
    owner: &Owner,
    agent: AgentId,
    authoritative: bool,
) -> Candidate {
    let question = GetTunnelsRequest { agent_id: agent.0 };
    let question = Question::new(GET_TUNNELS, &question);
    let asked = question.ask(&sources.router, &owner.url).await;
    let member = members
        .iter()
        .find(|it| it.replica.replica == owner.replica);
    let (tunnels, problem) = match asked {
        Ok(tunnels) => (Some(tunnels), String::new()),
        Err(error) => (None, error.to_string()),
    };
    Candidate {
        replica: owner.replica.to_string(),
        why: why(member.map(|it| it.state), authoritative).to_owned(),
        tunnels,
        problem,
    }
}

fn why(state: Option<MemberState>, authoritative: bool) -> &'static str {
    match (state, authoritative) {
        (Some(MemberState::Draining), _) => "it drains: asked after those that stay",
        (Some(MemberState::Unreachable), _) => "it could not be reached lately: asked last",
        (Some(MemberState::Silent), _) => "its lease stands still: it may not reach the store",
        (_, true) => "the routing table says that it holds tunnels",
        (_, false) => {
            "it may hold tunnels: the routing table may miss some, so all replicas are asked"
        }
    }
}

/// The verdict about what was found.
fn judge(hold: Duration, found: &Found, candidates: Vec<Candidate>) -> Explanation {
    let wait = found.hold.min(hold);
    let idle = |candidate: &&Candidate| candidate.tunnels.is_some_and(|it| it.idle > 0);
    let alive: u32 = candidates
        .iter()
        .filter_map(|it| it.tunnels)
        .map(|it| it.alive)
        .sum();
    let first = candidates.iter().position(|it| idle(&it));
    let refusal = match &found.refusal {
        OpenError::AllBusy { .. } => OpenError::AllBusy { waited: wait },
        other => other.clone(),
    };
    let seconds = wait.as_secs_f64();
    let verdict = match (first, alive) {
        (Some(0), _) => "it would go through an idle tunnel of this replica at once".to_owned(),
        (Some(at), _) => format!(
            "it would be forwarded at once to {}, which has an idle tunnel",
            candidates[at].replica
        ),
        (None, 1..) => format!(
            "it would wait up to {seconds:.0} s for one of {alive} tunnels, which are all in use"
        ),
        (None, 0) if wait.is_zero() => format!("it would be refused at once: {refusal}"),
        (None, 0) => format!(
            "it would wait up to {seconds:.0} s for the agent to come back, and then be refused: {refusal}"
        ),
    };
    let routable = first.is_some();
    Explanation {
        agent: None,
        verdict,
        routable,
        wait_milliseconds: if routable { 0 } else { millis(wait) },
        refusal: if routable {
            String::new()
        } else {
            refusal.to_string()
        },
        candidates,
        last_seen_seconds: found.last_seen.map(|it| it.as_secs()),
        authoritative: found.authoritative,
        coverage: None,
        last_refusal: None,
        problems: Vec::new(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use router::AgentTunnels;

    use super::*;

    const HOLD: Duration = Duration::from_secs(20);

    fn found(hold: Duration, refusal: OpenError) -> Found {
        Found {
            here: AgentTunnels::default(),
            owners: Vec::new(),
            last_seen: None,
            authoritative: true,
            hold,
            refusal,
        }
    }

    fn at(replica: &str, idle: u32, alive: u32) -> Candidate {
        Candidate {
            replica: replica.to_owned(),
            tunnels: Some(Tunnels { idle, alive }),
            ..Candidate::default()
        }
    }

    #[test]
    fn the_first_with_an_idle_tunnel_carries_a_request() {
        let busy = found(
            Duration::from_secs(120),
            OpenError::AllBusy {
                waited: Duration::ZERO,
            },
        );

        let here = judge(HOLD, &busy, vec![at("a", 1, 1), at("b", 5, 5)]);
        let there = judge(HOLD, &busy, vec![at("a", 0, 3), at("b", 5, 5)]);

        assert!(here.verdict.contains("tunnel of this replica"), "{here:?}");
        assert!(
            there.verdict.contains("forwarded at once to b"),
            "{there:?}"
        );
        assert!(here.routable && there.routable);
        assert_eq!((there.wait_milliseconds, &*there.refusal), (0, ""));
    }

    #[test]
    fn without_one_it_waits_no_longer_than_requests_do() {
        let busy = found(
            Duration::from_secs(120),
            OpenError::AllBusy {
                waited: Duration::ZERO,
            },
        );

        let told = judge(HOLD, &busy, vec![at("a", 0, 3), at("b", 0, 4)]);

        assert!(
            told.verdict.contains("up to 20 s for one of 7 tunnels"),
            "{told:?}"
        );
        assert_eq!(told.wait_milliseconds, 20_000);
        assert!(!told.routable);
    }

    #[test]
    fn an_agent_that_never_came_is_not_waited_for() {
        let never = found(Duration::ZERO, OpenError::NeverConnected);

        let told = judge(HOLD, &never, vec![at("a", 0, 0)]);

        assert!(
            told.verdict.starts_with("it would be refused at once"),
            "{told:?}"
        );
        assert!(told.refusal.contains("never connected"), "{told:?}");
    }
}

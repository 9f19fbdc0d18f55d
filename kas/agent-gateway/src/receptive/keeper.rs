//! Follows which agents are to be dialled, and by whom.

mod warden;

use std::{collections::HashMap, sync::Arc, time::Duration};

use control_plane::ReceptiveAgent;
use router::{AgentId, ReplicaId, RoutingTable};
use runtime::drain::Drain;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{duty::Duty, states::ReceptiveStates};
use crate::agent_api::AgentApi;
use warden::Warden;

/// How often the live replicas are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Sees to all receptive agents, for one replica.
#[derive(Debug)]
pub struct Keeper {
    me: ReplicaId,
    api: Arc<AgentApi>,
    table: Arc<dyn RoutingTable>,
    states: ReceptiveStates,
    user_agent: Arc<str>,
    charges: HashMap<AgentId, Charge>,
    wardens: JoinSet<()>,
}

/// An agent, and the word to its warden.
#[derive(Debug)]
struct Charge {
    agent: ReceptiveAgent,
    duty: watch::Sender<Duty>,
    dismissed: CancellationToken,
}

impl Keeper {
    /// A keeper whose connections are served by `api`; agents are told its `user_agent`.
    #[must_use]
    pub fn new(
        me: ReplicaId,
        api: Arc<AgentApi>,
        table: Arc<dyn RoutingTable>,
        states: ReceptiveStates,
        user_agent: &str,
    ) -> Self {
        Self {
            me,
            api,
            table,
            states,
            user_agent: user_agent.into(),
            charges: HashMap::new(),
            wardens: JoinSet::new(),
        }
    }

    /// Sees to those that are listed until `drain`: their connections then leave
    /// as all others do.
    pub async fn run(mut self, mut listed: watch::Receiver<Arc<[ReceptiveAgent]>>, drain: Drain) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let agents = listed.borrow_and_update().clone();
            self.follow(&agents, &drain);
            tokio::select! {
                // Who lists no more lists what was listed.
                Ok(()) = listed.changed() => {}
                _ = looks.tick(), if !agents.is_empty() => {}
                Some(_) = self.wardens.join_next() => {}
                () = drain.wait() => return,
            }
        }
    }

    /// Brings the wardens in line with what is listed and who lives.
    fn follow(&mut self, listed: &[ReceptiveAgent], drain: &Drain) {
        self.charges.retain(|_, charge| {
            let stays = listed.contains(&charge.agent);
            if !stays {
                charge.dismissed.cancel();
            }
            stays
        });
        if listed.is_empty() {
            return;
        }
        let ring = self.table.ring();
        for agent in listed {
            let duty = Duty::new(&ring, agent.id, &self.me);
            match self.charges.get(&agent.id) {
                Some(charge) => {
                    charge.duty.send_if_modified(|known| {
                        let changed = *known != duty;
                        *known = duty;
                        changed
                    });
                }
                None => self.charge(agent, duty, drain),
            }
        }
    }

    fn charge(&mut self, agent: &ReceptiveAgent, duty: Duty, drain: &Drain) {
        let (duty, told) = watch::channel(duty);
        let dismissed = CancellationToken::new();
        let warden = Warden {
            agent: agent.clone(),
            duty: told,
            dismissed: dismissed.clone(),
            api: self.api.clone(),
            table: self.table.clone(),
            states: self.states.clone(),
            user_agent: self.user_agent.clone(),
            drain: drain.clone(),
        };
        self.wardens.spawn(warden.run());
        let charge = Charge {
            agent: agent.clone(),
            duty,
            dismissed,
        };
        self.charges.insert(agent.id, charge);
    }
}

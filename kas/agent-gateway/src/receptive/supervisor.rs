//! Follows the list of receptive agents and the ring of live replicas, and runs a dialer for each agent.

mod dialer;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use control_plane::ReceptiveAgent;
use router::{AgentId, ReplicaId, RoutingTable};
use runtime::{drain::Drain, tunnel::framed_descriptor};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{assignee::Assignee, form::Forms, states::ReceptiveStates};
use crate::{config::ReceptiveForm, gateway::AgentGateway};
use dialer::AgentDialer;

/// How often the ring of live replicas is read.
const RING_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Runs the dialers of all receptive agents, for one replica.
#[derive(Debug)]
pub struct ReceptiveSupervisor {
    me: ReplicaId,
    gateway: Arc<AgentGateway>,
    table: Arc<dyn RoutingTable>,
    states: ReceptiveStates,
    user_agent: Arc<str>,
    form: ReceptiveForm,
    /// What agents can call through tunnels, framed.
    descriptor: Bytes,
    assignments: HashMap<AgentId, Assignment>,
    dialers: JoinSet<()>,
}

/// A listed agent, and the state that its dialer follows.
#[derive(Debug)]
struct Assignment {
    agent: ReceptiveAgent,
    assignee: watch::Sender<Assignee>,
    unlisted: CancellationToken,
}

impl ReceptiveSupervisor {
    /// A supervisor whose connections are served by `gateway`; they carry its `user_agent`.
    #[must_use]
    pub fn new(
        me: ReplicaId,
        gateway: Arc<AgentGateway>,
        table: Arc<dyn RoutingTable>,
        states: ReceptiveStates,
        user_agent: &str,
    ) -> Self {
        Self {
            me,
            descriptor: framed_descriptor(gateway.services().descriptor()),
            gateway,
            table,
            states,
            user_agent: user_agent.into(),
            form: ReceptiveForm::default(),
            assignments: HashMap::new(),
            dialers: JoinSet::new(),
        }
    }

    /// The same, with this form of connections.
    #[must_use]
    pub fn with_form(mut self, form: ReceptiveForm) -> Self {
        self.form = form;
        self
    }

    /// Dials listed agents until `drain` starts. Their connections then end as all others do.
    pub async fn run(mut self, mut listed: watch::Receiver<Arc<[ReceptiveAgent]>>, drain: Drain) {
        let mut ring_polls = interval(RING_POLL_INTERVAL);
        ring_polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let agents = listed.borrow_and_update().clone();
            self.follow(&agents, &drain);
            tokio::select! {
                // A list whose sender is gone stays as it is.
                Ok(()) = listed.changed() => {}
                _ = ring_polls.tick(), if !agents.is_empty() => {}
                Some(_) = self.dialers.join_next() => {}
                () = drain.wait() => return,
            }
        }
    }

    /// Brings the dialers in line with the list and the ring.
    fn follow(&mut self, listed: &[ReceptiveAgent], drain: &Drain) {
        self.assignments.retain(|_, assignment| {
            let stays = listed.contains(&assignment.agent);
            if !stays {
                assignment.unlisted.cancel();
            }
            stays
        });
        if listed.is_empty() {
            return;
        }
        let ring = self.table.ring();
        for agent in listed {
            let assignee = Assignee::new(&ring, agent.id, &self.me);
            match self.assignments.get(&agent.id) {
                Some(assignment) => {
                    assignment.assignee.send_if_modified(|known| {
                        let changed = *known != assignee;
                        *known = assignee;
                        changed
                    });
                }
                None => self.add(agent, assignee, drain),
            }
        }
    }

    fn add(&mut self, agent: &ReceptiveAgent, assignee: Assignee, drain: &Drain) {
        let (sender, assignee) = watch::channel(assignee);
        let unlisted = CancellationToken::new();
        let dialer = AgentDialer {
            agent: agent.clone(),
            assignee,
            unlisted: unlisted.clone(),
            gateway: self.gateway.clone(),
            table: self.table.clone(),
            states: self.states.clone(),
            user_agent: self.user_agent.clone(),
            forms: Forms::new(self.form),
            descriptor: self.descriptor.clone(),
            drain: drain.clone(),
        };
        self.dialers.spawn(dialer.run());
        let assignment = Assignment {
            agent: agent.clone(),
            assignee: sender,
            unlisted,
        };
        self.assignments.insert(agent.id, assignment);
    }
}

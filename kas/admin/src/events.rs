//! What changes, for those who listen: differences between readings of the fleet and of the replicas.
//!
//! One task compares, while anybody listens, whatever their number. Each listener has a queue of bounded length; who
//! does not read it in time is told how much was lost.

pub(crate) mod refusals;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cluster_state::{Member, RoutingTable};
use jiff::Timestamp;
use runtime::shares::{Full, Limits, Share, Shares};
use tokio::sync::broadcast::{self, error::RecvError};

use crate::{
    Failure,
    agent_state::CONNECTED,
    fleet::{Fleet, Snapshot},
    peers,
    replica::state,
    v1::{AgentReference, Event},
};
use refusals::{Places, RefusalFeed};

/// How often the fleet is compared with what it was.
const INTERVAL: Duration = Duration::from_secs(2);
/// Events that a listener may be behind.
const QUEUE: usize = 1024;
/// Listeners, by caller.
const LISTENERS: Limits = Limits {
    total: 256,
    each: 200,
    reserved: 16,
};

/// Tells listeners what changes.
#[derive(Debug)]
pub(crate) struct Events {
    fleet: Arc<Fleet>,
    table: Arc<dyn RoutingTable>,
    refusals: RefusalFeed,
    listeners: Shares<Arc<str>>,
    /// Where the task tells, while it runs.
    sender: Mutex<Option<broadcast::Sender<Event>>>,
}

/// Somebody who listens.
#[derive(Debug)]
pub(crate) struct Listener {
    events: broadcast::Receiver<Event>,
    _share: Share<Arc<str>>,
}

impl Events {
    pub(crate) fn new(
        fleet: Arc<Fleet>,
        table: Arc<dyn RoutingTable>,
        refusals: RefusalFeed,
    ) -> Arc<Self> {
        Arc::new(Self {
            fleet,
            table,
            refusals,
            listeners: Shares::new(LISTENERS),
            sender: Mutex::default(),
        })
    }

    /// Listens from now on.
    ///
    /// # Errors
    /// When the caller has too many listeners, or all together have.
    pub(crate) async fn listen(self: &Arc<Self>, caller: Arc<str>) -> Result<Listener, Failure> {
        let share = self.listeners.take(caller, 1).map_err(|full| {
            let words = match full {
                Full::Holder(limit) => {
                    format!("too many listeners of this caller (limit: {limit})")
                }
                Full::Total(limit) => format!("too many listeners (limit: {limit})"),
            };
            Failure::Busy(words)
        })?;
        if let Some(events) = self.joined() {
            return Ok(Listener {
                events,
                _share: share,
            });
        }
        // What is known before anybody is told of changes.
        let known = self.fleet.snapshot().await;
        let members = peers::members(&*self.table);
        let mut places = Places::default();
        self.refusals.new_since(&mut places, &members, &known).await;
        let first = State::of(&known, members);
        Ok(Listener {
            events: self.begin(first, places),
            _share: share,
        })
    }

    fn joined(&self) -> Option<broadcast::Receiver<Event>> {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.as_ref().map(broadcast::Sender::subscribe)
    }

    fn begin(self: &Arc<Self>, first: State, places: Places) -> broadcast::Receiver<Event> {
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = &*sender {
            return sender.subscribe();
        }
        let (new, events) = broadcast::channel(QUEUE);
        *sender = Some(new);
        // It ends when nobody listens any more.
        tokio::spawn(self.clone().compare(first, places));
        events
    }

    async fn compare(self: Arc<Self>, mut last: State, mut places: Places) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let snapshot = self.fleet.snapshot().await;
            let members = peers::members(&*self.table);
            let refused = self.refusals.new_since(&mut places, &members, &snapshot);
            let refused = refused.await;
            let now = State::of(&snapshot, members);
            let mut changes = last.changes(&now);
            changes.extend(refused);
            let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(listening) = sender.as_ref().filter(|it| it.receiver_count() > 0) else {
                *sender = None;
                return;
            };
            for change in changes {
                // Whoever has left meanwhile hears nothing.
                let _ = listening.send(change);
            }
            drop(sender);
            last = last.followed_by(now);
        }
    }
}

impl Listener {
    /// The next event. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        match self.events.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(missed)) => Some(Event {
                missed,
                ..event("lagged")
            }),
            Err(RecvError::Closed) => None,
        }
    }
}

/// What is compared.
#[derive(Debug)]
struct State {
    /// Connected agents: name and replicas.
    agents: BTreeMap<i64, (String, String)>,
    replicas: BTreeMap<String, &'static str>,
    complete: bool,
    problem: String,
}

impl State {
    fn of(snapshot: &Snapshot, members: Vec<Member>) -> Self {
        let connected = snapshot.agents.iter().filter(|it| it.state == CONNECTED);
        let agent = |it: &crate::v1::Agent| (it.id, (it.name.clone(), it.replicas.join(",")));
        let replica = |it: Member| (it.replica.replica.to_string(), state(it.state));
        Self {
            agents: connected.map(agent).collect(),
            replicas: members.into_iter().map(replica).collect(),
            complete: snapshot.coverage.complete,
            problem: snapshot.coverage.problem.clone(),
        }
    }

    /// What to compare the next one with: what was not known says nothing of those that are missing in it.
    fn followed_by(self, now: Self) -> Self {
        if now.complete {
            return now;
        }
        Self {
            agents: self.agents,
            ..now
        }
    }

    fn changes(&self, now: &Self) -> Vec<Event> {
        let mut changes = Vec::new();
        match (self.complete, now.complete) {
            (true, false) => changes.push(Event {
                detail: now.problem.clone(),
                ..event("coverage.lost")
            }),
            (false, true) => changes.push(event("coverage.restored")),
            (true, true) | (false, false) => {}
        }
        for (id, state) in &now.replicas {
            let kind = match self.replicas.get(id) {
                None => "replica.joined",
                Some(before) if before != state => "replica.changed",
                Some(_) => continue,
            };
            changes.push(Event {
                replica: id.clone(),
                detail: (*state).to_owned(),
                ..event(kind)
            });
        }
        let left = self.replicas.keys();
        let left = left.filter(|id| !now.replicas.contains_key(*id));
        changes.extend(left.map(|id| Event {
            replica: id.clone(),
            ..event("replica.left")
        }));
        if now.complete {
            changes.extend(only_in(&now.agents, &self.agents, "agent.connected"));
            changes.extend(only_in(&self.agents, &now.agents, "agent.disconnected"));
        }
        changes
    }
}

fn only_in<'a>(
    these: &'a BTreeMap<i64, (String, String)>,
    those: &'a BTreeMap<i64, (String, String)>,
    kind: &'a str,
) -> impl Iterator<Item = Event> + 'a {
    let only = these.iter().filter(|(id, _)| !those.contains_key(id));
    only.map(move |(id, (name, replicas))| Event {
        agent: Some(AgentReference {
            id: *id,
            name: name.clone(),
        }),
        replica: replicas.clone(),
        ..event(kind)
    })
}

fn event(kind: &str) -> Event {
    Event {
        r#type: kind.to_owned(),
        at: Timestamp::now().to_string(),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(agents: &[i64], replicas: &[(&str, &'static str)], complete: bool) -> State {
        let agent = |id: &i64| (*id, (format!("agent-{id}"), "r1".to_owned()));
        State {
            agents: agents.iter().map(agent).collect(),
            replicas: replicas
                .iter()
                .map(|(id, state)| ((*id).to_owned(), *state))
                .collect(),
            complete,
            problem: String::new(),
        }
    }

    fn told(before: &State, now: &State) -> Vec<String> {
        let line = |it: Event| {
            let agent = it.agent.map_or(String::new(), |it| it.name);
            format!("{} {agent}{}", it.r#type, it.detail)
        };
        before.changes(now).into_iter().map(line).collect()
    }

    #[test]
    fn agents_and_replicas_that_come_and_go_are_told() {
        let before = state(&[1, 2], &[("a", "serving"), ("b", "serving")], true);
        let now = state(&[2, 3], &[("b", "draining"), ("c", "serving")], true);

        assert_eq!(
            told(&before, &now),
            [
                "replica.changed draining",
                "replica.joined serving",
                "replica.left ",
                "agent.connected agent-3",
                "agent.disconnected agent-1",
            ]
        );
        assert!(told(&now, &now).is_empty());
    }

    #[test]
    fn agents_that_are_only_not_known_of_have_not_gone() {
        let before = state(&[1, 2], &[], true);
        let away = state(&[1], &[], false);
        let back = state(&[1], &[], true);

        assert_eq!(told(&before, &away), ["coverage.lost "]);
        let remembered = before.followed_by(away);
        assert_eq!(
            told(&remembered, &back),
            ["coverage.restored ", "agent.disconnected agent-2"]
        );
    }

    #[tokio::test]
    async fn who_does_not_read_is_told_how_much_was_lost() {
        let (sender, events) = broadcast::channel(2);
        let shares = Shares::new(LISTENERS);
        let mut listener = Listener {
            events,
            _share: shares.take(Arc::<str>::from("a"), 1).unwrap(),
        };
        for _ in 0..5 {
            sender.send(event("agent.connected")).unwrap();
        }

        let first = listener.next().await.unwrap();

        assert_eq!((&*first.r#type, first.missed), ("lagged", 3));
        assert_eq!(listener.next().await.unwrap().r#type, "agent.connected");
    }

    #[test]
    fn one_caller_leaves_room_for_others() {
        let listeners = Shares::new(LISTENERS);
        let take = |caller: &str| listeners.take(Arc::<str>::from(caller), 1);
        let greedy: Vec<_> = (0..300).filter_map(|_| take("a").ok()).collect();

        assert_eq!(greedy.len(), 200);
        assert!(take("b").is_ok());
    }
}

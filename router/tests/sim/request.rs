//! A user's request, made and made again by the rules of kas's Kubernetes API.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use cluster_state::AgentId;
use proto::frame::Payload;
use rand::{Rng as _, rngs::StdRng};
use router::{Broken, Call, Event, Need, Opening};
use tokio::time::{Instant, sleep, timeout};

use crate::{METHOD, replica::Replica, world::World};

/// How often a safe request is made again.
const REPLAYS: u32 = 3;
/// How long an answer may take to begin.
const ANSWER: Duration = Duration::from_secs(30);
/// How long nothing may have gone wrong until every request must succeed: the
/// longest pause of an agent, how long it takes to find a dead connection, and
/// a renewal of the leases.
pub const CALM: Duration = Duration::from_secs(40);
/// How long a stalled reader reads nothing.
const STALL: Duration = Duration::from_secs(12);
/// Beyond all deadlines: a request that is not over then is lost.
const LOST: Duration = Duration::from_secs(200);

/// One request, as it was drawn from the seed.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub number: usize,
    pub at: Duration,
    pub agent: i64,
    /// Whether it may be made twice.
    pub safe: bool,
    pub hold: Duration,
    /// How long the agent takes.
    pub work: u64,
    /// Whether the answer is big and its reader slow.
    pub stalls: bool,
    /// When the user leaves.
    pub leaves: Option<Duration>,
    pub random: u64,
}

/// How it ended.
#[derive(Debug)]
enum Outcome {
    Answered,
    /// With a reason.
    Failed(String),
    /// The user or the replica that had it is gone.
    Gone,
}

impl Request {
    pub fn draw(rng: &mut StdRng, number: usize, agents: i64, until: Duration) -> Self {
        Self {
            number,
            at: rng.random_range(Duration::ZERO..until),
            agent: rng.random_range(1..=agents),
            safe: rng.random_bool(0.6),
            hold: Duration::from_secs(rng.random_range(5..60)),
            work: if rng.random_bool(0.2) {
                rng.random_range(0..4000)
            } else {
                rng.random_range(0..50)
            },
            stalls: rng.random_bool(0.05),
            leaves: rng
                .random_bool(0.1)
                .then(|| Duration::from_millis(rng.random_range(0..10_000))),
            random: rng.random(),
        }
    }

    /// Makes the request, and checks how it ended.
    pub async fn run(self, world: Arc<World>) {
        sleep(self.at).await;
        let Some(entry) = world.balance(self.random, false) else {
            return world.log(format!("request {} finds no replica", self.number));
        };
        world.log(format!("{self:?} enters at {}", entry.me.replica));
        let leaves = async {
            match self.leaves {
                Some(after) => sleep(after).await,
                None => std::future::pending().await,
            }
        };
        let travel = tokio::time::timeout(LOST, self.travel(&world, &entry));
        let outcome = tokio::select! {
            biased;
            outcome = travel => outcome.ok(),
            () = entry.stop.cancelled() => Some(Outcome::Gone),
            () = leaves => Some(Outcome::Gone),
        };
        world.log(format!("request {} ends: {outcome:?}", self.number));
        self.check(&world, outcome);
    }

    fn check(&self, world: &World, outcome: Option<Outcome>) {
        let number = self.number;
        let deliveries = world.deliveries(number);
        let allowed = if self.safe { 1 + REPLAYS as usize } else { 1 };
        if deliveries > allowed {
            world.violation(format!("request {number} was delivered {deliveries} times"));
        }
        match outcome {
            None => world.violation(format!("request {number} is lost")),
            Some(Outcome::Failed(reason)) if world.calm(self.agent) >= CALM => {
                world.violation(format!("request {number} failed in the calm: {reason}"));
            }
            Some(Outcome::Answered) if deliveries == 0 => {
                world.violation(format!("request {number} was answered by nobody"));
            }
            Some(Outcome::Answered | Outcome::Failed(_) | Outcome::Gone) => {}
        }
    }

    async fn travel(&self, world: &World, entry: &Replica) -> Outcome {
        let deadline = Instant::now() + self.hold;
        let need = Need {
            method: METHOD.into(),
            impersonation: false,
            upgrade: false,
            caller: format!("user:{}", self.random % 3).into(),
        };
        let mut replays = 0;
        loop {
            let agent = AgentId(self.agent);
            let opening = self.opening();
            let opened = entry.router.open(agent, &need, &opening, deadline).await;
            let call = match opened {
                Ok(call) => call,
                Err(error) => return Outcome::Failed(error.to_string()),
            };
            let error = match self.answer(call).await {
                Ok(()) => return Outcome::Answered,
                Err(Cut::Ahead(error)) if may_replay(self.safe, replays, deadline) => error,
                Err(Cut::Ahead(error) | Cut::Within(error)) => return Outcome::Failed(error),
            };
            replays += 1;
            world.log(format!("request {} is made again: {error}", self.number));
        }
    }

    fn opening(&self) -> Opening {
        let size = if self.stalls { "big" } else { "small" };
        let body = Bytes::from(format!("{} {} {size}", self.number, self.work));
        Opening {
            method: METHOD.into(),
            meta: HashMap::new(),
            messages: vec![Payload {
                head: Bytes::new(),
                body,
            }],
            close: true,
            safe: self.safe,
            moves: false,
        }
    }

    async fn answer(&self, mut call: Call) -> Result<(), Cut> {
        let silent = || Cut::Within("the agent does not answer".into());
        let header = timeout(ANSWER, call.event()).await.map_err(|_| silent())?;
        header.map_err(|error| match error {
            Broken::Connection(_) | Broken::Peer(_) | Broken::Unused => {
                Cut::Ahead(error.to_string())
            }
            Broken::Order(_) | Broken::Malformed(_) | Broken::Unread => {
                Cut::Within(error.to_string())
            }
        })?;
        if self.stalls {
            sleep(STALL).await;
        }
        loop {
            let event = timeout(ANSWER, call.event()).await.map_err(|_| silent())?;
            match event {
                Ok(Event::End) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(Cut::Within(error.to_string())),
            }
        }
    }
}

/// Where an answer broke off.
enum Cut {
    /// Before it began, for a reason that lies in the path.
    Ahead(String),
    Within(String),
}

/// The rule of replay.
fn may_replay(safe: bool, replays: u32, deadline: Instant) -> bool {
    safe && replays < REPLAYS && Instant::now() < deadline
}

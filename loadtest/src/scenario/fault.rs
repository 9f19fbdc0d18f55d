//! What breaks, and when.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

use super::{Attach, Topology};

/// One fault.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fault {
    /// Seconds after the beginning of its phase.
    pub(crate) at: f64,
    #[serde(rename = "do")]
    pub(crate) action: Action,
    /// What it happens to.
    #[serde(default)]
    pub(crate) of: Option<Subject>,
    /// Seconds for which it lasts, or after which a process is started again.
    #[serde(default, rename = "for")]
    pub(crate) lasts: Option<f64>,
    /// Seconds between two cuts.
    #[serde(default)]
    pub(crate) every: Option<f64>,
    /// Milliseconds by which pieces are delayed.
    #[serde(default)]
    pub(crate) ms: Option<u64>,
    /// KiB a second of a throttled connection, each way.
    #[serde(default)]
    pub(crate) kib_per_second: Option<u32>,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Action {
    /// Resets all connections of a link.
    Cut,
    /// A link carries nothing; its connections stay open, and are reset when it is over.
    BlackHole,
    /// A link carries each piece late.
    Delay,
    /// A link carries little a second.
    Throttle,
    /// SIGKILL; started again when it is over.
    Kill,
    /// SIGTERM; started again when the process has ended.
    Terminate,
    /// SIGSTOP; SIGCONT when it is over.
    Freeze,
    /// SIGTERM to one replica after the other, each started again when it has ended.
    RollingRestart,
    /// All agents drop their connections and connect anew.
    Reconnect,
}

/// A link or a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Agents and their connections with the load balancer.
    Agents,
    /// Connections of users.
    Users,
    /// The Redis, or all connections with it.
    Redis,
    /// The connections of all replicas with each other.
    Peers,
    /// One replica, from 1.
    Replica(usize),
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const KNOWN: &[&str] = &["agents", "users", "redis", "peers", "replica-1"];
        let text = String::deserialize(deserializer)?;
        Self::named(&text).ok_or_else(|| D::Error::unknown_variant(&text, KNOWN))
    }
}

impl Subject {
    /// What files and flags call so.
    pub(crate) fn named(text: &str) -> Option<Self> {
        match text {
            "agents" => Some(Self::Agents),
            "users" => Some(Self::Users),
            "redis" => Some(Self::Redis),
            "peers" => Some(Self::Peers),
            other => other
                .strip_prefix("replica-")
                .and_then(|number| number.parse().ok())
                .map(Self::Replica),
        }
    }

    /// What its process is called.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Agents => "agents".to_owned(),
            Self::Users => "users".to_owned(),
            Self::Redis => "redis".to_owned(),
            Self::Peers => "peers".to_owned(),
            Self::Replica(number) => format!("replica {number}"),
        }
    }
}

impl Fault {
    pub(super) fn check(&self, topology: &Topology, phase: f64) -> Result<(), String> {
        if !(self.at >= 0.0 && self.at < phase) {
            return Err(format!("`at: {}` is after the end of the phase", self.at));
        }
        self.check_times()?;
        if let Some(Subject::Replica(number)) = self.of
            && !(1..=topology.replicas).contains(&number)
        {
            return Err(format!(
                "there is no replica {number} of {}",
                topology.replicas
            ));
        }
        if self.of == Some(Subject::Agents) && !topology.balancer {
            return Err("agents need `balancer: true` in the topology for this".to_owned());
        }
        if topology.attach.is_some() && self.action != Action::Reconnect {
            return self.check_attached(topology.attach.as_ref());
        }
        self.check_subject()
    }

    fn check_times(&self) -> Result<(), String> {
        let times = [self.lasts, self.every];
        let sane = times.iter().flatten().all(|it| *it > 0.0 && *it < 1e6);
        if sane && (0.0..1e6).contains(&self.at) {
            return Ok(());
        }
        Err("`for` and `every` must be above 0, `at` not below".to_owned())
    }

    /// Whether it can happen to links that were put between, and to processes of others, which get
    /// signals and are not started again.
    pub(crate) fn check_of_others(
        &self,
        has_link: impl Fn(Subject) -> bool,
        has_process: impl Fn(Subject) -> bool,
    ) -> Result<(), String> {
        self.check_times()?;
        self.check_subject()?;
        let Some(of) = self.of else {
            return Err("this is possible in a scenario only".to_owned());
        };
        let name = of.name().replace(' ', "-");
        match self.action {
            Action::Kill | Action::Terminate | Action::Freeze if !has_process(of) => {
                Err(format!("name the process: --process {name}=PID"))
            }
            Action::Cut | Action::BlackHole | Action::Delay | Action::Throttle if !has_link(of) => {
                Err(format!(
                    "there is no such link: --link {name}=LISTEN=TARGET"
                ))
            }
            _ => Ok(()),
        }
    }

    /// Processes of others get signals, and are not started again.
    fn check_attached(&self, attach: Option<&Attach>) -> Result<(), String> {
        let redis = attach.is_some_and(|it| it.redis_pid.is_some());
        match (self.action, self.of) {
            (Action::Kill | Action::Terminate | Action::Freeze, Some(Subject::Replica(_))) => Ok(()),
            (Action::Kill | Action::Freeze, Some(Subject::Redis)) if redis => Ok(()),
            _ => Err("only `kill`, `terminate` and `freeze` of a replica (or of Redis by its `redis_pid`), and `reconnect`, are possible with `attach`".to_owned()),
        }
    }

    fn check_subject(&self) -> Result<(), String> {
        use Action::{
            BlackHole, Cut, Delay, Freeze, Kill, Reconnect, RollingRestart, Terminate, Throttle,
        };
        use Subject::{Agents, Peers, Redis, Replica, Users};
        match (self.action, self.of) {
            (Cut | BlackHole | Delay | Throttle, Some(Agents | Users | Redis | Peers))
            | (Kill | Freeze, Some(Redis | Replica(_)))
            | (Terminate, Some(Replica(_)))
            | (RollingRestart | Reconnect, None) => {}
            (Cut | BlackHole | Delay | Throttle, _) => {
                return Err("`of` must be agents, users, redis or peers here".to_owned());
            }
            (Kill | Freeze, _) => return Err("`of` must be redis or a replica here".to_owned()),
            (Terminate, _) => return Err("`of` must be a replica here".to_owned()),
            (RollingRestart | Reconnect, Some(_)) => return Err("this has no `of`".to_owned()),
        }
        match self.action {
            Delay if self.ms.is_none() => Err("`delay` needs `ms`".to_owned()),
            Throttle if self.kib_per_second.is_none() => {
                Err("`throttle` needs `kib_per_second`".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// How long it lasts; five seconds if not told.
    pub(crate) fn lasts(&self) -> Duration {
        Duration::try_from_secs_f64(self.lasts.unwrap_or(5.0)).unwrap_or_default()
    }

    /// What to call it in reports.
    pub(crate) fn name(&self) -> String {
        let action = match self.action {
            Action::Cut => "cut",
            Action::BlackHole => "black-hole",
            Action::Delay => "delay",
            Action::Throttle => "throttle",
            Action::Kill => "kill",
            Action::Terminate => "terminate",
            Action::Freeze => "freeze",
            Action::RollingRestart => return "rolling restart".to_owned(),
            Action::Reconnect => return "all agents reconnect".to_owned(),
        };
        match self.of {
            Some(Subject::Agents) => format!("{action} agents"),
            Some(Subject::Users) => format!("{action} users"),
            Some(Subject::Redis) => format!("{action} Redis"),
            Some(Subject::Peers) => format!("{action} peers"),
            Some(Subject::Replica(number)) => format!("{action} replica {number}"),
            None => action.to_owned(),
        }
    }
}

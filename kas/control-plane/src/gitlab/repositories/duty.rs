//! Who polls a repository, and what the one who did has found: decided in plain
//! values from what is posted on the board.

use cluster_state::{PollRecord, ReplicaId, Ring};
use serde::{Deserialize, Serialize};

use super::follower::Due;
use crate::gitaly;

/// How often in its own time the one on duty may be silent before others look too.
const PATIENCE: u32 = 2;

/// What was found in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Head {
    /// The branch is at this commit.
    Commit(String),
    /// Nothing was ever pushed.
    Empty,
    /// There is no such branch: why.
    Missing(String),
}

impl From<gitaly::Head> for Head {
    fn from(head: gitaly::Head) -> Self {
        match head {
            gitaly::Head::Commit(commit) => Self::Commit(commit),
            gitaly::Head::Empty => Self::Empty,
        }
    }
}

/// A head as it is posted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Found {
    /// Grows with every poll.
    pub(super) beat: u64,
    pub(super) head: Head,
}

impl Found {
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    pub(super) fn write(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON")
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Duty {
    /// Poll, and post what was found with this beat; these are gone.
    Mine { beat: u64, gone: Vec<ReplicaId> },
    /// Another does, and has found this, if anything yet.
    Others(Option<Head>),
}

/// What one replica remembers of a board between its looks.
#[derive(Debug, Default)]
pub(super) struct Watch {
    beat: u64,
    silent: u32,
    on_duty: bool,
}

impl Watch {
    /// Whether this replica polls as far as it knows: what is posted is its own then.
    pub(super) fn on_duty(&self) -> bool {
        self.on_duty
    }

    /// Decides for a look at the board that is due for this reason.
    pub(super) fn decide(
        &mut self,
        due: Due,
        me: &ReplicaId,
        project: i64,
        posted: &PollRecord,
        live: &Ring,
    ) -> Duty {
        let order = live.order_for(project);
        let follows = |it: &&ReplicaId| *it == me || posted.replicas.contains(it);
        self.on_duty = order.iter().find(follows) == Some(me);
        let found = posted.head.as_deref().and_then(Found::read);
        let beat = found.as_ref().map_or(0, |it| it.beat);
        if beat != self.beat {
            self.silent = 0;
        } else if due == Due::Round {
            self.silent += 1;
        }
        self.beat = beat;
        if self.on_duty || due == Due::Doubt || self.silent > PATIENCE {
            self.silent = 0;
            self.beat = beat + 1;
            let gone = posted.replicas.iter();
            let gone = gone.filter(|it| *it != me && !order.contains(it));
            return Duty::Mine {
                beat: self.beat,
                gone: gone.cloned().collect(),
            };
        }
        Duty::Others(found.map(|it| it.head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicas(names: &[&str]) -> Vec<ReplicaId> {
        names.iter().map(|name| ReplicaId::new(name)).collect()
    }

    fn posted(names: &[&str], beat: u64) -> PollRecord {
        let head = Head::Commit("c".to_owned());
        PollRecord {
            replicas: replicas(names),
            head: Some(Found { beat, head }.write()),
        }
    }

    fn decide(watch: &mut Watch, due: Due, me: &str, posted: &PollRecord, live: &[&str]) -> Duty {
        let live = Ring::new(&replicas(live));
        watch.decide(due, &ReplicaId::new(me), 7, posted, &live)
    }

    fn mine(duty: &Duty) -> bool {
        matches!(duty, Duty::Mine { .. })
    }

    #[test]
    fn exactly_one_of_those_who_follow_is_on_duty() {
        let all = ["a", "b", "c"];
        for follow in [&["a", "b", "c"][..], &["a", "b"], &["c"]] {
            let board = posted(follow, 1);
            let duties = follow.iter().filter(|me| {
                let mut watch = Watch::default();
                mine(&decide(&mut watch, Due::Round, me, &board, &all))
            });
            assert_eq!(duties.count(), 1, "{follow:?}");
        }
    }

    #[test]
    fn the_duty_of_a_dead_replica_goes_to_another_which_takes_it_down() {
        let board = posted(&["a", "b", "c"], 1);
        let on_duty = |live: &[&'static str]| {
            let on_duty = live.iter().find(|me| {
                let mut watch = Watch::default();
                mine(&decide(&mut watch, Due::Round, me, &board, live))
            });
            *on_duty.unwrap()
        };
        let first = on_duty(&["a", "b", "c"]);
        let left: Vec<_> = ["a", "b", "c"]
            .into_iter()
            .filter(|it| *it != first)
            .collect();

        let second = on_duty(&left);

        let mut watch = Watch::default();
        let duty = decide(&mut watch, Due::Round, second, &board, &left);
        let gone = replicas(&[first]);
        assert_eq!(duty, Duty::Mine { beat: 2, gone });
    }

    #[test]
    fn others_look_when_the_one_on_duty_is_silent_or_an_agent_knows_more() {
        let all = ["a", "b"];
        let idle = all.into_iter().find(|me| {
            let mut watch = Watch::default();
            !mine(&decide(&mut watch, Due::Round, me, &posted(&all, 1), &all))
        });
        let (idle, mut watch) = (idle.unwrap(), Watch::default());
        let mut look = |due, beat| decide(&mut watch, due, idle, &posted(&all, beat), &all);

        assert!(!mine(&look(Due::Round, 1)), "it was heard of");
        assert!(!mine(&look(Due::Round, 1)), "silent once");
        assert!(!mine(&look(Due::Push, 1)), "no time has passed");
        assert!(!mine(&look(Due::Round, 1)), "silent twice");
        assert!(mine(&look(Due::Round, 1)), "silent for too long");
        assert!(!mine(&look(Due::Round, 3)), "it is back");
        assert!(mine(&look(Due::Doubt, 3)));
    }

    #[test]
    fn what_is_posted_is_read_as_it_was_written_and_garbage_is_nothing() {
        for head in [
            Head::Commit("c".to_owned()),
            Head::Empty,
            Head::Missing("why".to_owned()),
        ] {
            let found = Found { beat: 3, head };
            assert_eq!(Found::read(&found.write()), Some(found));
        }
        assert_eq!(Found::read("{"), None);
    }
}

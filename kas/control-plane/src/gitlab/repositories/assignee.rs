//! Which replica polls a repository, and which commit the assignee found: decided in plain
//! values from the state that replicas share.

use cluster_state::{PollRecord, ReplicaId, Ring};
use serde::{Deserialize, Serialize};

use super::subscribers::Trigger;
use crate::gitaly;

/// Poll periods in which the assignee may post nothing before others poll too.
const SILENT_PERIODS_MAX: u32 = 2;

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
pub(super) struct PostedHead {
    /// Grows with every poll.
    pub(super) beat: u64,
    pub(super) head: Head,
}

impl PostedHead {
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    pub(super) fn write(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON")
    }
}

/// What this replica has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Assignment {
    /// Poll, and post the result with this beat; these replicas are gone.
    Poll { beat: u64, gone: Vec<ReplicaId> },
    /// Another polls, and has found this, if anything yet.
    Follow(Option<Head>),
}

/// What one replica remembers of the shared state between polls.
#[derive(Debug, Default)]
pub(super) struct AssigneeTracker {
    beat: u64,
    silent: u32,
    is_assignee: bool,
}

impl AssigneeTracker {
    /// Whether this replica polls, as far as it knows: what is posted is its own then.
    pub(super) fn is_assignee(&self) -> bool {
        self.is_assignee
    }

    /// Decides from the state that was just read for this reason.
    pub(super) fn decide(
        &mut self,
        trigger: Trigger,
        me: &ReplicaId,
        project: i64,
        posted: &PollRecord,
        live: &Ring,
    ) -> Assignment {
        let order = live.order_for(project);
        let follows = |it: &&ReplicaId| *it == me || posted.replicas.contains(it);
        self.is_assignee = order.iter().find(follows) == Some(me);
        let found = posted.head.as_deref().and_then(PostedHead::read);
        let beat = found.as_ref().map_or(0, |it| it.beat);
        if beat != self.beat {
            self.silent = 0;
        } else if trigger == Trigger::Period {
            self.silent += 1;
        }
        self.beat = beat;
        if self.is_assignee
            || trigger == Trigger::UnknownVersion
            || self.silent > SILENT_PERIODS_MAX
        {
            self.silent = 0;
            self.beat = beat + 1;
            let gone = posted.replicas.iter();
            let gone = gone.filter(|it| *it != me && !order.contains(it));
            return Assignment::Poll {
                beat: self.beat,
                gone: gone.cloned().collect(),
            };
        }
        Assignment::Follow(found.map(|it| it.head))
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
            head: Some(PostedHead { beat, head }.write()),
        }
    }

    fn decide(
        tracker: &mut AssigneeTracker,
        trigger: Trigger,
        me: &str,
        posted: &PollRecord,
        live: &[&str],
    ) -> Assignment {
        let live = Ring::new(&replicas(live));
        tracker.decide(trigger, &ReplicaId::new(me), 7, posted, &live)
    }

    fn mine(assignment: &Assignment) -> bool {
        matches!(assignment, Assignment::Poll { .. })
    }

    #[test]
    fn exactly_one_of_those_who_follow_is_assigned() {
        let all = ["a", "b", "c"];
        for follow in [&["a", "b", "c"][..], &["a", "b"], &["c"]] {
            let shared = posted(follow, 1);
            let assignees = follow.iter().filter(|me| {
                let mut tracker = AssigneeTracker::default();
                mine(&decide(&mut tracker, Trigger::Period, me, &shared, &all))
            });
            assert_eq!(assignees.count(), 1, "{follow:?}");
        }
    }

    #[test]
    fn the_repository_of_a_dead_replica_goes_to_another_which_removes_it() {
        let shared = posted(&["a", "b", "c"], 1);
        let is_assignee = |live: &[&'static str]| {
            let is_assignee = live.iter().find(|me| {
                let mut tracker = AssigneeTracker::default();
                mine(&decide(&mut tracker, Trigger::Period, me, &shared, live))
            });
            *is_assignee.unwrap()
        };
        let first = is_assignee(&["a", "b", "c"]);
        let left: Vec<_> = ["a", "b", "c"]
            .into_iter()
            .filter(|it| *it != first)
            .collect();

        let second = is_assignee(&left);

        let mut tracker = AssigneeTracker::default();
        let assignment = decide(&mut tracker, Trigger::Period, second, &shared, &left);
        let gone = replicas(&[first]);
        assert_eq!(assignment, Assignment::Poll { beat: 2, gone });
    }

    #[test]
    fn others_look_when_the_one_is_assignee_is_silent_or_an_agent_knows_more() {
        let all = ["a", "b"];
        let idle = all.into_iter().find(|me| {
            let mut tracker = AssigneeTracker::default();
            !mine(&decide(
                &mut tracker,
                Trigger::Period,
                me,
                &posted(&all, 1),
                &all,
            ))
        });
        let (idle, mut tracker) = (idle.unwrap(), AssigneeTracker::default());
        let mut look =
            |trigger, beat| decide(&mut tracker, trigger, idle, &posted(&all, beat), &all);

        assert!(!mine(&look(Trigger::Period, 1)), "it was heard of");
        assert!(!mine(&look(Trigger::Period, 1)), "silent once");
        assert!(!mine(&look(Trigger::Push, 1)), "no time has passed");
        assert!(!mine(&look(Trigger::Period, 1)), "silent twice");
        assert!(mine(&look(Trigger::Period, 1)), "silent for too long");
        assert!(!mine(&look(Trigger::Period, 3)), "it is back");
        assert!(mine(&look(Trigger::UnknownVersion, 3)));
    }

    #[test]
    fn what_is_posted_is_read_as_it_was_written_and_garbage_is_nothing() {
        for head in [
            Head::Commit("c".to_owned()),
            Head::Empty,
            Head::Missing("why".to_owned()),
        ] {
            let found = PostedHead { beat: 3, head };
            assert_eq!(PostedHead::read(&found.write()), Some(found));
        }
        assert_eq!(PostedHead::read("{"), None);
    }
}

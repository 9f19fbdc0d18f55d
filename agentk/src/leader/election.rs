//! Who leads, by what one sees of the lease. Pure.
//!
//! Clocks of different pods are not compared: a lease has run out when it has
//! not changed for its duration since this pod first saw it so.

use std::time::Duration;

use tokio::time::Instant;

/// A lease as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Empty if nobody holds it.
    pub(super) holder: String,
    /// Changes with each write.
    pub(super) version: String,
    pub(super) duration: Duration,
    pub(super) transitions: i32,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Another pod leads.
    Wait,
    /// Write the own name.
    Take {
        /// How often the lease changed hands.
        transitions: i32,
    },
    /// Say that one still leads.
    Renew {
        /// As it was.
        transitions: i32,
    },
}

/// One candidate's view.
#[derive(Debug)]
pub(super) struct Election {
    identity: String,
    deadline: Duration,
    seen: Option<(String, Instant)>,
    renewed: Option<Instant>,
}

impl Election {
    pub(super) fn new(identity: String, deadline: Duration) -> Self {
        Self {
            identity,
            deadline,
            seen: None,
            renewed: None,
        }
    }

    /// Decides about the lease, or its absence, read now.
    pub(super) fn decide(&mut self, record: Option<Record>, now: Instant) -> Step {
        let Some(record) = record else {
            return Step::Take { transitions: 0 };
        };
        if self
            .seen
            .as_ref()
            .is_none_or(|(version, _)| *version != record.version)
        {
            self.seen = Some((record.version.clone(), now));
        }
        if record.holder == self.identity {
            return Step::Renew {
                transitions: record.transitions,
            };
        }
        self.renewed = None;
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        if record.holder.is_empty() || now.duration_since(since) > record.duration {
            return Step::Take {
                transitions: record.transitions + 1,
            };
        }
        Step::Wait
    }

    /// The own name was written.
    pub(super) fn renewed(&mut self, now: Instant) {
        self.renewed = Some(now);
    }

    /// Whether this pod may act as the leader.
    pub(super) fn leads(&self, now: Instant) -> bool {
        self.renewed
            .is_some_and(|renewed| now.duration_since(renewed) < self.deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn election() -> Election {
        Election::new("me".into(), 10 * SECOND)
    }

    fn held_by(holder: &str, version: &str) -> Option<Record> {
        Some(Record {
            holder: holder.into(),
            version: version.into(),
            duration: 15 * SECOND,
            transitions: 3,
        })
    }

    #[test]
    fn a_free_lease_is_taken_and_then_renewed() {
        let (mut election, now) = (election(), Instant::now());

        assert_eq!(election.decide(None, now), Step::Take { transitions: 0 });
        assert!(!election.leads(now));
        election.renewed(now);
        assert!(election.leads(now));
        assert_eq!(
            election.decide(held_by("me", "1"), now),
            Step::Renew { transitions: 3 }
        );
        assert_eq!(
            election.decide(held_by("", "2"), now),
            Step::Take { transitions: 4 }
        );
    }

    #[test]
    fn a_lease_that_is_renewed_stays_with_its_holder() {
        let (mut election, start) = (election(), Instant::now());

        for second in 0..60 {
            let version = (second / 5).to_string();
            let step = election.decide(held_by("other", &version), start + second * SECOND);
            assert_eq!(step, Step::Wait);
        }
    }

    #[test]
    fn a_lease_that_nobody_renews_is_taken_after_its_duration() {
        let (mut election, start) = (election(), Instant::now());

        assert_eq!(election.decide(held_by("other", "1"), start), Step::Wait);
        assert_eq!(
            election.decide(held_by("other", "1"), start + 15 * SECOND),
            Step::Wait
        );
        assert_eq!(
            election.decide(held_by("other", "1"), start + 16 * SECOND),
            Step::Take { transitions: 4 }
        );
    }

    #[test]
    fn a_leader_that_cannot_renew_stops_before_the_lease_runs_out() {
        let (mut election, start) = (election(), Instant::now());
        election.renewed(start);

        assert!(election.leads(start + 9 * SECOND));
        assert!(!election.leads(start + 10 * SECOND));
    }

    #[test]
    fn a_leader_that_lost_the_lease_does_not_lead() {
        let (mut election, now) = (election(), Instant::now());
        election.renewed(now);

        assert_eq!(election.decide(held_by("other", "1"), now), Step::Wait);

        assert!(!election.leads(now));
    }
}

//! Events queued for kas: like ones become one, warnings go first, and when
//! there is no room the oldest of the others go. Pure.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

use proto::events::rpc::{Event, ReportRequest};

use super::seen::SeenCounts;

/// The type of events that go first.
const WARNING: &str = "Warning";

/// What like events have in common.
type Fingerprint = u64;

/// What came of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offered {
    /// It was counted before.
    Duplicate,
    /// It is queued.
    Queued,
    /// It is queued, and others were dropped for want of room.
    QueuedInsteadOf {
        /// Occurrences that were dropped.
        dropped: u64,
    },
}

/// The events that are queued, and those of the report that kas has not acknowledged.
#[derive(Debug)]
pub(super) struct Queue {
    limit: usize,
    seen: SeenCounts,
    queued: HashMap<Fingerprint, Event>,
    warnings: VecDeque<Fingerprint>,
    others: VecDeque<Fingerprint>,
    /// Sent, but not yet acknowledged.
    in_flight: ReportRequest,
    dropped: u64,
}

impl Queue {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            seen: SeenCounts::new(2 * limit),
            queued: HashMap::new(),
            warnings: VecDeque::new(),
            others: VecDeque::new(),
            in_flight: ReportRequest::default(),
            dropped: 0,
        }
    }

    /// Adds an event as the cluster has it now; its id begins with its uid.
    pub(super) fn offer(&mut self, mut event: Event) -> Offered {
        let uid = event.id.rsplit_once('-').map_or("", |(uid, _)| uid);
        event.occurrences = self.seen.note(uid, event.count);
        if event.occurrences == 0 {
            return Offered::Duplicate;
        }
        let fingerprint = fingerprint(&event);
        if let Some(waiting) = self.queued.get_mut(&fingerprint) {
            event.occurrences += waiting.occurrences;
            event.first_seen = waiting.first_seen.or(event.first_seen);
            *waiting = event;
            return Offered::Queued;
        }
        let lane = if event.r#type == WARNING {
            &mut self.warnings
        } else {
            &mut self.others
        };
        lane.push_back(fingerprint);
        self.queued.insert(fingerprint, event);
        self.make_room()
    }

    fn make_room(&mut self) -> Offered {
        if self.queued.len() <= self.limit {
            return Offered::Queued;
        }
        let oldest = self.others.pop_front();
        let oldest = oldest.or_else(|| self.warnings.pop_front());
        let event = oldest.and_then(|oldest| self.queued.remove(&oldest));
        let occurrences = event.map_or(0, |event| event.occurrences);
        let dropped = u64::try_from(occurrences).unwrap_or_default();
        self.dropped += dropped;
        Offered::QueuedInsteadOf { dropped }
    }

    /// The next report, of at most so many events: the same one until it is acknowledged.
    pub(super) fn next(&mut self, most: usize) -> Option<ReportRequest> {
        if self.in_flight.events.is_empty() {
            while self.in_flight.events.len() < most
                && let Some(event) = self.first()
            {
                self.in_flight.events.push(event);
            }
            self.in_flight.dropped = std::mem::take(&mut self.dropped);
        }
        (!self.in_flight.events.is_empty()).then(|| self.in_flight.clone())
    }

    fn first(&mut self) -> Option<Event> {
        let fingerprint = self.warnings.pop_front();
        let fingerprint = fingerprint.or_else(|| self.others.pop_front())?;
        self.queued.remove(&fingerprint)
    }

    /// Notes that kas has the report.
    pub(super) fn acknowledged(&mut self) {
        self.in_flight = ReportRequest::default();
    }
}

/// Events are alike that say the same of the same object.
fn fingerprint(event: &Event) -> Fingerprint {
    let object = event.regarding.as_ref();
    let object = object.map(|it| (&it.api_version, &it.kind, &it.namespace, &it.name, &it.uid));
    let words = (&event.r#type, &event.reason, &event.message, &event.action);
    let mut hasher = DefaultHasher::new();
    (object, words, &event.reporter).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(uid: usize, count: i64, kind: &str, message: &str) -> Event {
        Event {
            id: format!("{uid}-{count}"),
            r#type: kind.to_owned(),
            message: message.to_owned(),
            count,
            ..Event::default()
        }
    }

    fn all(queue: &mut Queue) -> Vec<Event> {
        let mut reported = Vec::new();
        while let Some(report) = queue.next(7) {
            reported.extend(report.events);
            queue.acknowledged();
        }
        reported
    }

    #[test]
    fn like_events_become_one_and_keep_their_place() {
        let mut queue = Queue::new(10);
        queue.offer(event(1, 1, "Normal", "a"));
        queue.offer(event(2, 1, "Normal", "b"));

        queue.offer(event(1, 4, "Normal", "a"));
        queue.offer(event(3, 2, "Normal", "a"));

        let reported = all(&mut queue);
        let reported: Vec<_> = reported
            .iter()
            .map(|it| (&*it.id, it.occurrences))
            .collect();
        assert_eq!(reported, [("3-2", 6), ("2-1", 1)]);
    }

    #[test]
    fn a_report_stays_the_same_until_it_is_acknowledged() {
        let mut queue = Queue::new(10);
        queue.offer(event(1, 1, "Normal", "a"));
        let report = queue.next(5);

        queue.offer(event(2, 1, "Warning", "b"));
        queue.offer(event(1, 2, "Normal", "a"));

        assert_eq!(queue.next(5), report);
        queue.acknowledged();
        let ids: Vec<_> = all(&mut queue).into_iter().map(|it| it.id).collect();
        assert_eq!(ids, ["2-1", "1-2"]);
    }

    /// So few that they do not fit, and so many that it is known of each how far it was counted.
    const LIMIT: usize = 8;

    #[derive(Debug, Clone)]
    enum Step {
        Offer { uid: usize, more: i64, warns: bool },
        Tell { most: usize },
        Acknowledge,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..LIMIT, 0..3_i64, any::<bool>())
                .prop_map(|(uid, more, warns)| Step::Offer { uid, more, warns }),
            1 => (1..9_usize).prop_map(|most| Step::Tell { most }),
            1 => Just(Step::Acknowledge),
        ]
    }

    proptest! {
        /// Each occurrence is reported or counted as dropped, whatever happens; no more
        /// wait than fit; and no warning goes as long as something else could.
        #[test]
        fn nothing_is_lost_unnoticed(steps in prop::collection::vec(step(), 0..300)) {
            let mut queue = Queue::new(LIMIT);
            let (mut counts, mut happened) = (HashMap::new(), 0);
            let (mut reported, mut dropped) = (0, 0);
            let mut acknowledge = |queue: &mut Queue| {
                reported += queue.in_flight.events.iter().map(|it| it.occurrences).sum::<i64>();
                dropped += queue.in_flight.dropped;
                queue.acknowledged();
            };
            for step in steps {
                match step {
                    Step::Offer { uid, more, warns } => {
                        // Its type is one of the event's own.
                        let kind = if warns { "Warning" } else { "Normal" };
                        let uid = 2 * uid + usize::from(warns);
                        let count = counts.entry(uid).or_insert(0_i64);
                        *count += more;
                        happened += more;
                        let warnings = queue.warnings.len();
                        let offered = queue.offer(event(uid, *count, kind, &uid.to_string()));
                        prop_assert_eq!(offered == Offered::Duplicate, more == 0);
                        prop_assert!(queue.warnings.len() >= warnings);
                    }
                    Step::Tell { most } => {
                        let report = queue.next(most);
                        prop_assert!(report.is_none_or(|it| !it.events.is_empty()));
                    }
                    Step::Acknowledge => acknowledge(&mut queue),
                }
                prop_assert!(queue.queued.len() <= LIMIT);
                prop_assert_eq!(queue.queued.len(), queue.warnings.len() + queue.others.len());
            }
            while queue.next(5).is_some() {
                acknowledge(&mut queue);
            }
            let left = i64::try_from(dropped + queue.dropped).unwrap();
            prop_assert_eq!(reported + left, happened);
        }
    }
}

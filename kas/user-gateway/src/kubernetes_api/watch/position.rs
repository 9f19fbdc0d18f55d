//! How far a watch has come, and from where it can go on.

use super::{
    event::{Event, Kind},
    initial::{Initial, Told},
};

/// Where a watch stands for its client.
///
/// * With a resource version in the request, other than `0`, events are in
///   order from the first: the last one's version is where to go on, and before
///   the first it is the request's.
/// * Without one, or with `0`, the watch begins with an `ADDED` for each object
///   that is there, in any order: their versions say nothing. The first
///   `MODIFIED`, `DELETED` or `BOOKMARK` shows that they are through.
/// * With `sendInitialEvents=true` only the bookmark that is annotated
///   `k8s.io/initial-events-end` shows it, since the client waits for that very
///   bookmark. Until then the request is made again as it was, and what the client
///   has already is kept from it (see [`Initial`]).
/// * As long as the client has no event at all, its own request can be made
///   again as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kubernetes_api) struct Position {
    phase: Phase,
    version: Option<Box<str>>,
    /// What the client has of a watch-list that is not through.
    initial: Option<Box<Initial>>,
    lists: bool,
    hides_bookmarks: bool,
    /// Whether the client has an event.
    begun: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Events tell of objects that were there before.
    Initial,
    /// Events are in order.
    Following,
    /// There was an event without a version.
    Lost,
    /// What a watch-list told before a break is not what it tells after it, so that its client
    /// would keep objects that are gone.
    Differs,
    /// The last event was there.
    Over,
}

/// Where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Point {
    /// At the beginning, with the request as it was.
    Start,
    /// Behind this resource version.
    Behind(Box<str>),
    /// Nowhere: all was said.
    End,
}

impl Position {
    /// The beginning of a watch from `version`, as its request gives it.
    pub(super) fn new(version: Option<&str>, initial: Option<bool>, hides_bookmarks: bool) -> Self {
        let version = version.filter(|version| !version.is_empty() && *version != "0");
        let lists = initial == Some(true);
        let follows = !lists && (version.is_some() || initial == Some(false));
        Self {
            phase: if follows {
                Phase::Following
            } else {
                Phase::Initial
            },
            version: version.filter(|_| follows).map(Into::into),
            initial: lists.then(Box::default),
            lists,
            hides_bookmarks,
            begun: false,
        }
    }

    /// The same, of a list whose end is not shown and which therefore cannot be repeated.
    pub(super) fn without_end(mut self) -> Self {
        self.initial = None;
        self
    }

    /// Takes note of an event; says whether it is for the client.
    pub(super) fn see(&mut self, event: Event) -> bool {
        if self.phase == Phase::Differs {
            return false;
        }
        if let Some(wanted) = self.see_initial(&event) {
            self.begun |= wanted;
            return wanted;
        }
        let hidden = event.kind == Kind::Bookmark && self.hides_bookmarks;
        match event.kind {
            Kind::Error => self.phase = Phase::Over,
            Kind::Unknown => self.phase = Phase::Lost,
            kind if self.phase == Phase::Initial => {
                let through = match kind {
                    Kind::Bookmark => !self.lists || event.initial_end,
                    Kind::Modified | Kind::Deleted => !self.lists,
                    Kind::Added | Kind::Error | Kind::Unknown => false,
                };
                if through {
                    self.advance(event.version);
                }
            }
            Kind::Added | Kind::Modified | Kind::Deleted | Kind::Bookmark => {
                self.advance(event.version);
            }
        }
        self.begun |= !hidden;
        !hidden
    }

    /// Takes note of an event of a watch-list that is not through, and says whether it is for the client; nothing if
    /// it is not one of these.
    fn see_initial(&mut self, event: &Event) -> Option<bool> {
        let initial = self.initial.as_mut()?;
        match event.kind {
            Kind::Added | Kind::Modified | Kind::Deleted => {
                match initial.see(event.version.as_deref()) {
                    Told::Now => return Some(true),
                    Told::Before => return Some(false),
                    Told::Differently => self.phase = Phase::Differs,
                    // What did not come again would be forgotten.
                    Told::Unknown if initial.is_incomplete() => self.phase = Phase::Differs,
                    Told::Unknown => {
                        self.initial = None;
                        return Some(true);
                    }
                }
            }
            Kind::Bookmark | Kind::Unknown if initial.is_incomplete() => {
                self.phase = Phase::Differs;
            }
            Kind::Bookmark | Kind::Error | Kind::Unknown => {
                self.initial = None;
                return None;
            }
        }
        self.initial = None;
        Some(false)
    }

    /// The watch begins again at [`Self::point`].
    pub(super) fn resume(&mut self) {
        if let Some(initial) = &mut self.initial {
            initial.repeat();
        }
    }

    /// Whether the watch must end at once, for its client to begin anew.
    pub(super) fn differs(&self) -> bool {
        self.phase == Phase::Differs
    }

    /// What comes is not understood.
    pub(super) fn lose(&mut self) {
        let initial = self.initial.take();
        self.phase = match initial.is_some_and(|it| it.is_incomplete()) {
            true => Phase::Differs,
            false => Phase::Lost,
        };
        self.begun = true;
    }

    /// Where to go on, if that is known.
    pub(super) fn point(&self) -> Option<Point> {
        match self.phase {
            Phase::Over => Some(Point::End),
            Phase::Lost | Phase::Differs => None,
            Phase::Initial | Phase::Following => self
                .version
                .clone()
                .map(Point::Behind)
                .or((!self.begun || self.initial.is_some()).then_some(Point::Start)),
        }
    }

    fn advance(&mut self, version: Option<Box<str>>) {
        self.phase = match (self.phase, &version) {
            (Phase::Initial | Phase::Following, Some(_)) => Phase::Following,
            (Phase::Over, _) => Phase::Over,
            (Phase::Differs, _) => Phase::Differs,
            (Phase::Lost, _) | (_, None) => Phase::Lost,
        };
        self.version = version;
    }
}

#[cfg(test)]
mod tests {
    use super::super::initial::MAX_OBJECTS;
    use super::*;

    fn event(kind: Kind, version: &str) -> Event {
        Event {
            kind,
            version: super::super::event::version(version.as_bytes()),
            initial_end: false,
        }
    }

    fn end(version: &str) -> Event {
        Event {
            initial_end: true,
            ..event(Kind::Bookmark, version)
        }
    }

    fn behind(version: &str) -> Option<Point> {
        Some(Point::Behind(version.into()))
    }

    /// Where a watch can go on after each event.
    fn walk(mut position: Position, events: Vec<Event>) -> Vec<Option<Point>> {
        let mut points = vec![position.point()];
        for event in events {
            position.see(event);
            points.push(position.point());
        }
        points
    }

    #[test]
    fn a_watch_from_a_version_goes_on_from_its_last_event() {
        let events = vec![
            event(Kind::Added, "8"),
            event(Kind::Bookmark, "9"),
            event(Kind::Deleted, "12"),
        ];

        let points = walk(Position::new(Some("7"), None, true), events);

        assert_eq!(points, ["7", "8", "9", "12"].map(behind));
    }

    #[test]
    fn a_watch_from_anywhere_goes_on_once_what_was_there_is_through() {
        for start in [None, Some(""), Some("0")] {
            for kind in [Kind::Modified, Kind::Deleted, Kind::Bookmark] {
                let events = vec![
                    event(Kind::Added, "9"),
                    event(Kind::Added, "3"),
                    event(kind, "10"),
                    event(Kind::Added, "11"),
                ];

                let points = walk(Position::new(start, None, false), events);

                let expected = [Some(Point::Start), None, None, behind("10"), behind("11")];
                assert_eq!(points, expected);
            }
        }
    }

    #[test]
    fn a_hidden_bookmark_counts_and_is_not_an_event_for_the_client() {
        let mut position = Position::new(None, None, true);

        assert!(!position.see(event(Kind::Bookmark, "5")));
        assert_eq!(position.point(), behind("5"));
        assert!(position.see(event(Kind::Added, "6")));
        assert_eq!(position.point(), behind("6"));
    }

    #[test]
    fn a_watch_list_goes_on_only_behind_its_own_bookmark() {
        for start in [None, Some("0"), Some("7")] {
            let events = vec![
                event(Kind::Added, "9"),
                event(Kind::Modified, "10"),
                event(Kind::Bookmark, "10"),
                end("11"),
                event(Kind::Deleted, "12"),
            ];

            let points = walk(Position::new(start, Some(true), false), events);

            let ends = [behind("11"), behind("12")];
            // Behind another bookmark it is not known whether the list's own is still to come.
            let start = Some(Point::Start);
            let expected = [start.clone(), start.clone(), start, None];
            assert_eq!(points, [&expected[..], &ends].concat());
        }
    }

    /// Which of the events are for the client.
    fn wanted(position: &mut Position, events: Vec<Event>) -> Vec<bool> {
        let see = |event| position.see(event);
        events.into_iter().map(see).collect()
    }

    #[test]
    fn a_watch_list_that_broke_tells_only_what_the_client_has_not() {
        let added = |version| event(Kind::Added, version);
        let mut position = Position::new(None, Some(true), false);
        assert_eq!(
            wanted(&mut position, vec![added("9"), added("3")]),
            [true; 2]
        );

        for (again, expected) in [
            (vec![added("3"), added("5")], vec![false, true]),
            (vec![added("9"), added("5")], vec![false; 2]),
        ] {
            assert_eq!(position.point(), Some(Point::Start));
            position.resume();
            assert_eq!(wanted(&mut position, again), expected);
        }
        position.resume();
        let last = vec![
            added("3"),
            added("9"),
            added("7"),
            added("5"),
            end("11"),
            added("12"),
        ];
        assert_eq!(
            wanted(&mut position, last),
            [false, false, true, false, true, true]
        );

        assert_eq!(position.point(), behind("12"));
        assert!(!position.differs());
    }

    #[test]
    fn a_watch_list_whose_objects_changed_behind_a_break_ends_before_its_bookmark() {
        let added = |version| event(Kind::Added, version);
        for again in [
            vec![added("9")],
            vec![added("9"), added("12")],
            vec![added("9"), event(Kind::Deleted, "12")],
        ] {
            let mut position = Position::new(None, Some(true), false);
            wanted(&mut position, vec![added("9"), added("3")]);
            position.resume();
            wanted(&mut position, again);
            assert!(!position.differs());

            assert_eq!(
                wanted(&mut position, vec![end("13"), added("14")]),
                [false; 2]
            );

            assert!(position.differs());
            assert_eq!(position.point(), None);
        }
    }

    #[test]
    fn versions_that_two_objects_share_end_a_watch_list_that_broke() {
        let added = |version| event(Kind::Added, version);
        for (before, again) in [
            (vec!["3"], vec!["3", "3"]),
            (vec!["3", "3"], vec!["3", "3"]),
        ] {
            let mut position = Position::new(None, Some(true), false);
            wanted(&mut position, before.into_iter().map(added).collect());
            position.resume();
            wanted(&mut position, again.into_iter().map(added).collect());

            assert!(position.differs());
        }
    }

    #[test]
    fn of_a_watch_list_only_so_many_objects_are_remembered() {
        let added = |version: usize| event(Kind::Added, &version.to_string());
        let mut position = Position::new(None, Some(true), false);
        wanted(&mut position, (0..MAX_OBJECTS).map(added).collect());
        assert_eq!(position.point(), Some(Point::Start));

        assert_eq!(wanted(&mut position, vec![added(MAX_OBJECTS)]), [true]);

        assert_eq!(position.point(), None);
        assert_eq!(wanted(&mut position, vec![end("9000")]), [true]);
        assert_eq!(position.point(), behind("9000"));
    }

    #[test]
    fn a_longer_list_that_broke_does_not_hide_what_is_gone() {
        let added = |version: usize| event(Kind::Added, &version.to_string());
        for last in [vec![added(MAX_OBJECTS)], vec![event(Kind::Added, "")]] {
            let mut position = Position::new(None, Some(true), false);
            wanted(&mut position, (0..MAX_OBJECTS).map(added).collect());
            position.resume();
            wanted(&mut position, (1..MAX_OBJECTS).map(added).collect());

            wanted(&mut position, last);

            assert_eq!(wanted(&mut position, vec![end("9000")]), [false]);
            assert!(position.differs());
        }
    }

    #[test]
    fn a_list_that_is_repeated_ends_with_its_own_bookmark_or_not_at_all() {
        let added = |version| event(Kind::Added, version);
        let mut position = Position::new(None, Some(true), false);
        wanted(&mut position, vec![added("9"), added("3")]);
        position.resume();

        let again = vec![added("3"), event(Kind::Bookmark, "11"), added("12")];
        assert_eq!(wanted(&mut position, again), [false; 3]);

        assert!(position.differs());
    }

    #[test]
    fn a_list_whose_end_is_not_shown_is_not_repeated() {
        let mut position = Position::new(None, Some(true), false).without_end();
        assert_eq!(position.point(), Some(Point::Start));

        assert!(position.see(event(Kind::Added, "9")));

        assert_eq!(position.point(), None);
    }

    #[test]
    fn a_watch_without_initial_events_follows_at_once() {
        let events = vec![event(Kind::Added, "9")];

        let points = walk(Position::new(None, Some(false), false), events);

        assert_eq!(points, [Some(Point::Start), behind("9")]);
    }

    #[test]
    fn an_event_without_a_version_or_of_no_known_type_loses_the_place() {
        for odd in [event(Kind::Added, ""), event(Kind::Unknown, "9")] {
            let events = vec![odd, event(Kind::Added, "10")];

            let points = walk(Position::new(Some("7"), None, false), events);

            assert_eq!(points, [behind("7"), None, None]);
        }
    }

    #[test]
    fn nothing_follows_an_error() {
        let events = vec![event(Kind::Error, "")];

        let points = walk(Position::new(Some("7"), None, false), events);

        assert_eq!(points, [behind("7"), Some(Point::End)]);
    }
}

//! How far a watch has come, and from where it can go on.

use super::event::{Event, Kind};

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
///   bookmark.
/// * As long as the client has no event at all, its own request can be made
///   again as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kubernetes_api) struct Position {
    phase: Phase,
    version: Option<Box<str>>,
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
            lists,
            hides_bookmarks,
            begun: false,
        }
    }

    /// Takes note of an event; says whether it is for the client.
    pub(super) fn see(&mut self, event: Event) -> bool {
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

    /// What comes is not understood.
    pub(super) fn lose(&mut self) {
        self.phase = Phase::Lost;
        self.begun = true;
    }

    /// Where to go on, if that is known.
    pub(super) fn point(&self) -> Option<Point> {
        match self.phase {
            Phase::Over => Some(Point::End),
            Phase::Lost => None,
            Phase::Initial | Phase::Following => self
                .version
                .clone()
                .map(Point::Behind)
                .or((!self.begun).then_some(Point::Start)),
        }
    }

    fn advance(&mut self, version: Option<Box<str>>) {
        self.phase = match (self.phase, &version) {
            (Phase::Initial | Phase::Following, Some(_)) => Phase::Following,
            (Phase::Over, _) => Phase::Over,
            (Phase::Lost, _) | (_, None) => Phase::Lost,
        };
        self.version = version;
    }
}

#[cfg(test)]
mod tests {
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
            let expected = [Some(Point::Start), None, None, None];
            assert_eq!(points, [&expected[..], &ends].concat());
        }
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

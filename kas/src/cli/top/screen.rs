//! What `kas top` shows: pure, but for the terminal that it is drawn on.

use admin::v1::{FleetStatus, ListAgentsResponse, ListReplicasResponse, ListRequestsResponse};
use jiff::Timestamp;
use ratatui::{
    Frame,
    crossterm::event::KeyCode,
    layout::{Alignment, Constraint, Layout},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::{Paragraph, Row, Table, Tabs, Wrap},
};
use tokio::time::Instant;

use super::columns::{self, Column};
use crate::cli::CommandError;

/// Seconds in which somebody must act before a certificate ends.
const CERTIFICATE_WARNING: i64 = 14 * 86_400;
const KEYS: &str = "1 2 3 tab: view   j k g G: scroll   q: leave";
const AGENTS: [Column; 8] = [
    Column::new("ID", 0, 12),
    Column::rest("NAME", 0),
    Column::new("STATE", 0, 14),
    Column::new("PODS", 2, 6),
    Column::new("CONNECTED", 1, 10),
    Column::new("VERSION", 3, 26),
    Column::new("KUBERNETES", 4, 26),
    Column::new("REPLICAS", 5, 40),
];
const REPLICAS: [Column; 9] = [
    Column::new("REPLICA", 0, 40),
    Column::new("STATE", 0, 12),
    Column::new("AGENTS", 2, 10),
    Column::new("IDLE/TUNNELS", 3, 16),
    Column::new("REQUESTS", 2, 10),
    Column::new("STORE", 4, 12),
    Column::new("UP", 5, 6),
    Column::new("VERSION", 6, 24),
    Column::rest("PROBLEM", 1),
];
const REQUESTS: [Column; 6] = [
    Column::new("AGE", 0, 6),
    Column::new("CALLER", 1, 30),
    Column::new("AGENT", 1, 30),
    Column::new("VERB", 0, 12),
    Column::rest("PATH", 0),
    Column::new("REPLICA", 2, 30),
];

/// What is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Tab {
    #[default]
    Fleet,
    Replicas,
    Requests,
}

/// What the server told.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) status: FleetStatus,
    pub(super) at: Instant,
    pub(super) list: List,
}

/// What it told for one tab.
#[derive(Debug)]
pub(super) enum List {
    Agents(ListAgentsResponse),
    Replicas(ListReplicasResponse),
    Requests(ListRequestsResponse),
}

/// The screen.
#[derive(Debug, Default)]
pub(super) struct Screen {
    tab: Tab,
    /// What was told last, and when.
    status: Option<(FleetStatus, Instant)>,
    agents: Option<ListAgentsResponse>,
    replicas: Option<ListReplicasResponse>,
    requests: Option<ListRequestsResponse>,
    /// Requests a second, and failed ones, since the last picture.
    rates: Option<(f64, f64)>,
    problem: Option<String>,
    /// Rows that are scrolled over.
    offset: usize,
    /// Rows for which there is room.
    height: usize,
}

/// A list, as it is shown.
struct Shown {
    columns: &'static [Column],
    /// Its cells, and whether somebody should look.
    rows: Vec<(Vec<String>, bool)>,
    /// How many there are, in the list or not.
    total: u32,
    /// In place of no rows.
    none: &'static str,
}

impl Tab {
    const ALL: [Self; 3] = [Self::Fleet, Self::Replicas, Self::Requests];

    fn title(self) -> &'static str {
        match self {
            Self::Fleet => "1 fleet",
            Self::Replicas => "2 replicas",
            Self::Requests => "3 requests",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Fleet => Self::Replicas,
            Self::Replicas => Self::Requests,
            Self::Requests => Self::Fleet,
        }
    }
}

impl Screen {
    pub(super) fn tab(&self) -> Tab {
        self.tab
    }

    /// A key was pressed.
    pub(super) fn press(&mut self, key: KeyCode) {
        let tab = match key {
            KeyCode::Char('1') => Tab::Fleet,
            KeyCode::Char('2') => Tab::Replicas,
            KeyCode::Char('3') => Tab::Requests,
            KeyCode::Tab | KeyCode::Right => self.tab.next(),
            KeyCode::BackTab | KeyCode::Left => self.tab.next().next(),
            _ => {
                let page = self.height.max(1);
                self.offset = match key {
                    KeyCode::Char('j') | KeyCode::Down => self.offset + 1,
                    KeyCode::Char('k') | KeyCode::Up => self.offset.saturating_sub(1),
                    KeyCode::PageDown => self.offset + page,
                    KeyCode::PageUp => self.offset.saturating_sub(page),
                    KeyCode::Char('g') | KeyCode::Home => 0,
                    KeyCode::Char('G') | KeyCode::End => usize::MAX,
                    _ => self.offset,
                };
                self.keep_in_list();
                return;
            }
        };
        if tab != self.tab {
            self.offset = 0;
            self.tab = tab;
        }
    }

    /// The last page stays full.
    fn keep_in_list(&mut self) {
        let rows = self.list().map_or(0, |list| list.rows.len());
        self.offset = self.offset.min(rows.saturating_sub(self.height.max(1)));
    }

    /// The server has answered, or not: then what it told last stays, with the reason.
    pub(super) fn show(&mut self, answer: Result<Picture, CommandError>) {
        match answer {
            Ok(Picture { status, at, list }) => {
                let before = self.status.replace((status.clone(), at));
                let rates = before.and_then(|before| rates(&before, &(status, at)));
                self.rates = rates.or(self.rates);
                self.problem = None;
                match list {
                    List::Agents(list) => self.agents = Some(list),
                    List::Replicas(list) => self.replicas = Some(list),
                    List::Requests(list) => self.requests = Some(list),
                }
                self.keep_in_list();
            }
            Err(error) => self.problem = Some(format!("{:#}", anyhow::Error::from(error))),
        }
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let headline = self.headline();
        let lines: usize = headline
            .iter()
            .map(|it| lines(it, frame.area().width))
            .sum();
        let headline = Paragraph::new(headline).wrap(Wrap { trim: true });
        let parts = [
            Constraint::Length(u16::try_from(lines).unwrap_or(u16::MAX).max(2)),
            Constraint::Length(1),
            Constraint::Min(2),
            Constraint::Length(1),
        ];
        let [head, tabs, list, foot] = Layout::vertical(parts).areas(frame.area());
        frame.render_widget(headline, head);
        let at = Tab::ALL.iter().position(|it| *it == self.tab);
        let chosen = Style::new().add_modifier(Modifier::REVERSED);
        let titles = Tabs::new(Tab::ALL.map(Tab::title)).select(at);
        frame.render_widget(titles.highlight_style(chosen), tabs);
        self.height = usize::from(list.height.saturating_sub(1));
        self.keep_in_list();
        let Some(shown) = self.list() else { return };
        let cells: Vec<_> = shown.rows.iter().map(|(row, _)| row.clone()).collect();
        let fitting = columns::fit(shown.columns, &cells, list.width);
        let rows = shown.rows.iter().skip(self.offset).take(self.height);
        let rows = rows.map(|(cells, alarming)| {
            let cell = |(at, width): &(usize, u16)| {
                columns::cut(cells.get(*at).map_or("", String::as_str), *width)
            };
            // Said in words too.
            let style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
            let row = Row::new(fitting.iter().map(cell).collect::<Vec<_>>());
            if *alarming { row.style(style) } else { row }
        });
        let heads = fitting.iter().map(|(at, _)| shown.columns[*at].head);
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let widths = fitting.iter().map(|(_, width)| Constraint::Length(*width));
        let table = Table::new(rows, widths)
            .column_spacing(columns::GAP)
            .header(Row::new(heads.collect::<Vec<_>>()).style(bold));
        match shown.rows.is_empty() {
            true => frame.render_widget(Paragraph::new(shown.none), list),
            false => frame.render_widget(table, list),
        }
        let last = (self.offset + self.height).min(shown.rows.len());
        let place = format!("{}-{last} of {}", self.offset + 1, shown.total);
        frame.render_widget(Paragraph::new(KEYS), foot);
        if last > 0 && usize::from(foot.width) > KEYS.len() + place.len() {
            frame.render_widget(Paragraph::new(place).alignment(Alignment::Right), foot);
        }
    }

    fn headline(&self) -> Vec<Line<'static>> {
        let alarm = Style::new().add_modifier(Modifier::BOLD);
        let mut lines = match &self.status {
            None => vec![Line::from("asking the server …")],
            Some((status, _)) => {
                let silent = match status.replicas_silent {
                    0 => String::new(),
                    silent => format!(" ({silent} silent)"),
                };
                let first = format!(
                    "{} of {} agents connected, {}{silent}, store {}",
                    status.agents_connected,
                    status.agents,
                    counted(status.replicas, "replica"),
                    status.store,
                );
                let rates = self.rates.map_or(String::new(), |(all, failed)| {
                    format!("{all:.1} requests/s, {failed:.1} failed/s, ")
                });
                let second = format!("{rates}{} in progress", status.requests_in_progress);
                vec![Line::from(first), Line::from(second)]
            }
        };
        let coverage = self
            .status
            .as_ref()
            .and_then(|(it, _)| it.coverage.as_ref());
        let incomplete = coverage.filter(|it| !it.complete).map(|it| &it.problem);
        let problem = match (&self.problem, incomplete) {
            (Some(problem), _) => Some(format!("NO ANSWER: {problem}")),
            (None, Some(problem)) => Some(format!("NOT COMPLETE: {problem}")),
            (None, None) => None,
        };
        lines.extend(problem.map(|it| Line::styled(it, alarm)));
        let status = self.status.as_ref().map(|(status, _)| status);
        let ends = status.and_then(certificate_ends);
        lines.extend(ends.map(|it| Line::styled(it, alarm)));
        lines
    }

    /// None before the server has told it.
    fn list(&self) -> Option<Shown> {
        let now = self.status.as_ref().and_then(|(status, _)| as_of(status));
        match self.tab {
            Tab::Fleet => self.agents.as_ref().map(|list| Shown {
                columns: &AGENTS,
                rows: list.agents.iter().map(|it| agent(it, now)).collect(),
                total: list.total,
                none: "no agents are registered or connected",
            }),
            Tab::Replicas => self.replicas.as_ref().map(|list| Shown {
                columns: &REPLICAS,
                rows: list.replicas.iter().map(|it| replica(it, now)).collect(),
                total: u32::try_from(list.replicas.len()).unwrap_or(u32::MAX),
                none: "no replica is known",
            }),
            Tab::Requests => self.requests.as_ref().map(|list| Shown {
                columns: &REQUESTS,
                rows: list.requests.iter().map(|it| request(it, now)).collect(),
                total: list.total,
                none: "no requests are in progress",
            }),
        }
    }
}

/// Lines that a text may need: words are not cut.
fn lines(text: &Line<'_>, width: u16) -> usize {
    match text.width().div_ceil(usize::from(width.max(1))) {
        0 | 1 => 1,
        more => more + 1,
    }
}

/// The server's time, by its own clock: this machine's may be another.
fn as_of(status: &FleetStatus) -> Option<Timestamp> {
    status.coverage.as_ref()?.as_of.parse().ok()
}

/// The certificate that ends first, if that is soon or was.
fn certificate_ends(status: &FleetStatus) -> Option<String> {
    let first = status.certificates.first()?;
    let ends: Timestamp = first.not_after.parse().ok()?;
    let left = ends.duration_since(as_of(status)?).as_secs();
    let when = match left {
        CERTIFICATE_WARNING.. => return None,
        0.. => format!("ends in {} days", left / 86_400),
        _ => "has ended".to_owned(),
    };
    Some(format!(
        "CERTIFICATE {when}: {} of {}",
        first.file, first.replica
    ))
}

/// How long ago that was, as Kubernetes tells ages; empty where that is not known.
fn age(since: &str, now: Option<Timestamp>) -> String {
    let since: Option<Timestamp> = since.parse().ok();
    let Some((since, now)) = since.zip(now) else {
        return String::new();
    };
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn counted(number: u32, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn agent(it: &admin::v1::Agent, now: Option<Timestamp>) -> (Vec<String>, bool) {
    let label = |name: &str| it.labels.get(name).cloned().unwrap_or_default();
    let cells = vec![
        it.id.to_string(),
        it.name.clone(),
        it.state.clone(),
        it.process_count.to_string(),
        age(&it.connected_since, now),
        label("version"),
        label("kubernetes"),
        it.replicas.join(","),
    ];
    (cells, it.state != "connected")
}

fn replica(it: &admin::v1::ReplicaEntry, now: Option<Timestamp>) -> (Vec<String>, bool) {
    let details = it.details.as_ref();
    let told =
        |tell: &dyn Fn(&admin::v1::ReplicaDetails) -> String| details.map(tell).unwrap_or_default();
    let cells = vec![
        it.id.clone(),
        it.state.clone(),
        told(&|it| it.agents.to_string()),
        told(&|it| {
            let tunnels = it.tunnels.unwrap_or_default();
            format!("{}/{}", tunnels.idle, tunnels.alive)
        }),
        told(&|it| it.requests_in_progress.to_string()),
        told(&|it| it.store.clone()),
        told(&|it| age(&it.started_at, now)),
        it.version.clone(),
        it.problem.clone(),
    ];
    (cells, it.state != "serving" || details.is_none())
}

fn request(it: &admin::v1::RequestInProgress, now: Option<Timestamp>) -> (Vec<String>, bool) {
    let agent = it.agent.clone().unwrap_or_default();
    let agent = match agent.name.is_empty() {
        true => agent.id.to_string(),
        false => agent.name,
    };
    let cells = vec![
        age(&it.started_at, now),
        it.caller.clone(),
        agent,
        it.verb.clone(),
        it.path.clone(),
        it.replica.clone(),
    ];
    (cells, false)
}

/// Requests a second between two pictures; none if a replica has come or gone, with its counts.
fn rates(
    (before, then): &(FleetStatus, Instant),
    (status, now): &(FleetStatus, Instant),
) -> Option<(f64, f64)> {
    let seconds = now.saturating_duration_since(*then).as_secs_f64();
    let same = before.replicas == status.replicas;
    let more = |before: u64, now: u64| {
        let more = u32::try_from(now.checked_sub(before)?).ok()?;
        Some(f64::from(more) / seconds)
    };
    if !same || seconds <= 0.0 {
        return None;
    }
    Some((
        more(before.requests_total, status.requests_total)?,
        more(before.requests_failed, status.requests_failed)?,
    ))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use admin::v1::{Agent, Certificate, Coverage, ReplicaDetails, ReplicaEntry};
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    const NOW: &str = "2026-03-01T12:00:00Z";

    fn picture(at: Instant, requests: u64, problem: &str, agents: i64) -> Picture {
        let gone = Agent {
            id: 7,
            name: "prod-eu".into(),
            state: "disconnected".into(),
            ..Agent::default()
        };
        let there = (8..).map(|id| Agent {
            id,
            name: format!("shop-{id}"),
            state: "connected".into(),
            process_count: 2,
            connected_since: "2026-03-01T11:57:00Z".into(),
            labels: [("version", "v18.5.0"), ("kubernetes", "v1.33.0")]
                .map(|(name, value)| (name.into(), value.into()))
                .into(),
            replicas: vec!["replica-1".into(), "replica-2".into()],
            ..Agent::default()
        });
        let rest = usize::try_from(agents - 1).unwrap();
        Picture {
            status: FleetStatus {
                agents: 30,
                agents_connected: 29,
                replicas: 3,
                store: "available".into(),
                requests_total: requests,
                coverage: Some(Coverage {
                    complete: problem.is_empty(),
                    problem: problem.into(),
                    as_of: NOW.into(),
                    ..Coverage::default()
                }),
                ..FleetStatus::default()
            },
            at,
            list: List::Agents(ListAgentsResponse {
                agents: [gone].into_iter().chain(there.take(rest)).collect(),
                total: 30,
                ..ListAgentsResponse::default()
            }),
        }
    }

    fn drawn(screen: &mut Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_headline_says_how_many_are_there_and_how_many_requests_a_second() {
        let mut screen = Screen::default();
        let now = Instant::now();
        assert!(drawn(&mut screen, 80, 24).contains("asking the server"));
        screen.show(Ok(picture(now, 100, "", 2)));
        screen.show(Ok(picture(now + Duration::from_secs(2), 120, "", 2)));

        for (width, height) in [(80, 24), (140, 40)] {
            let text = drawn(&mut screen, width, height);

            let told = "29 of 30 agents connected, 3 replicas, store available";
            assert!(text.contains(told), "{text}");
            assert!(text.contains("10.0 requests/s, 0.0 failed/s"), "{text}");
            assert!(text.contains("prod-eu  disconnected"), "{text}");
            assert!(text.contains("shop-8   connected     2     3m"), "{text}");
            assert!(text.contains("1-2 of 30"), "{text}");
            assert!(!text.contains("NOT COMPLETE"), "{text}");
            assert_eq!(text.contains("replica-1,replica-2"), width == 140, "{text}");
        }
    }

    #[test]
    fn what_is_not_known_and_who_does_not_answer_is_said_in_whole() {
        let mut screen = Screen::default();
        let long = "the store is away ".repeat(8);
        screen.show(Ok(picture(Instant::now(), 1, &format!("{long}!"), 1)));
        let text = drawn(&mut screen, 80, 24);
        assert!(
            text.contains("NOT COMPLETE: the store is away") && text.contains('!'),
            "{text}"
        );

        screen.show(Err(tonic::Status::unavailable("gone").into()));

        let text = drawn(&mut screen, 80, 24);
        assert!(text.contains("NO ANSWER: the server says: gone"), "{text}");
        assert!(text.contains("prod-eu"), "what was told last stays: {text}");
    }

    #[test]
    fn a_certificate_that_ends_soon_is_named() {
        let mut screen = Screen::default();
        for (not_after, told) in [
            (
                "2026-03-14T11:00:00Z",
                "CERTIFICATE ends in 12 days: /tls.crt of a",
            ),
            (
                "2026-02-28T12:00:00Z",
                "CERTIFICATE has ended: /tls.crt of a",
            ),
            ("2027-01-01T00:00:00Z", ""),
        ] {
            let mut picture = picture(Instant::now(), 1, "", 1);
            picture.status.certificates = vec![Certificate {
                file: "/tls.crt".into(),
                not_after: not_after.into(),
                replica: "a".into(),
            }];
            screen.show(Ok(picture));

            let text = drawn(&mut screen, 80, 24);

            assert!(text.contains(told), "{text}");
            assert_eq!(text.contains("CERTIFICATE"), !told.is_empty(), "{text}");
        }
    }

    #[test]
    fn keys_choose_what_is_shown_and_scroll_no_further_than_there_is() {
        let mut screen = Screen::default();
        screen.show(Ok(picture(Instant::now(), 1, "", 30)));
        // Headline, tabs, heads and keys leave ten rows.
        drawn(&mut screen, 80, 15);

        screen.press(KeyCode::Char('k'));
        screen.press(KeyCode::Char('j'));
        assert!(drawn(&mut screen, 80, 15).contains("2-11 of 30"));
        screen.press(KeyCode::PageDown);
        assert!(drawn(&mut screen, 80, 15).contains("12-21 of 30"));
        screen.press(KeyCode::Char('G'));
        let text = drawn(&mut screen, 80, 15);
        assert!(
            text.contains("21-30 of 30") && text.contains("shop-36"),
            "{text}"
        );

        screen.press(KeyCode::Tab);
        assert_eq!(screen.tab(), Tab::Replicas);
        screen.press(KeyCode::BackTab);
        screen.press(KeyCode::Char('3'));
        assert_eq!(screen.tab(), Tab::Requests);
        assert_eq!(screen.offset, 0);
    }

    #[test]
    fn a_replica_that_does_not_answer_is_shown_with_the_reason() {
        let mut screen = Screen::default();
        let entry = |id: &str, problem: &str| ReplicaEntry {
            id: id.into(),
            state: "serving".into(),
            details: problem.is_empty().then(|| ReplicaDetails {
                agents: 12,
                store: "available".into(),
                started_at: "2026-02-27T12:00:00Z".into(),
                ..ReplicaDetails::default()
            }),
            problem: problem.into(),
            ..ReplicaEntry::default()
        };
        screen.show(Ok(Picture {
            list: List::Replicas(ListReplicasResponse {
                replicas: vec![entry("a", ""), entry("b", "no answer within 2s")],
                ..ListReplicasResponse::default()
            }),
            ..picture(Instant::now(), 1, "", 1)
        }));
        screen.press(KeyCode::Char('2'));

        for (width, up) in [(80, ""), (140, "  2d")] {
            let text = drawn(&mut screen, width, 24);

            let told = format!("12      0/0           0         available{up}");
            assert!(text.contains(&told), "{text}");
            assert!(text.contains("no answer within 2s"), "{text}");
        }
    }

    #[test]
    fn nothing_is_said_in_words() {
        let mut screen = Screen::default();
        screen.show(Ok(Picture {
            list: List::Requests(ListRequestsResponse::default()),
            ..picture(Instant::now(), 1, "", 1)
        }));
        screen.press(KeyCode::Char('3'));

        assert!(drawn(&mut screen, 80, 24).contains("no requests are in progress"));
    }
}

//! What `kas top` shows: pure, but for the terminal that it is drawn on.

use admin::v1::{
    FleetStatus, ListAgentsResponse, ListReplicasResponse, ListRequestsResponse,
    ListSessionsResponse,
};
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

use super::{
    columns,
    rows::{self, Shown, as_of},
};
use crate::cli::CommandError;

/// Seconds in which somebody must act before a certificate ends.
const CERTIFICATE_WARNING: i64 = 14 * 86_400;
const KEYS: &str = "1 2 3 4 tab: view   j k g G: scroll   q: leave";

/// What is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Tab {
    #[default]
    Fleet,
    Replicas,
    Sessions,
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
    Sessions(ListSessionsResponse),
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
    sessions: Option<ListSessionsResponse>,
    requests: Option<ListRequestsResponse>,
    /// Requests a second, and failed ones, since the last picture.
    rates: Option<(f64, f64)>,
    problem: Option<String>,
    /// Rows that are scrolled over.
    offset: usize,
    /// Rows for which there is room.
    height: usize,
}

impl Tab {
    const ALL: [Self; 4] = [Self::Fleet, Self::Replicas, Self::Sessions, Self::Requests];

    fn title(self) -> &'static str {
        match self {
            Self::Fleet => "1 fleet",
            Self::Replicas => "2 replicas",
            Self::Sessions => "3 sessions",
            Self::Requests => "4 requests",
        }
    }

    /// The one so many further to the right, around the end.
    fn further(self, step: usize) -> Self {
        let mut around = Self::ALL.into_iter().cycle();
        let found = around.by_ref().find(|it| *it == self);
        around.nth(step.saturating_sub(1)).or(found).unwrap_or(self)
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
            KeyCode::Char('3') => Tab::Sessions,
            KeyCode::Char('4') => Tab::Requests,
            KeyCode::Tab | KeyCode::Right => self.tab.further(1),
            KeyCode::BackTab | KeyCode::Left => self.tab.further(Tab::ALL.len() - 1),
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
                    List::Sessions(list) => self.sessions = Some(list),
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
                let scope = status.coverage.as_ref().map_or("", |it| &it.scope);
                let place = match scope {
                    "replica" => " to this replica",
                    _ => "",
                };
                let degraded = match status.agents_degraded {
                    0 => String::new(),
                    degraded => format!(" ({degraded} degraded)"),
                };
                let first = format!(
                    "{} of {} agents connected{place}{degraded}, {}{silent}, store {}",
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
            Tab::Fleet => self.agents.as_ref().map(|list| rows::agents(list, now)),
            Tab::Replicas => self.replicas.as_ref().map(|list| rows::replicas(list, now)),
            Tab::Sessions => self.sessions.as_ref().map(|list| rows::sessions(list, now)),
            Tab::Requests => self.requests.as_ref().map(|list| rows::requests(list, now)),
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

fn counted(number: u32, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
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
mod tests;

//! What `kas top` shows: pure, but for the terminal that it is drawn on.

use admin::v1::{FleetStatus, ListAgentsResponse, ListReplicasResponse, ListRequestsResponse};
use ratatui::{
    Frame,
    crossterm::event::KeyCode,
    layout::{Constraint, Layout},
    style::{Modifier, Style},
    text::Line,
    widgets::{Paragraph, Row, Table, Tabs},
};
use tokio::time::Instant;

use crate::cli::CommandError;

/// What is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Tab {
    #[default]
    Fleet,
    Replicas,
    Requests,
}

/// What the server told last.
#[derive(Debug, Default)]
pub(super) struct Picture {
    pub(super) status: FleetStatus,
    pub(super) at: Option<Instant>,
    pub(super) agents: ListAgentsResponse,
    pub(super) replicas: ListReplicasResponse,
    pub(super) requests: ListRequestsResponse,
}

/// The screen.
#[derive(Debug, Default)]
pub(super) struct Screen {
    tab: Tab,
    picture: Picture,
    /// Requests a second, and failed ones, since the last picture.
    rates: Option<(f64, f64)>,
    problem: Option<String>,
    /// Rows that are scrolled over.
    offset: usize,
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

    /// A key was pressed; returns whether other things are to be asked for.
    pub(super) fn press(&mut self, key: KeyCode) -> bool {
        let tab = match key {
            KeyCode::Char('1') => Tab::Fleet,
            KeyCode::Char('2') => Tab::Replicas,
            KeyCode::Char('3') => Tab::Requests,
            KeyCode::Tab | KeyCode::Right => self.tab.next(),
            KeyCode::Char('j') | KeyCode::Down => {
                let last = self.rows().len().saturating_sub(1);
                self.offset = (self.offset + 1).min(last);
                return false;
            }
            KeyCode::Char('k') | KeyCode::Up => {
                self.offset = self.offset.saturating_sub(1);
                return false;
            }
            _ => return false,
        };
        self.offset = 0;
        let changed = tab != self.tab;
        self.tab = tab;
        changed
    }

    /// The server has answered, or not: then what it told last stays, with the reason.
    pub(super) fn show(&mut self, answer: Result<Picture, CommandError>) {
        match answer {
            Ok(picture) => {
                self.rates = rates(&self.picture, &picture).or(self.rates);
                self.problem = None;
                self.picture = picture;
            }
            Err(error) => self.problem = Some(format!("{:#}", anyhow::Error::from(error))),
        }
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let parts = [
            Constraint::Length(2),
            Constraint::Length(1),
            Constraint::Min(1),
            Constraint::Length(1),
        ];
        let [head, tabs, list, foot] = Layout::vertical(parts).areas(frame.area());
        frame.render_widget(Paragraph::new(self.headline()), head);
        let at = Tab::ALL.iter().position(|it| *it == self.tab);
        let chosen = Style::new().add_modifier(Modifier::REVERSED);
        let titles = Tabs::new(Tab::ALL.map(Tab::title)).select(at);
        frame.render_widget(titles.highlight_style(chosen), tabs);
        let rows = self.rows().into_iter().skip(self.offset).map(Row::new);
        let (head, widths) = self.columns();
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let table = Table::new(rows, widths).header(Row::new(head).style(bold));
        frame.render_widget(table, list);
        let keys = "1 2 3 tab: what is shown   j k: scroll   q: leave";
        frame.render_widget(Paragraph::new(keys), foot);
    }

    fn headline(&self) -> Vec<Line<'static>> {
        let status = &self.picture.status;
        let rates = self.rates.map_or(String::new(), |(all, failed)| {
            format!(", {all:.1} requests/s, {failed:.1} failed/s")
        });
        let first = format!(
            "{} of {} agents connected, {} replicas ({} silent), store {}{rates}, {} in progress",
            status.agents_connected,
            status.agents,
            status.replicas,
            status.replicas_silent,
            status.store,
            status.requests_in_progress,
        );
        let coverage = status.coverage.as_ref();
        let incomplete = coverage.filter(|it| !it.complete).map(|it| &it.problem);
        let second = match (&self.problem, incomplete) {
            (Some(problem), _) => format!("NO ANSWER: {problem}"),
            (None, Some(problem)) => format!("NOT COMPLETE: {problem}"),
            (None, None) => String::new(),
        };
        vec![Line::from(first), Line::from(second)]
    }

    fn columns(&self) -> (Vec<&'static str>, Vec<Constraint>) {
        let (head, widths): (Vec<_>, Vec<u16>) = match self.tab {
            Tab::Fleet => (
                vec![
                    "ID",
                    "NAME",
                    "STATE",
                    "PODS",
                    "VERSION",
                    "KUBERNETES",
                    "SINCE",
                ],
                vec![8, 28, 13, 5, 12, 14, 20],
            ),
            Tab::Replicas => (
                vec![
                    "REPLICA", "STATE", "VERSION", "AGENTS", "IDLE/ALL", "REQUESTS", "STORE",
                ],
                vec![22, 12, 10, 8, 14, 9, 12],
            ),
            Tab::Requests => (
                vec!["SINCE", "CALLER", "AGENT", "VERB", "PATH", "REPLICA"],
                vec![20, 20, 20, 8, 40, 22],
            ),
        };
        (head, widths.into_iter().map(Constraint::Length).collect())
    }

    fn rows(&self) -> Vec<Vec<String>> {
        match self.tab {
            Tab::Fleet => self.picture.agents.agents.iter().map(agent).collect(),
            Tab::Replicas => self.picture.replicas.replicas.iter().map(replica).collect(),
            Tab::Requests => self.picture.requests.requests.iter().map(request).collect(),
        }
    }
}

fn agent(it: &admin::v1::Agent) -> Vec<String> {
    let label = |name: &str| it.labels.get(name).cloned().unwrap_or_default();
    vec![
        it.id.to_string(),
        it.name.clone(),
        it.state.clone(),
        it.process_count.to_string(),
        label("version"),
        label("kubernetes"),
        it.connected_since.clone(),
    ]
}

fn replica(it: &admin::v1::ReplicaEntry) -> Vec<String> {
    let Some(details) = &it.details else {
        return vec![it.id.clone(), it.state.clone(), it.problem.clone()];
    };
    let tunnels = details.tunnels.unwrap_or_default();
    vec![
        it.id.clone(),
        it.state.clone(),
        it.version.clone(),
        details.agents.to_string(),
        format!("{}/{}", tunnels.idle, tunnels.alive),
        details.requests_in_progress.to_string(),
        details.store.clone(),
    ]
}

fn request(it: &admin::v1::RequestInProgress) -> Vec<String> {
    let agent = it.agent.clone().unwrap_or_default();
    vec![
        it.started_at.chars().take(19).collect(),
        it.caller.clone(),
        agent.name,
        it.verb.clone(),
        it.path.clone(),
        it.replica.clone(),
    ]
}

/// Requests a second between two pictures; none if a replica has come or gone, with its counts.
fn rates(before: &Picture, now: &Picture) -> Option<(f64, f64)> {
    let seconds = (now.at? - before.at?).as_secs_f64();
    let same = before.status.replicas == now.status.replicas;
    let more = |before: u64, now: u64| {
        let more = u32::try_from(now.checked_sub(before)?).ok()?;
        Some(f64::from(more) / seconds)
    };
    if !same || seconds <= 0.0 {
        return None;
    }
    Some((
        more(before.status.requests_total, now.status.requests_total)?,
        more(before.status.requests_failed, now.status.requests_failed)?,
    ))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use admin::v1::{Agent, Coverage};
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    fn picture(at: Instant, requests: u64, problem: &str) -> Picture {
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
                    ..Coverage::default()
                }),
                ..FleetStatus::default()
            },
            at: Some(at),
            agents: ListAgentsResponse {
                agents: vec![Agent {
                    id: 7,
                    name: "prod-eu".into(),
                    state: "disconnected".into(),
                    ..Agent::default()
                }],
                ..ListAgentsResponse::default()
            },
            ..Picture::default()
        }
    }

    fn drawn(screen: &Screen) -> String {
        let mut terminal = Terminal::new(TestBackend::new(120, 10)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_headline_says_how_many_are_there_and_how_many_requests_a_second() {
        let mut screen = Screen::default();
        let now = Instant::now();
        screen.show(Ok(picture(now, 100, "")));
        screen.show(Ok(picture(now + Duration::from_secs(2), 120, "")));

        let text = drawn(&screen);

        assert!(
            text.contains("29 of 30 agents connected, 3 replicas"),
            "{text}"
        );
        assert!(text.contains("10.0 requests/s"), "{text}");
        assert!(text.contains("prod-eu"), "{text}");
        assert!(!text.contains("NOT COMPLETE"), "{text}");
    }

    #[test]
    fn what_is_not_known_and_who_does_not_answer_is_said() {
        let mut screen = Screen::default();
        screen.show(Ok(picture(Instant::now(), 1, "the store is away")));
        assert!(drawn(&screen).contains("NOT COMPLETE: the store is away"));

        screen.show(Err(tonic::Status::unavailable("gone").into()));

        let text = drawn(&screen);
        assert!(text.contains("NO ANSWER"), "{text}");
        assert!(text.contains("prod-eu"), "what was told last stays: {text}");
    }

    #[test]
    fn keys_choose_what_is_shown_and_scroll_no_further_than_there_is() {
        let mut screen = Screen::default();
        screen.show(Ok(picture(Instant::now(), 1, "")));

        assert!(!screen.press(KeyCode::Char('j')));
        assert_eq!(screen.offset, 0);
        assert!(screen.press(KeyCode::Tab));
        assert_eq!(screen.tab(), Tab::Replicas);
        assert!(screen.press(KeyCode::Char('3')));
        assert!(!screen.press(KeyCode::Char('3')));
        assert!(drawn(&screen).contains("CALLER"));
    }
}

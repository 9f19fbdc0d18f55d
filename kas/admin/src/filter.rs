//! Which agents of the fleet are wanted, and a page of them. Pure.

use prost::Message as _;

use crate::{
    Failure, absence,
    agent_state::{CONNECTED, DEGRADED, DISCONNECTED, HEALTHY, UNKNOWN},
    fleet,
    replica::count,
    v1::{Agent, ListAgentsRequest, ListAgentsResponse},
};

/// Agents of a page where nobody says.
const DEFAULT_PAGE: usize = 100;
/// Agents of a page, at most.
const MAX_PAGE: usize = 500;
/// Bytes of a page in protobuf, at most; in JSON it is not twice as much.
const MAX_PAGE_BYTES: usize = 256 << 10;
/// Processes of an agent in a list.
const LISTED_PROCESSES: usize = 3;
/// Bytes of a filter's text, at most.
const MAX_TEXT_BYTES: usize = 1024;
/// Labels that one question may name.
const MAX_LABELS: usize = 10;

/// A question that was understood.
#[derive(Debug)]
pub(crate) struct Filter {
    state: Option<State>,
    name: String,
    labels: Vec<(String, Option<String>)>,
    size: usize,
    after: Option<i64>,
}

/// What is asked of an agent's state.
#[derive(Debug, Clone, Copy)]
enum State {
    Is(&'static str),
    Health(&'static str),
}

impl TryFrom<&ListAgentsRequest> for Filter {
    type Error = Failure;

    fn try_from(asked: &ListAgentsRequest) -> Result<Self, Failure> {
        for (text, what) in [(&asked.name, "name"), (&asked.label, "label")] {
            if text.len() > MAX_TEXT_BYTES {
                let words = format!("{what} has more than {MAX_TEXT_BYTES} bytes");
                return Err(Failure::Invalid(words));
            }
        }
        let state = match &*asked.state {
            "" => None,
            CONNECTED => Some(State::Is(CONNECTED)),
            DISCONNECTED => Some(State::Is(DISCONNECTED)),
            UNKNOWN => Some(State::Is(UNKNOWN)),
            HEALTHY => Some(State::Health(HEALTHY)),
            DEGRADED => Some(State::Health(DEGRADED)),
            _ => {
                let words = format!(
                    "state must be `{CONNECTED}`, `{HEALTHY}`, `{DEGRADED}`, `{DISCONNECTED}` or `{UNKNOWN}`"
                );
                return Err(Failure::Invalid(words));
            }
        };
        let after = match &*asked.page_token {
            "" => None,
            token => Some(token.parse().map_err(|_| {
                Failure::Invalid("page_token is none that an answer of this API had".to_owned())
            })?),
        };
        let size = match asked.page_size {
            0 => DEFAULT_PAGE,
            size => usize::try_from(size).unwrap_or(MAX_PAGE).min(MAX_PAGE),
        };
        Ok(Self {
            state,
            // Names of agents are in lower case.
            name: asked.name.to_lowercase(),
            labels: labels(&asked.label)?,
            size,
            after,
        })
    }
}

impl Filter {
    /// A page of those that match, of agents in the order of their ids.
    pub(crate) fn page(&self, agents: &[Agent]) -> ListAgentsResponse {
        let matching = agents.iter().filter(|agent| self.matches(agent));
        let mut page = ListAgentsResponse::default();
        let (mut total, mut bytes, mut full) = (0, 0, false);
        for agent in matching {
            total += 1;
            if full || self.after.is_some_and(|after| agent.id <= after) {
                continue;
            }
            let listed = fleet::summary(agent, LISTED_PROCESSES);
            bytes += listed.encoded_len();
            if listed.state != CONNECTED {
                bytes += absence::MAX_BYTES;
            }
            let beyond = bytes > MAX_PAGE_BYTES && !page.agents.is_empty();
            if page.agents.len() == self.size || beyond {
                let last = page.agents.last().map(|it| it.id.to_string());
                page.next_page_token = last.unwrap_or_default();
                full = true;
            } else {
                page.agents.push(listed);
            }
        }
        page.total = count(total);
        page
    }

    fn matches(&self, agent: &Agent) -> bool {
        self.state.is_none_or(|state| match state {
            State::Is(state) => agent.state == state,
            State::Health(health) => agent.health == health,
        }) && (self.name.is_empty() || agent.name.contains(&self.name))
            && self.labels.iter().all(|(key, wanted)| {
                let value = agent.labels.get(key);
                value.is_some_and(|value| wanted.as_ref().is_none_or(|wanted| value == wanted))
            })
    }
}

fn labels(text: &str) -> Result<Vec<(String, Option<String>)>, Failure> {
    let selectors = text.split(',').map(str::trim).filter(|it| !it.is_empty());
    let labels: Vec<_> = selectors
        .map(|selector| match selector.split_once('=') {
            Some((key, value)) => (key.trim().to_owned(), Some(value.trim().to_owned())),
            None => (selector.to_owned(), None),
        })
        .collect();
    if labels.len() > MAX_LABELS {
        let words = format!("label names more than {MAX_LABELS} labels");
        return Err(Failure::Invalid(words));
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::Process;

    fn agent(id: i64, name: &str, version: Option<&str>) -> Agent {
        let labels = version.map(|it| ("version".to_owned(), it.to_owned()));
        Agent {
            id,
            name: name.to_owned(),
            state: if version.is_some() {
                CONNECTED
            } else {
                DISCONNECTED
            }
            .to_owned(),
            labels: labels.into_iter().collect(),
            ..Agent::default()
        }
    }

    fn ask(agents: &[Agent], asked: &ListAgentsRequest) -> ListAgentsResponse {
        Filter::try_from(asked).unwrap().page(agents)
    }

    fn ids(page: &ListAgentsResponse) -> Vec<i64> {
        page.agents.iter().map(|it| it.id).collect()
    }

    #[test]
    fn agents_are_found_by_state_name_and_label() {
        let mut agents = [
            agent(1, "prod-eu", Some("v1")),
            agent(2, "prod-us", Some("v2")),
            agent(3, "test", None),
        ];
        DEGRADED.clone_into(&mut agents[1].health);
        let found = |state: &str, name: &str, label: &str| {
            ids(&ask(
                &agents,
                &ListAgentsRequest {
                    state: state.into(),
                    name: name.into(),
                    label: label.into(),
                    ..ListAgentsRequest::default()
                },
            ))
        };

        assert_eq!(found("", "", ""), [1, 2, 3]);
        assert_eq!(found(CONNECTED, "", ""), [1, 2]);
        assert_eq!(found(DISCONNECTED, "", ""), [3]);
        assert_eq!(found(DEGRADED, "", ""), [2]);
        assert!(found(UNKNOWN, "", "").is_empty());
        assert_eq!(found("", "PROD", ""), [1, 2]);
        assert_eq!(found("", "", "version=v2"), [2]);
        assert_eq!(found("", "", "version"), [1, 2]);
        assert_eq!(found("", "eu", "version=v1, version"), [1]);
        assert!(found("", "", "nothing").is_empty());
    }

    #[test]
    fn pages_follow_each_other_without_gap_or_repetition() {
        let agents: Vec<_> = (1..=1234).map(|id| agent(id, "a", Some("v1"))).collect();
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let page = ask(
                &agents,
                &ListAgentsRequest {
                    page_size: 500,
                    page_token: token,
                    ..ListAgentsRequest::default()
                },
            );
            assert_eq!(page.total, 1234);
            seen.extend(ids(&page));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }

        assert_eq!(seen, (1..=1234).collect::<Vec<_>>());
    }

    #[test]
    fn a_page_of_agents_with_much_to_tell_is_shorter() {
        let large = |id| {
            let process = Process {
                pod: "p".repeat(500),
                ..Process::default()
            };
            Agent {
                processes: vec![process; 100],
                process_count: 100,
                ..agent(id, &"n".repeat(63), Some(&"v".repeat(64)))
            }
        };
        let agents: Vec<_> = (0..10_000).map(large).collect();

        let page = ask(
            &agents,
            &ListAgentsRequest {
                page_size: 500,
                ..ListAgentsRequest::default()
            },
        );

        let json = serde_json::to_vec(&page).unwrap();
        assert!(json.len() <= 500_000, "{}", json.len());
        assert!(page.agents.len() > 50, "{}", page.agents.len());
        assert!(!page.next_page_token.is_empty());
        assert_eq!(page.agents[0].process_count, 100);
        assert_eq!(page.agents[0].processes.len(), LISTED_PROCESSES);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let wrong = |asked: ListAgentsRequest| Filter::try_from(&asked).unwrap_err();

        for asked in [
            ListAgentsRequest {
                state: "up".into(),
                ..ListAgentsRequest::default()
            },
            ListAgentsRequest {
                page_token: "x".into(),
                ..ListAgentsRequest::default()
            },
            ListAgentsRequest {
                name: "n".repeat(MAX_TEXT_BYTES + 1),
                ..ListAgentsRequest::default()
            },
            ListAgentsRequest {
                label: "a,".repeat(MAX_LABELS + 1),
                ..ListAgentsRequest::default()
            },
        ] {
            assert!(matches!(wrong(asked), Failure::Invalid(_)));
        }
    }
}

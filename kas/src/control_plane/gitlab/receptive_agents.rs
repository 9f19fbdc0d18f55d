//! `receptive_agents`: the agents that wait to be dialled.

use bytes::Bytes;
use router::id::AgentId;
use serde::Deserialize;

use super::{
    call::{Call, Endpoint},
    client::Client,
    error::CallError,
    number::{Number, or_default},
};

const PATH: &str = "/api/v4/internal/kubernetes/receptive_agents";

/// An agent that waits to be dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceptiveAgent {
    /// Its number.
    pub id: AgentId,
    /// Where it listens.
    pub url: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default, deserialize_with = "or_default")]
    agents: Vec<AgentAnswer>,
}

/// What else is said of an agent is for dialling it.
#[derive(Deserialize)]
struct AgentAnswer {
    #[serde(default, deserialize_with = "or_default")]
    id: Number,
    #[serde(default, deserialize_with = "or_default")]
    url: String,
}

impl Client {
    /// The agents that wait to be dialled. A GitLab that does not know of such
    /// has none.
    ///
    /// # Errors
    /// When GitLab cannot say.
    pub async fn receptive_agents(&self) -> Result<Vec<ReceptiveAgent>, CallError> {
        let call = Call::get(Endpoint::ReceptiveAgents, PATH);
        match self.call(&call).await {
            Ok(body) => parse(&body).map_err(|why| CallError::Garbage { path: PATH, why }),
            Err(error) if error.refusal() == Some(404) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

fn parse(body: &Bytes) -> Result<Vec<ReceptiveAgent>, String> {
    let answer: Answer = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let agent = |it: AgentAnswer| match it.url.as_str() {
        "" => Err(format!("agent {} has no url", it.id.0)),
        _ => Ok(ReceptiveAgent {
            id: AgentId(it.id.0),
            url: it.url,
        }),
    };
    answer.agents.into_iter().map(agent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_read_and_one_without_a_place_is_no_answer() {
        let read = |text: &str| parse(&Bytes::from(text.to_owned()));
        let good = r#"{"agents":[{"id":"7","url":"grpcs://a:8082","jwt":{"private_key":"k"}}]}"#;

        assert_eq!(read(good).unwrap()[0].id, AgentId(7));
        assert_eq!(read("{}"), Ok(Vec::new()));
        assert!(read(r#"{"agents":[{"id":7}]}"#).is_err());
    }
}

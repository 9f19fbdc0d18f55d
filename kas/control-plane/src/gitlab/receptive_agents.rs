//! `receptive_agents`: the agents that wait to be dialled.

use std::time::Duration;

use bytes::Bytes;
use cluster_state::AgentId;
use runtime::backoff::jittered;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::{
    GitLab,
    call::{Call, Endpoint},
    client::Client,
    error::{AnswerError, CallError},
    number::{Number, or_default},
};
use crate::{ClientCertificate, Material, Proof, ReceptiveAgent};

const PATH: &str = "/api/v4/internal/kubernetes/receptive_agents";

#[derive(Deserialize)]
struct Answer {
    #[serde(default, deserialize_with = "or_default")]
    agents: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct AgentAnswer {
    id: Number,
    url: String,
    jwt: Option<JwtAnswer>,
    mtls: Option<MtlsAnswer>,
    #[serde(default, deserialize_with = "or_default")]
    ca_cert: String,
    #[serde(default, deserialize_with = "or_default")]
    tls_host: String,
}

#[derive(Deserialize)]
struct JwtAnswer {
    private_key: String,
}

#[derive(Deserialize)]
struct MtlsAnswer {
    client_cert: String,
    client_key: String,
}

impl Client {
    /// The agents that wait to be dialled. A GitLab that does not know of such
    /// has none. One that cannot be understood is left out, and logged.
    ///
    /// # Errors
    /// When GitLab cannot say.
    pub async fn receptive_agents(&self) -> Result<Vec<ReceptiveAgent>, CallError> {
        let call = Call::get(Endpoint::ReceptiveAgents, PATH);
        match self.call(&call).await {
            Ok(body) => parse(&body).map_err(|why| CallError::InvalidAnswer { path: PATH, why }),
            Err(error) if error.refusal() == Some(404) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

impl GitLab {
    /// Asks once in about `period` which agents are to be dialled, until `stop`.
    /// While GitLab cannot say, those it named last are.
    pub async fn follow_receptive_agents(self, period: Duration, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let Some(asked) = stop
                .run_until_cancelled(self.client().receptive_agents())
                .await
            else {
                return;
            };
            match asked {
                Ok(agents) => {
                    self.0.receptive.send_if_modified(|known| {
                        let changed = **known != *agents;
                        *known = agents.into();
                        changed
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "could not fetch the list of receptive agents from GitLab; keeping the last one");
                }
            }
            let pause = tokio::time::sleep(jittered(period));
            stop.run_until_cancelled(pause).await;
        }
    }
}

fn parse(body: &Bytes) -> Result<Vec<ReceptiveAgent>, AnswerError> {
    let answer: Answer = serde_json::from_slice(body)?;
    let agents = answer.agents.into_iter().filter_map(|it| {
        let id = it["id"].to_string();
        agent(it)
            .inspect_err(|why| {
                tracing::warn!(
                    agent.id = id,
                    reason = why,
                    "ignoring a receptive agent that GitLab describes incompletely"
                )
            })
            .ok()
    });
    Ok(agents.collect())
}

/// Errors say nothing of values: there are keys among them.
fn agent(answer: serde_json::Value) -> Result<ReceptiveAgent, &'static str> {
    let answer: AgentAnswer =
        serde_json::from_value(answer).map_err(|_| "a field is missing, or of another type")?;
    if answer.jwt.is_none() && answer.mtls.is_none() {
        return Err("it has neither jwt nor mtls");
    }
    let certificate = answer.mtls.map(|mtls| ClientCertificate {
        certificate: Material::Text(mtls.client_cert.into()),
        key: Material::Text(mtls.client_key.into()),
    });
    let proof = Proof {
        jwt: answer.jwt.map(|jwt| Material::Text(jwt.private_key.into())),
        certificate,
    };
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(ReceptiveAgent {
        id: AgentId(answer.id.0),
        url: answer.url,
        proof,
        ca: given(answer.ca_cert).map(|it| Material::Text(it.into())),
        server_name: given(answer.tls_host),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_read_and_those_that_cannot_be_understood_are_left_out() {
        let text = r#"{"agents": [
            {"id": "7", "url": "grpcs://a:8182", "jwt": {"private_key": "k"}, "mtls": null},
            {"id": 8, "url": "grpcs://b", "mtls": {"client_cert": "c", "client_key": "k"},
             "ca_cert": "ca", "tls_host": "host", "unknown": 1},
            {"id": 9, "url": "grpcs://c"},
            {"id": 10, "jwt": {"private_key": "k"}},
            {"id": 11, "url": "wss://d", "jwt": {"private_key": "k"}, "mtls": {"client_cert": "c", "client_key": "k"}}
        ]}"#;

        let agents = parse(&Bytes::from(text)).unwrap();

        let ids: Vec<_> = agents.iter().map(|it| it.id.0).collect();
        assert_eq!(ids, [7, 8, 11]);
        let key = Some(Material::Text("k".into()));
        assert_eq!(
            (&agents[0].proof.jwt, &agents[0].proof.certificate),
            (&key, &None)
        );
        assert_eq!(agents[1].proof.jwt, None);
        assert!(agents[2].proof.jwt == key && agents[2].proof.certificate.is_some());
        assert_eq!(agents[0].ca, None);
        assert_eq!(agents[1].ca, Some(Material::Text("ca".into())));
        assert_eq!(agents[1].server_name.as_deref(), Some("host"));
        assert!(
            !format!("{agents:?}").contains("\"k\""),
            "keys are not printed"
        );
        assert_eq!(parse(&Bytes::from("{}")), Ok(Vec::new()));
        assert!(parse(&Bytes::from("nonsense")).is_err());
    }
}

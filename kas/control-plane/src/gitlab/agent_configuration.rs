//! `agent_configuration`: GitLab is told what an agent's file says.

use bytes::Bytes;
use cluster_state::AgentId;
use serde_json::{Value, json};

use super::{
    call::{Call, Endpoint, Expect},
    client::Client,
    error::CallError,
};

const PATH: &str = "/api/v4/internal/kubernetes/agent_configuration";

impl Client {
    /// Tells GitLab the configuration file of an agent, as protobuf's JSON of
    /// it. GitLab takes the access rules from there, so what was not read from
    /// the repository must never be sent.
    ///
    /// # Errors
    /// When GitLab does not take it.
    pub async fn post_agent_configuration(
        &self,
        agent: AgentId,
        file: &Value,
    ) -> Result<(), CallError> {
        let body = json!({"agent_id": agent.to_string(), "agent_config": file});
        let endpoint = Endpoint::AgentConfiguration;
        let body = Bytes::from(body.to_string());
        let call = Call::post(endpoint, PATH, body, Expect::Nothing);
        self.call(&call).await.map(drop)
    }
}

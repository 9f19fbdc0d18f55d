//! The sections of the configuration that are this crate's: `agent.listen`, `agent.receptive_agent`, and
//! `agent.job_router` and `agent.events`, which GitLab's kas does not have.

use std::path::PathBuf;

use runtime::{
    connect::Target,
    listen::Network,
    listens, section,
    yaml::{At, FilePath, NonEmpty, PositiveSeconds, Setting, YamlError},
};
use serde::{Deserialize, Deserializer, Serialize, de::Error};

/// Webhooks that one replica calls.
const WEBHOOKS_MAX: usize = 16;

section! {
    /// Where agents connect.
    pub struct AgentListen: Default {
        /// The kind of socket.
        pub network: Network = Network::default(),
        /// The socket.
        pub address: String = Self::DEFAULT_ADDRESS.to_owned(),
        /// The certificate, for TLS.
        pub certificate_file: Option<PathBuf> = None,
        /// Its key.
        pub key_file: Option<PathBuf> = None,
        /// Whether gRPC inside WebSocket is served beside native gRPC.
        pub websocket: bool = true,
        /// Whether a load balancer gives the client's address by the PROXY protocol.
        pub proxy_protocol: bool = false,
        /// How many new connections a token may make in a minute.
        pub connections_per_token_per_minute: u32 = 40_000,
        /// How many connections of agents a replica takes; 0 is four fifths of the files that it may open. Those beyond are closed with a reason, and while other replicas have room, readiness says no from 95 % of it on.
        /// Not among the keys of GitLab's kas.
        pub max_connections: u32 = 0,
        /// Whether a replica with far more agents than the others asks some of them to connect again, a few at a time.
        /// Not among the keys of GitLab's kas.
        pub rebalance: bool = true,
        /// After this time a connection is replaced.
        pub max_connection_age: PositiveSeconds = PositiveSeconds::new(7200),
        /// After this time, or up to a quarter less, a silent stream of native gRPC is ended in order, and the agent
        /// opens another at once: load balancers that take gRPC apart cut silent streams. Not among the keys of
        /// GitLab's kas.
        pub stream_renewal_interval: PositiveSeconds = PositiveSeconds::new(45),
        /// How long to accept on after the signal to stop.
        pub listen_grace_period: PositiveSeconds = PositiveSeconds::new(5),
        /// How many connections are asked to leave in a second when the replica drains; more only if they could
        /// not all be asked in time.
        pub drain_connections_per_second: u32 = 200,
    }
    check = check_listener;
}
listens!(AgentListen, "127.0.0.1:8150");

section! {
    /// Agents that kas dials.
    pub struct ReceptiveAgent: Default {
        /// How often GitLab is asked which agents are to be dialled.
        pub poll_period: PositiveSeconds = PositiveSeconds::new(300),
        /// How agents' calls come over the connections that are made to them. Not among the keys of GitLab's kas.
        pub form: ReceptiveForm = ReceptiveForm::Auto,
    }
}

/// How the calls of an agent come over a connection that kas made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceptiveForm {
    /// As the agent serves: by the first of the others that it knows.
    #[default]
    Auto,
    /// On a connection of the agent's inside one call, which is our own form.
    Attach,
    /// Each by a tunnel that kas opens to the agent, which is GitLab's form as far as it is known.
    ReverseTunnel,
}

impl Setting for ReceptiveForm {}

section! {
    /// Jobs for runners. Not among the keys of GitLab's kas that are known here.
    pub struct JobRouter: Default {
        /// Whether runners may ask for jobs through this server.
        pub enabled: bool = false,
    }
}

section! {
    /// Whom events of agents' clusters are passed on to, besides readers.
    pub struct Events: Default {
        /// Whether each is a line of the log.
        pub log: bool = false,
        /// Whether agents and replicas that come and go are events too.
        pub presence: bool = false,
        /// Who is called.
        pub webhooks: Vec<Webhook> = Vec::new(),
    }
    check = check_number;
}

section! {
    /// Who is called with events.
    pub struct Webhook {
        /// An http or https URL.
        pub url: WebhookUrl,
        /// The secret that requests are signed with.
        pub secret_file: FilePath,
        /// A CA besides those of the system.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub ca_certificate_file: Option<PathBuf> = None,
    }
}

/// An http or https URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WebhookUrl(pub String);

impl<'de> Deserialize<'de> for WebhookUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let NonEmpty(url) = NonEmpty::deserialize(deserializer)?;
        match Target::parse_http(&url) {
            Ok(_) => Ok(Self(url)),
            Err(error) => Err(D::Error::custom(format_args!(
                "agent.events.webhooks: url: {error}"
            ))),
        }
    }
}

impl Setting for WebhookUrl {}

impl Events {
    fn check_number(&self, at: &At<'_>) -> Result<(), YamlError> {
        if self.webhooks.len() > WEBHOOKS_MAX {
            let at = at.key("webhooks");
            let path = at.path();
            let message = format!("{path}: more than {WEBHOOKS_MAX} are not supported");
            return Err(at.mistake(message));
        }
        Ok(())
    }
}

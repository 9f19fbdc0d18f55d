//! The section of the configuration that is this crate's: `agent.events`, which GitLab's kas does not have.

use std::path::PathBuf;

use runtime::{
    connect::Target,
    section,
    yaml::{At, FilePath, Mistake, NonEmpty, Setting},
};
use serde::{Deserialize, Deserializer, Serialize, de::Error};

/// Webhooks that one replica calls.
const WEBHOOKS_MAX: usize = 16;

section! {
    /// Whom events of agents' clusters are passed on to, besides readers.
    pub struct Events: Default {
        /// Whether each is a line of the log.
        pub log: bool = false,
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
    fn check_number(&self, at: &At<'_>) -> Result<(), Mistake> {
        if self.webhooks.len() > WEBHOOKS_MAX {
            let at = at.key("webhooks");
            let path = at.path();
            let message = format!("{path}: more than {WEBHOOKS_MAX} are not supported");
            return Err(at.mistake(message));
        }
        Ok(())
    }
}

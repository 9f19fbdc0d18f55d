//! The section `agent.events`.

use runtime::connect::Target;

use super::{
    super::{Events, Webhook, file},
    parts::{self, Rules},
};
use crate::yaml::Mistake;

/// Webhooks that one replica calls.
const WEBHOOKS: usize = 16;

pub(super) fn events(rules: &Rules<'_>, events: file::Events) -> Result<Events, Mistake> {
    if let Some(webhook) = events.webhooks.get(WEBHOOKS) {
        let message = format!("agent.events.webhooks: more than {WEBHOOKS} are not supported");
        return Err(rules.at(&webhook.url, &message));
    }
    let webhooks = events.webhooks.into_iter();
    Ok(Events {
        log: events.log.unwrap_or_default(),
        webhooks: webhooks
            .map(|it| webhook(rules, it))
            .collect::<Result<_, _>>()?,
    })
}

fn webhook(rules: &Rules<'_>, webhook: file::Webhook) -> Result<Webhook, Mistake> {
    if let Err(error) = Target::parse_http(&webhook.url.value.0) {
        return Err(rules.at(
            &webhook.url,
            &format!("agent.events.webhooks: url: {error}"),
        ));
    }
    Ok(Webhook {
        url: webhook.url.value.0,
        secret_file: webhook.secret_file.0.into(),
        ca_certificate_file: parts::file(webhook.ca_certificate_file),
    })
}

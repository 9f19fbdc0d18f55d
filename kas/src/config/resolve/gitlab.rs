//! The `gitlab` section.

use runtime::connect::Target;

use super::{
    super::{GitLab, file},
    parts::{self, Rules},
    rate_limit,
};
use crate::yaml::{Mistake, NonEmpty, Spot};

/// Tunnels of a connected agent open all the time, so it needs an answer for
/// as long as an outage lasts; it proved itself before.
const AGENTS_GRACE: u64 = 3600;
/// A job's token ends with the job, and a user may lose rights: not for long.
const CALLERS_GRACE: u64 = 600;

pub(super) fn gitlab(rules: &Rules<'_>, gitlab: &file::GitLab) -> Result<GitLab, Mistake> {
    let grace = gitlab.outage_grace.as_ref();
    Ok(GitLab {
        address: url(rules, &gitlab.address, "gitlab.address")?,
        external_url: gitlab
            .external_url
            .as_ref()
            .map(|it| url(rules, it, "gitlab.external_url"))
            .transpose()?,
        authentication_secret_file: gitlab.authentication_secret_file.0.clone().into(),
        ca_certificate_file: parts::file(gitlab.ca_certificate_file.clone()),
        api_rate_limit: rate_limit(rules, gitlab.api_rate_limit.as_ref(), 50.0, 250)?,
        agents_grace: parts::seconds(grace.and_then(|it| it.agents), AGENTS_GRACE),
        callers_grace: parts::seconds(grace.and_then(|it| it.callers), CALLERS_GRACE),
    })
}

fn url(rules: &Rules<'_>, given: &Spot<NonEmpty>, key: &str) -> Result<String, Mistake> {
    let text = &given.value.0;
    match Target::parse_http(text) {
        Ok(_) => Ok(text.clone()),
        Err(error) => Err(rules.at(given, &format!("{key}: {error}"))),
    }
}

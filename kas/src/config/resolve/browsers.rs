//! What browsers may do at the Kubernetes API, and what clusters may tell them.

use http::{HeaderName, header};
use user_gateway::origin_of;

use super::parts::Rules;
use crate::yaml::{Mistake, NonEmpty, Spot};

/// Headers that speak of kas's own host or of one connection: no cluster decides on them.
const NEVER: [HeaderName; 9] = [
    header::SET_COOKIE,
    header::STRICT_TRANSPORT_SECURITY,
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("service-worker-allowed"),
    HeaderName::from_static("gitlab-unauthorized"),
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TRAILER,
];

/// Origins as browsers write them: a URL without a path.
pub(super) fn origins(
    rules: &Rules<'_>,
    given: Option<Vec<Spot<NonEmpty>>>,
) -> Result<Vec<String>, Mistake> {
    let origin = |it: Spot<NonEmpty>| {
        let text = it.value.0.strip_suffix('/').unwrap_or(&it.value.0);
        let origin = origin_of(text).filter(|origin| origin.eq_ignore_ascii_case(text));
        origin.ok_or_else(|| {
            let mistake = format!(
                "agent.kubernetes_api.allowed_origins: {text:?} is not the origin of a page, such \
                 as https://gitlab.example.com: scheme, host, and the port if it is not the usual one"
            );
            rules.at(&it, &mistake)
        })
    };
    given.unwrap_or_default().into_iter().map(origin).collect()
}

/// Names of headers.
pub(super) fn response_headers(
    rules: &Rules<'_>,
    given: Option<Vec<Spot<NonEmpty>>>,
) -> Result<Vec<HeaderName>, Mistake> {
    let name = |it: Spot<NonEmpty>| {
        let text = &it.value.0;
        let key = "agent.kubernetes_api.response_headers";
        let name: HeaderName = text
            .parse()
            .map_err(|_| rules.at(&it, &format!("{key}: {text:?} is not the name of a header")))?;
        if NEVER.contains(&name) || name.as_str().starts_with("access-control-") {
            let mistake = format!("{key}: no cluster may set {name} on the host of this server");
            return Err(rules.at(&it, &mistake));
        }
        Ok(name)
    };
    given.unwrap_or_default().into_iter().map(name).collect()
}

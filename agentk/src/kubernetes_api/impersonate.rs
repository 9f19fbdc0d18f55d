//! As whom a request is made. Exactly one source may say so. Pure.

use http::{HeaderMap, HeaderName, HeaderValue};
use proto::agent::kubernetes_api::rpc::ImpersonationConfig;
use tonic::Status;

use crate::cluster::identity::{EXTRA_PREFIX, extra_header};

const USER: HeaderName = HeaderName::from_static("impersonate-user");
const UID: HeaderName = HeaderName::from_static("impersonate-uid");
const GROUP: HeaderName = HeaderName::from_static("impersonate-group");

const NESTED: &str = "gRPC -> HTTP: nested impersonation is not supported - agent is already configured to impersonate an identity";

/// Adds the identity to a request's headers. `own` is the agent's own configuration, `config` comes from
/// kas; the client may have sent headers too.
pub(super) fn apply(
    own: &HeaderMap,
    config: Option<ImpersonationConfig>,
    headers: &mut HeaderMap,
) -> Result<(), Status> {
    let by_client = headers.keys().any(is_impersonation);
    let sources = [!own.is_empty(), config.is_some(), by_client];
    if sources.iter().filter(|set| **set).count() > 1 {
        return Err(Status::unavailable(NESTED));
    }
    headers.extend(own.clone());
    config.map_or(Ok(()), |config| from_kas(&config, headers))
}

fn is_impersonation(name: &HeaderName) -> bool {
    [USER, UID, GROUP].contains(name) || name.as_str().starts_with(EXTRA_PREFIX)
}

fn from_kas(config: &ImpersonationConfig, headers: &mut HeaderMap) -> Result<(), Status> {
    if !config.username.is_empty() {
        add(headers, USER, &config.username)?;
    }
    if !config.uid.is_empty() {
        add(headers, UID, &config.uid)?;
    }
    for group in &config.groups {
        add(headers, GROUP, group)?;
    }
    for extra in &config.extra {
        let name = extra_header(&extra.key)
            .ok_or_else(|| Status::invalid_argument("an extra of an identity has a bad key"))?;
        for text in &extra.val {
            add(headers, name.clone(), text)?;
        }
    }
    if headers.keys().any(is_impersonation) {
        Ok(())
    } else {
        // Acting as the agent itself is not what was asked for.
        Err(Status::invalid_argument(
            "the identity to impersonate is empty",
        ))
    }
}

fn add(headers: &mut HeaderMap, name: HeaderName, text: &str) -> Result<(), Status> {
    let added = headers.try_append(name, value(text)?);
    let full = |_| Status::resource_exhausted("an identity has more parts than headers can hold");
    added.map(drop).map_err(full)
}

fn value(text: &str) -> Result<HeaderValue, Status> {
    HeaderValue::from_bytes(text.as_bytes()).map_err(|_| {
        Status::invalid_argument("an identity has characters that HTTP does not allow")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::agent::kubernetes_api::rpc::ExtraKeyVal;

    fn config() -> ImpersonationConfig {
        ImpersonationConfig {
            username: "ana".into(),
            groups: vec!["g1".into(), "g2".into()],
            uid: "7".into(),
            extra: vec![ExtraKeyVal {
                key: "agent.gitlab.com/id".into(),
                val: vec!["1".into(), "2".into()],
            }],
        }
    }

    #[test]
    fn more_extras_than_headers_can_hold_are_refused() {
        let extra = |number: u32| ExtraKeyVal {
            key: format!("k{number}"),
            val: vec!["v".into()],
        };
        let many = ImpersonationConfig {
            extra: (0..40_000).map(extra).collect(),
            ..config()
        };

        let refused = apply(&HeaderMap::new(), Some(many), &mut HeaderMap::new());

        assert_eq!(refused.unwrap_err().code(), tonic::Code::ResourceExhausted);
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn what_kas_says_becomes_headers() {
        let mut out = HeaderMap::new();

        apply(&HeaderMap::new(), Some(config()), &mut out).unwrap();

        assert_eq!(out["impersonate-user"], "ana");
        assert_eq!(out["impersonate-uid"], "7");
        let all = |name: &str| out.get_all(name).iter().cloned().collect::<Vec<_>>();
        assert_eq!(all("impersonate-group"), ["g1", "g2"]);
        assert_eq!(all("impersonate-extra-agent.gitlab.com%2fid"), ["1", "2"]);
    }

    #[test]
    fn two_sources_are_one_too_many() {
        let own = headers(&[("impersonate-user", "robot")]);
        let nobody = HeaderMap::new();
        let by_client = || headers(&[("impersonate-extra-a", "b")]);
        for (own, config, mut headers) in [
            (&own, Some(config()), HeaderMap::new()),
            (&own, None, by_client()),
            (&nobody, Some(config()), by_client()),
            (&own, Some(config()), by_client()),
        ] {
            let status = apply(own, config, &mut headers).unwrap_err();

            assert_eq!(status.code(), tonic::Code::Unavailable);
            assert_eq!(status.message(), NESTED);
        }
    }

    #[test]
    fn one_source_is_taken_as_it_is() {
        let own = headers(&[("impersonate-user", "robot")]);
        let mut out = HeaderMap::new();
        apply(&own, None, &mut out).unwrap();
        assert_eq!(out, own);

        let mut by_client = headers(&[("impersonate-group", "g")]);
        apply(&HeaderMap::new(), None, &mut by_client).unwrap();
        assert_eq!(by_client, headers(&[("impersonate-group", "g")]));
    }

    #[test]
    fn an_empty_identity_is_not_the_agents_own() {
        let empty = ImpersonationConfig::default();

        assert!(apply(&HeaderMap::new(), Some(empty), &mut HeaderMap::new()).is_err());
    }
}

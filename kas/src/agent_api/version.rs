//! What an agent's version lets it do.

use http::{HeaderMap, header::USER_AGENT};

/// The first agentk that impersonates when told to. Older ones ignore the
/// identity silently and would act as themselves.
const IMPERSONATES_SINCE: (u64, u64) = (14, 3);

/// Whether the agent that sent these headers is known to impersonate: its user
/// agent begins with `gitlab-agent/<version>/`. Unknown versions count as old.
pub(super) fn impersonates(headers: &HeaderMap) -> bool {
    headers
        .get(USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .and_then(version)
        .is_some_and(|version| version >= IMPERSONATES_SINCE)
}

fn version(user_agent: &str) -> Option<(u64, u64)> {
    let version = user_agent
        .strip_prefix("gitlab-agent/")?
        .split('/')
        .next()?;
    let mut parts = version.trim_start_matches('v').split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_from_14_3_impersonate_and_unknown_ones_do_not() {
        for (user_agent, expected) in [
            ("gitlab-agent/v14.3.0/abc grpc-go/1.40", true),
            ("gitlab-agent/v16.5.0+kas.0.1.0/00000000", true),
            ("gitlab-agent/18.0.1/abc grpc-go/1.70", true),
            ("gitlab-agent/v14.1.1/abc grpc-go/1.38", false),
            ("gitlab-agent/v0.0.0/00000000 grpc-go/1.58.3", false),
            ("grpc-go/1.58.3", false),
            ("gitlab-agent/", false),
        ] {
            let headers = HeaderMap::from_iter([(USER_AGENT, user_agent.parse().unwrap())]);
            assert_eq!(impersonates(&headers), expected, "{user_agent}");
        }
        assert!(!impersonates(&HeaderMap::new()));
    }
}

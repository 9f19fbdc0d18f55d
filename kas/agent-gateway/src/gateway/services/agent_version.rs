//! What an agent can do, by its version.

use http::{HeaderMap, HeaderValue, header::USER_AGENT};

/// The first agentk that impersonates. Older ones ignore the identity silently and would act as themselves.
const IMPERSONATION_MIN_VERSION: (u64, u64) = (14, 3);
/// The first agentk that carries what follows an HTTP upgrade. Older ones answer 101 and nothing after it.
const UPGRADE_MIN_VERSION: (u64, u64) = (14, 3);
/// The version of a build without one.
const UNVERSIONED: (u64, u64) = (0, 0);

/// What an agent can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capabilities {
    /// Whether it impersonates. An unknown version counts as old: such an agent might act with more rights than the
    /// user has.
    pub(super) impersonates: bool,
    /// Whether it carries upgraded connections. An unknown version counts as new: nothing worse than silence can
    /// happen.
    pub(super) upgrades: bool,
}

/// By the user agent in these headers, which begins with `gitlab-agent/<version>/`.
pub(super) fn capabilities(headers: &HeaderMap) -> Capabilities {
    let version = headers.get(USER_AGENT).and_then(version);
    Capabilities {
        impersonates: version.is_some_and(|it| it >= IMPERSONATION_MIN_VERSION),
        upgrades: version.is_none_or(|it| it >= UPGRADE_MIN_VERSION || it == UNVERSIONED),
    }
}

/// Read with each tunnel, so byte by byte.
fn version(user_agent: &HeaderValue) -> Option<(u64, u64)> {
    let mut rest = user_agent.as_bytes().strip_prefix(b"gitlab-agent/")?;
    while let Some(version) = rest.strip_prefix(b"v") {
        rest = version;
    }
    let (major, rest) = number(rest)?;
    let (minor, rest) = number(rest.strip_prefix(b".")?)?;
    matches!(rest.first(), None | Some(b'.' | b'/')).then_some((major, minor))
}

/// The number at the beginning, and what follows it.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let digits = bytes.iter().take_while(|it| it.is_ascii_digit()).count();
    let (digits, rest) = bytes.split_at(digits);
    let value = digits.iter().try_fold(0_u64, |value, digit| {
        value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })?;
    (!digits.is_empty()).then_some((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_from_14_3_impersonate_and_unknown_ones_do_not_but_may_upgrade() {
        for (user_agent, impersonates, upgrades) in [
            ("gitlab-agent/v14.3.0/abc grpc-go/1.40", true, true),
            ("gitlab-agent/v16.5.0+kas.0.1.0/00000000", true, true),
            ("gitlab-agent/18.0.1/abc grpc-go/1.70", true, true),
            ("gitlab-agent/v14.1.1/abc grpc-go/1.38", false, false),
            ("gitlab-agent/v0.0.0/00000000 grpc-go/1.58.3", false, true),
            ("grpc-go/1.58.3", false, true),
            ("gitlab-agent/", false, true),
            ("gitlab-agent/v99999999999999999999.0.0/abc", false, true),
            ("gitlab-agent/16/abc.5", false, true),
            ("gitlab-agent/v14.x/abc", false, true),
        ] {
            let headers = HeaderMap::from_iter([(USER_AGENT, user_agent.parse().unwrap())]);
            let expected = Capabilities {
                impersonates,
                upgrades,
            };
            assert_eq!(capabilities(&headers), expected, "{user_agent}");
        }
        assert!(!capabilities(&HeaderMap::new()).impersonates);
    }
}

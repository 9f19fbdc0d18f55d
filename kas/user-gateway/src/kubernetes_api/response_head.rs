//! The head of a cluster's answer as the client gets it: what an answer of Kubernetes consists of,
//! and nothing that would tell a browser about kas's own host.

mod blocked;
mod fitting;

use bytes::Bytes;
use foldhash::HashSet;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use proto::metadata::RawMeta;
use router::AgentId;

use super::exchange::{Head, Interrupted};
use crate::{headers::content_length, metrics::Metrics};
use blocked::Blocked;
use fitting::fitting;

/// Headers that a cluster's answer may carry, in lower case; all others are removed and counted, unless
/// `agent.kubernetes_api.extra_allowed_response_headers` names them. `Connection` and `Upgrade` pass with a 101
/// only. Documented for operators in `docs/production.md`.
///
/// These are what Kubernetes' API server sends itself (`k8s.io/apiserver`: audit, warnings, priority
/// and fairness, `OpenAPI`, logs, streams), what HTTP says about a body or a cache, and what limits a
/// page that a proxied service shows. What reaches beyond its own answer is not among them:
/// `Set-Cookie`, `Clear-Site-Data`, `Service-Worker-Allowed`, `Strict-Transport-Security`, `Refresh`,
/// `Access-Control-*`, and those of `WWW-Authenticate` which make browsers ask for a password in the name of
/// kas's host.
pub(super) const FROM_THE_CLUSTER: [&str; 42] = [
    "accept-ranges",
    "age",
    "allow",
    "audit-id",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-security-policy",
    "content-type",
    "cross-origin-resource-policy",
    "date",
    "deprecation",
    "etag",
    "expires",
    "last-modified",
    "link",
    "location",
    "pragma",
    "referrer-policy",
    "retry-after",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "server",
    "sunset",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "x-accepted-stream-protocol-versions",
    "x-content-type-options",
    "x-frame-options",
    "x-kubernetes-pf-flowschema-uid",
    "x-kubernetes-pf-prioritylevel-uid",
    "x-stream-protocol-version",
    "x-stream-protocol-versions",
    "x-varied-accept",
];
/// HTTP knows no status beyond.
const HIGHEST_STATUS: u16 = 599;
/// Schemes of authentication for which browsers ask a person.
const ASKING_SCHEMES: [&str; 4] = ["basic", "digest", "negotiate", "ntlm"];
const CONNECTION_UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");

/// Makes heads.
#[derive(Debug)]
pub(super) struct ResponseHeads {
    via: HeaderValue,
    passing: HashSet<HeaderName>,
    /// What the paths of URLs begin with here, and not in the cluster; without a slash at its end.
    base: String,
    metrics: Metrics,
}

impl ResponseHeads {
    /// Heads that name `via` among the proxies, and carry `more` headers than
    /// [`FROM_THE_CLUSTER`]. The cluster's paths begin with `base` here, which has no slash at its end.
    pub(super) fn new(via: HeaderValue, more: &[HeaderName], base: &str, metrics: Metrics) -> Self {
        let known = FROM_THE_CLUSTER.into_iter().map(HeaderName::from_static);
        Self {
            via,
            passing: known.chain(more.iter().cloned()).collect(),
            base: base.to_owned(),
            metrics,
        }
    }

    /// The status and headers of an agent's answer as the client gets them.
    pub(super) fn understand(
        &self,
        agent: AgentId,
        head: Head,
    ) -> Result<(StatusCode, HeaderMap), Interrupted> {
        let status = u16::try_from(head.status_code)
            .ok()
            .filter(|code| *code <= HIGHEST_STATUS)
            .and_then(|code| StatusCode::from_u16(code).ok())
            .ok_or_else(|| Interrupted::Malformed(format!("status code {}", head.status_code)))?;
        Ok((status, self.of(agent, status, head.header)))
    }

    /// The head of an answer. Nothing of what an agent sends is too much: beyond 1,000 lines or 256
    /// KiB, the largest headers lose lines, and a `Warning` says so. An answer that the cluster gave
    /// is never an error because of its head.
    pub(super) fn of(&self, agent: AgentId, status: StatusCode, meta: RawMeta) -> HeaderMap {
        let switches = status == StatusCode::SWITCHING_PROTOCOLS;
        let mut blocked = Blocked::default();
        let passing: Vec<_> = meta
            .into_iter()
            .filter_map(|entry| {
                let name = HeaderName::from_bytes(&entry.key).ok()?;
                let values = entry.value.unwrap_or_default();
                let known = self.passing.contains(&name) || (switches && name == header::UPGRADE);
                if known && !(name == header::WWW_AUTHENTICATE && ask_a_person(&values.value)) {
                    return Some((name, values.value));
                }
                blocked.add(name);
                None
            })
            .collect();
        blocked.report(agent, &self.metrics);
        let mut headers = fitting(passing);
        if status.is_informational()
            || status == StatusCode::NO_CONTENT
            || content_length(&headers).is_none()
        {
            headers.remove(header::CONTENT_LENGTH);
        }
        if headers.contains_key(header::UPGRADE) {
            put(&mut headers, header::CONNECTION, CONNECTION_UPGRADE);
        }
        if (status.is_redirection() || status == StatusCode::CREATED)
            && let Some(location) = headers.get(header::LOCATION)
            && let Some(location) = self.as_seen_from_here(location)
        {
            put(&mut headers, header::LOCATION, location);
        }
        add(&mut headers, &header::VIA, self.via.clone());
        headers
    }

    /// A place in the cluster that is given by its path, with what such paths begin with here; none for others.
    fn as_seen_from_here(&self, location: &HeaderValue) -> Option<HeaderValue> {
        let (base, path) = (self.base.as_bytes(), location.as_bytes());
        // `//host` and what browsers take for it is another host.
        let is_path = path.first() == Some(&b'/') && !matches!(path.get(1), Some(b'/' | b'\\'));
        let rest = path.strip_prefix(base);
        let is_here = rest.is_some_and(|it| matches!(it.first(), None | Some(b'/' | b'?' | b'#')));
        if base.is_empty() || !is_path || is_here {
            return None;
        }
        HeaderValue::from_bytes(&[base, path].concat()).ok()
    }
}

/// Whether browsers would ask for a password.
fn ask_a_person(challenges: &[Bytes]) -> bool {
    let asks = |challenge: &Bytes| {
        let challenge = String::from_utf8_lossy(challenge).to_ascii_lowercase();
        ASKING_SCHEMES
            .iter()
            .any(|scheme| challenge.contains(scheme))
    };
    challenges.iter().any(asks)
}

/// Whether there was room.
fn add(headers: &mut HeaderMap, name: &HeaderName, value: HeaderValue) -> bool {
    headers.try_append(name, value).is_ok()
}

/// A map of so few headers has room.
fn put(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    let _ = headers.try_insert(name, value);
}

#[cfg(test)]
mod tests {
    use super::fitting::MAX_LINES;
    use super::*;
    use proto::metadata::entry;

    const VIA: HeaderValue = HeaderValue::from_static("gRPC/1.0 kas/1");
    const AGENT: AgentId = AgentId(1);

    fn meta<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> RawMeta {
        let pairs = pairs.into_iter();
        pairs
            .map(|(name, value)| entry(name.to_owned(), [value.to_owned()]))
            .collect()
    }

    fn of(status: u16, pairs: &[(&str, &str)]) -> HeaderMap {
        let more = [HeaderName::from_static("x-more")];
        let status = StatusCode::from_u16(status).unwrap();
        heads(&more).of(AGENT, status, meta(pairs.iter().copied()))
    }

    fn heads(more: &[HeaderName]) -> ResponseHeads {
        ResponseHeads::new(VIA, more, "/k8s-proxy", Metrics::default())
    }

    #[test]
    fn what_tells_a_browser_about_our_host_is_removed() {
        let evil = [
            ("Set-Cookie", "_gitlab_kas=x"),
            ("Clear-Site-Data", "*"),
            ("Service-Worker-Allowed", "/"),
            ("Strict-Transport-Security", "max-age=1"),
            ("Refresh", "0; url=https://evil"),
            ("Gitlab-Unauthorized", "true"),
            ("Access-Control-Allow-Origin", "*"),
            ("Access-Control-Expose-Headers", "Date"),
            ("Www-Authenticate", "Basic"),
            ("Connection", "close"),
            ("Upgrade", "h2c"),
            ("Transfer-Encoding", "chunked"),
            ("X-Anything", "1"),
            ("a b", "1"),
        ];
        let headers = of(200, &evil);

        let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["via"]);
    }

    #[test]
    fn what_is_blocked_is_counted_but_for_what_speaks_of_a_connection() {
        let metrics = Metrics::default();
        let heads = ResponseHeads::new(VIA, &[], "", metrics.clone());
        let pairs = [
            ("Set-Cookie", "a=b"),
            ("X-1", ""),
            ("X-2", ""),
            ("X-3", ""),
            ("X-4", ""),
            ("X-5", ""),
            ("Connection", "close"),
            ("Transfer-Encoding", "chunked"),
            ("Content-Type", "a/b"),
        ];

        heads.of(AGENT, StatusCode::OK, meta(pairs));

        assert_eq!(metrics.blocked_response_headers(), 6);
    }

    #[test]
    fn a_challenge_passes_unless_browsers_would_ask_for_a_password() {
        let passes =
            |value| of(401, &[("Www-Authenticate", value)]).contains_key("www-authenticate");

        assert!(passes("Bearer realm=\"kubernetes\""));
        assert!(!passes("Bearer realm=\"a\", BASIC realm=\"b\""));
        assert!(!passes("Negotiate") && !passes("NTLM") && !passes("Digest realm=a"));
    }

    #[test]
    fn a_place_in_the_cluster_is_told_as_it_is_seen_from_here() {
        for (location, expected) in [
            (
                "/api/v1/namespaces/a/services/b/proxy/",
                "/k8s-proxy/api/v1/namespaces/a/services/b/proxy/",
            ),
            ("/", "/k8s-proxy/"),
            ("/k8s-proxyx", "/k8s-proxy/k8s-proxyx"),
            ("/k8s-proxy/api", "/k8s-proxy/api"),
            ("other/", "other/"),
            ("//evil/api", "//evil/api"),
            ("/\\evil", "/\\evil"),
            ("https://elsewhere/api", "https://elsewhere/api"),
        ] {
            assert_eq!(of(302, &[("Location", location)])["location"], expected);
            assert_eq!(of(200, &[("Location", location)])["location"], location);
        }
    }

    #[test]
    fn what_kubernetes_says_passes_and_so_does_what_was_allowed() {
        let headers = of(
            200,
            &[
                ("Content-Type", "application/json"),
                ("Content-Length", "12"),
                ("Warning", "299 - \"a\""),
                ("Warning", "299 - \"b\""),
                ("Audit-Id", "1"),
                ("X-Kubernetes-Pf-Flowschema-Uid", "u"),
                ("X-More", "m"),
                ("Via", "2.0 agent"),
            ],
        );

        assert_eq!(content_length(&headers), Some(12));
        assert_eq!(headers["x-more"], "m");
        assert_eq!(headers.get_all("warning").iter().count(), 2);
        let via: Vec<_> = headers.get_all("via").iter().collect();
        assert_eq!(via, ["2.0 agent", "gRPC/1.0 kas/1"]);
        assert_eq!(headers.len(), 9);
    }

    #[test]
    fn an_upgrade_is_for_a_switch_of_protocols() {
        let pairs = [("Upgrade", "SPDY/3.1"), ("Connection", "Upgrade, X-Hop")];

        let switched = of(101, &pairs);

        assert_eq!(switched["upgrade"], "SPDY/3.1");
        assert_eq!(switched["connection"], "upgrade");
        assert!(!of(400, &pairs).contains_key("upgrade"));
        assert!(!of(400, &pairs).contains_key("connection"));
    }

    #[test]
    fn a_length_is_there_only_where_it_makes_sense() {
        let length = |status, value: &[&str]| {
            let pairs: Vec<_> = value.iter().map(|it| ("Content-Length", *it)).collect();
            of(status, &pairs).contains_key("content-length")
        };
        assert!(length(200, &["1"]) && length(304, &["1"]));
        assert!(!length(204, &["0"]) && !length(101, &["0"]));
        assert!(!length(200, &["x"]) && !length(200, &["+1"]) && !length(200, &["1", "2"]));
    }

    #[test]
    fn a_head_that_is_too_long_keeps_what_matters_and_says_what_it_lost() {
        let line = "w".repeat(300);
        let warnings = (0..2000).map(|_| ("Warning", line.as_str()));
        let meta = meta(warnings.chain([("Content-Type", "text/plain"), ("Content-Length", "3")]));

        let headers = heads(&[]).of(AGENT, StatusCode::CREATED, meta);

        assert_eq!(headers["content-type"], "text/plain");
        assert_eq!(headers["content-length"], "3");
        assert!(headers.len() < MAX_LINES);
        let warning = headers.get_all("warning").iter().next_back().unwrap();
        let warning = warning.to_str().unwrap();
        assert!(
            warning.starts_with("299 kas \"") && warning.contains(" of 2002 header lines"),
            "{warning}"
        );
    }

    #[test]
    fn any_number_of_names_is_harmless() {
        let names: Vec<_> = (0..40_000).map(|number| format!("X-{number}")).collect();
        let many = || names.iter().map(|name| (name.as_str(), "1"));

        assert_eq!(heads(&[]).of(AGENT, StatusCode::OK, meta(many())).len(), 1);
        let allowed: Vec<_> = names.iter().map(|name| name.parse().unwrap()).collect();
        let headers = heads(&allowed).of(AGENT, StatusCode::OK, meta(many()));
        assert_eq!(headers.len(), MAX_LINES + 2);
    }

    #[test]
    fn the_list_is_in_order_and_in_lower_case() {
        assert!(FROM_THE_CLUSTER.is_sorted());
        let lower = |name: &&str| **name == name.to_ascii_lowercase();
        assert!(FROM_THE_CLUSTER.iter().all(lower));
    }
}

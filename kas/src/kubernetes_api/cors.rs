//! Browsers of other origins: who may call, and what they are told.

use http::{HeaderMap, HeaderValue, StatusCode, header};

const METHODS: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE, PATCH");
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");
const TRUE: HeaderValue = HeaderValue::from_static("true");
const ORIGIN: HeaderValue = HeaderValue::from_static("Origin");

/// What the `Origin` header of a request means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Caller {
    /// No browser, or one that is at home here.
    SameOrigin,
    /// A browser of the allowed origin.
    Allowed(HeaderValue),
    /// A browser of any other origin.
    Foreign,
}

impl Caller {
    /// Reads the header; origins are compared as strings, byte by byte.
    pub(super) fn of(headers: &HeaderMap, allowed: Option<&str>) -> Self {
        match headers.get(header::ORIGIN) {
            None => Self::SameOrigin,
            Some(origin) if allowed.is_some_and(|a| origin.as_bytes() == a.as_bytes()) => {
                Self::Allowed(origin.clone())
            }
            Some(_) => Self::Foreign,
        }
    }

    /// Adds what an answer to this caller must carry; `Vary` comes first.
    pub(super) fn mark(&self, headers: &mut HeaderMap) {
        let Self::Allowed(origin) = self else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        let others: Vec<_> = headers.get_all(header::VARY).iter().cloned().collect();
        headers.insert(header::VARY, ORIGIN);
        for value in others {
            headers.append(header::VARY, value);
        }
    }
}

/// The answer to any `OPTIONS` request.
pub(super) fn preflight(asked: &HeaderMap) -> (StatusCode, HeaderMap) {
    let mut headers = HeaderMap::new();
    for value in asked.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.append(header::ACCESS_CONTROL_ALLOW_HEADERS, value.clone());
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    (StatusCode::OK, headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(origin: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static(origin))])
    }

    #[test]
    fn only_the_very_same_origin_is_allowed() {
        let allowed = Some("https://gitlab.example.com");
        let of = |origin| Caller::of(&with(origin), allowed);

        assert!(matches!(
            of("https://gitlab.example.com"),
            Caller::Allowed(_)
        ));
        assert_eq!(of("https://gitlab.example.com/"), Caller::Foreign);
        assert_eq!(of("https://GitLab.example.com"), Caller::Foreign);
        assert_eq!(Caller::of(&HeaderMap::new(), allowed), Caller::SameOrigin);
        assert_eq!(Caller::of(&with("https://x"), None), Caller::Foreign);
    }

    #[test]
    fn an_allowed_caller_is_told_so_and_vary_begins_with_origin() {
        let mut headers =
            HeaderMap::from_iter([(header::VARY, HeaderValue::from_static("Accept"))]);

        Caller::of(&with("https://a"), Some("https://a")).mark(&mut headers);

        assert_eq!(headers["access-control-allow-origin"], "https://a");
        assert_eq!(headers["access-control-allow-credentials"], "true");
        let vary: Vec<_> = headers.get_all("vary").iter().collect();
        assert_eq!(vary, ["Origin", "Accept"]);
    }

    #[test]
    fn a_preflight_echoes_the_headers_asked_for() {
        let asked = HeaderMap::from_iter([(
            header::ACCESS_CONTROL_REQUEST_HEADERS,
            HeaderValue::from_static("x-a,x-b"),
        )]);

        let (status, headers) = preflight(&asked);

        assert_eq!(status, 200);
        assert_eq!(headers["access-control-allow-headers"], "x-a,x-b");
        assert_eq!(headers["access-control-max-age"], "86400");
    }
}

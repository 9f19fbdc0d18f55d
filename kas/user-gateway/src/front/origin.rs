//! Cross-origin requests of browsers: which origins are allowed, and what preflight requests get (CORS).

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header, request::Parts};

use crate::failure::Failure;

const METHODS: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE, PATCH");
const PREFLIGHT_MAX_AGE_SECONDS: HeaderValue = HeaderValue::from_static("86400");
const TRUE: HeaderValue = HeaderValue::from_static("true");
const ORIGIN: HeaderValue = HeaderValue::from_static("Origin");

/// Whose pages may call with what a browser adds by itself: a cookie, or a WebSocket's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// Those of these origins, written as browsers write them: `https://gitlab.example.com`.
    These(Vec<String>),
    /// Those that come from the host that they call.
    OwnHost,
}

impl Default for Origins {
    /// No page may.
    fn default() -> Self {
        Self::These(Vec::new())
    }
}

impl Origins {
    fn have(&self, origin: &HeaderValue, head: &Parts) -> bool {
        match self {
            Self::These(all) => all.iter().any(|it| it.as_bytes() == origin.as_bytes()),
            Self::OwnHost => is_of_host(origin, head),
        }
    }
}

/// The origin of a URL, as a browser writes it: no path, no port where it is the scheme's own, and
/// lower case. None if it is no URL with a host.
#[must_use]
pub fn origin_of(url: &str) -> Option<String> {
    let url: Uri = url.parse().ok()?;
    let (scheme, host) = (url.scheme_str()?, url.host()?);
    let own = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let port = url.port_u16().filter(|port| *port != own);
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    Some(format!("{scheme}://{host}{port}").to_ascii_lowercase())
}

fn is_of_host(origin: &HeaderValue, head: &Parts) -> bool {
    let host = head.headers.get(header::HOST);
    let authority = head.uri.authority().map(|it| it.as_str().as_bytes());
    let asked = authority.or(host.map(HeaderValue::as_bytes));
    let origin = origin.as_bytes();
    let from = origin
        .strip_prefix(b"https://")
        .or_else(|| origin.strip_prefix(b"http://"));
    from.is_some() && from == asked
}

/// What the `Origin` header of a request says about its caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// No browser, or one that is at home here.
    SameOrigin,
    /// A browser of an allowed origin.
    Allowed(HeaderValue),
    /// A browser of any other origin, or a program that sends one by itself. It may do what needs
    /// credentials that no browser adds by itself.
    Foreign,
}

impl Caller {
    /// Reads the header; origins are compared as strings, byte by byte.
    pub(crate) fn of(head: &Parts, origins: &Origins) -> Self {
        match head.headers.get(header::ORIGIN) {
            None => Self::SameOrigin,
            Some(origin) if origins.have(origin, head) => Self::Allowed(origin.clone()),
            Some(_) => Self::Foreign,
        }
    }

    /// Refuses a page of another origin, unless it shows what no browser sends by itself.
    ///
    /// # Errors
    /// 403.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Failure> {
        if *self != Self::Foreign || headers.contains_key(header::AUTHORIZATION) {
            return Ok(());
        }
        let message = "Forbidden: the request's Origin is not among those whose pages may use \
                       cookies and WebSocket tokens here (agent.kubernetes_api.allowed_origins)";
        Err(Failure::new(StatusCode::FORBIDDEN, message))
    }

    /// Adds what an answer to this caller must carry; `Vary` comes first.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        let Self::Allowed(origin) = self else { return };
        put(headers, header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        put(headers, header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        let others: Vec<_> = headers.get_all(header::VARY).iter().cloned().collect();
        put(headers, header::VARY, ORIGIN);
        for value in others {
            let _ = headers.try_append(header::VARY, value);
        }
    }
}

/// The answer to any `OPTIONS` request; for a foreign origin it allows nothing.
pub(crate) fn preflight(caller: &Caller, asked: &HeaderMap) -> (StatusCode, HeaderMap) {
    let mut headers = HeaderMap::new();
    if *caller != Caller::Foreign {
        for value in asked.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            let _ = headers.try_append(header::ACCESS_CONTROL_ALLOW_HEADERS, value.clone());
        }
        put(&mut headers, header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        put(
            &mut headers,
            header::ACCESS_CONTROL_MAX_AGE,
            PREFLIGHT_MAX_AGE_SECONDS,
        );
    }
    (StatusCode::OK, headers)
}

/// Sets a header; an answer has room for these.
fn put(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    let _ = headers.try_insert(name, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn from(origin: &str) -> Parts {
        let request = Request::get("/x").header("host", "kas.example.com");
        let request = request.header("origin", origin);
        request.body(()).unwrap().into_parts().0
    }

    fn these(origin: &str) -> Origins {
        Origins::These(vec![origin.to_owned()])
    }

    #[test]
    fn only_the_very_same_origin_is_allowed() {
        let allowed = these("https://gitlab.example.com");
        let of = |origin| Caller::of(&from(origin), &allowed);

        assert!(matches!(
            of("https://gitlab.example.com"),
            Caller::Allowed(_)
        ));
        for other in [
            "https://gitlab.example.com/",
            "https://GitLab.example.com",
            "http://gitlab.example.com",
            "https://kas.example.com",
            "null",
        ] {
            assert_eq!(of(other), Caller::Foreign, "{other}");
        }
        let (no_origin, ()) = Request::get("/x").body(()).unwrap().into_parts();
        assert_eq!(Caller::of(&no_origin, &allowed), Caller::SameOrigin);
        assert_eq!(
            Caller::of(&from("https://x"), &Origins::default()),
            Caller::Foreign
        );
    }

    #[test]
    fn without_a_list_the_host_itself_is_allowed() {
        let of = |origin| Caller::of(&from(origin), &Origins::OwnHost);

        assert!(matches!(of("https://kas.example.com"), Caller::Allowed(_)));
        for other in ["https://kas.example.com:8", "https://evil", "null", ""] {
            assert_eq!(of(other), Caller::Foreign, "{other}");
        }
    }

    #[test]
    fn a_foreign_origin_needs_what_no_browser_adds() {
        let mut head = from("https://evil");
        let caller = Caller::of(&head, &Origins::default());
        let refused = caller.check(&head.headers).unwrap_err();
        assert_eq!(refused.code, 403);

        head.headers
            .try_append("authorization", HeaderValue::from_static("Bearer x"))
            .unwrap();
        assert_eq!(caller.check(&head.headers), Ok(()));
    }

    #[test]
    fn an_origin_is_written_as_browsers_write_it() {
        let of = |url: &str| origin_of(url).unwrap_or_default();

        assert_eq!(
            of("https://GitLab.example.com/"),
            "https://gitlab.example.com"
        );
        assert_eq!(of("https://g:443/gitlab"), "https://g");
        assert_eq!(of("http://g:8080"), "http://g:8080");
        assert_eq!(of("https://[::1]:443"), "https://[::1]");
        assert_eq!(of("ftp://g"), "");
        assert_eq!(of("gitlab"), "");
    }

    #[test]
    fn an_allowed_caller_is_told_so_and_vary_begins_with_origin() {
        let mut headers =
            HeaderMap::from_iter([(header::VARY, HeaderValue::from_static("Accept"))]);

        Caller::of(&from("https://a"), &these("https://a")).mark(&mut headers);

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

        let (status, headers) = preflight(&Caller::SameOrigin, &asked);

        assert_eq!(status, 200);
        assert_eq!(headers["access-control-allow-headers"], "x-a,x-b");
        assert_eq!(headers["access-control-max-age"], "86400");
        assert!(preflight(&Caller::Foreign, &asked).1.is_empty());
    }
}

//! The page: a browser's view of what the REST API tells, made of files that are part of the program.
//!
//! Its parts hold nothing that others may not know, and are served before anybody has given a token; what they show
//! they ask like everybody else.

use axum::{
    Router,
    body::Body,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderName, HeaderValue, header};

/// What the page may do: use its own files, and ask this server. Texts never become markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! part {
    ($path:literal, $file:literal, $kind:expr) => {
        Part {
            path: $path,
            kind: $kind,
            bytes: include_bytes!(concat!("../page/", $file)),
        }
    };
}

const PARTS: [Part; 19] = [
    part!("/", "index.html", HTML),
    part!("/icon.svg", "icon.svg", SVG),
    part!("/page.css", "page.css", STYLE),
    part!("/main.js", "main.js", SCRIPT),
    part!("/access.js", "access.js", SCRIPT),
    part!("/add.js", "add.js", SCRIPT),
    part!("/api.js", "api.js", SCRIPT),
    part!("/credentials.js", "credentials.js", SCRIPT),
    part!("/dialogs.js", "dialogs.js", SCRIPT),
    part!("/dom.js", "dom.js", SCRIPT),
    part!("/events.js", "events.js", SCRIPT),
    part!("/headline.js", "headline.js", SCRIPT),
    part!("/clusters.js", "clusters.js", SCRIPT),
    part!("/cluster.js", "cluster.js", SCRIPT),
    part!("/load.js", "load.js", SCRIPT),
    part!("/replicas.js", "replicas.js", SCRIPT),
    part!("/requests.js", "requests.js", SCRIPT),
    part!("/sessions.js", "sessions.js", SCRIPT),
    part!("/timeline.js", "timeline.js", SCRIPT),
];

/// A file of the page.
#[derive(Debug, Clone, Copy)]
struct Part {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

/// Whether something of the page is at this path.
pub(crate) fn has(path: &str) -> bool {
    PARTS.iter().any(|part| part.path == path)
}

/// The routes of all its parts.
pub(crate) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    PARTS.into_iter().fold(Router::new(), |router, part| {
        router.route(part.path, get(move || async move { part }))
    })
}

impl IntoResponse for Part {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.bytes));
        let headers: [(HeaderName, &'static str); 3] = [
            (header::CONTENT_TYPE, self.kind),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_FRAME_OPTIONS, "DENY"),
        ];
        for (name, value) in headers {
            // An answer has room for these few.
            let _ = response
                .headers_mut()
                .try_insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The host of URLs that show what is to be typed.
    const EXAMPLE: &str = "kas.example.com";

    fn text(path: &str) -> &'static str {
        let part = PARTS.iter().find(|part| part.path == path);
        std::str::from_utf8(part.expect("a part").bytes).unwrap()
    }

    #[test]
    fn all_that_the_page_loads_is_a_part_of_it() {
        for part in PARTS {
            let source = text(part.path);
            let named = source
                .split(['"', '\''])
                .filter(|it| [".js", ".css", ".svg"].iter().any(|end| it.ends_with(end)))
                .filter(|it| !it.contains(char::is_whitespace));
            for name in named {
                let path = format!("/{}", name.trim_start_matches("./"));
                assert!(has(&path), "{} loads {name}", part.path);
            }
        }
    }

    #[test]
    fn nothing_comes_from_elsewhere_and_no_text_becomes_markup() {
        for part in PARTS {
            let source = text(part.path);
            let elsewhere = source
                .split("://")
                .skip(1)
                .filter(|it| !it.starts_with("www.w3.org/") && !it.starts_with(EXAMPLE));
            assert_eq!(elsewhere.count(), 0, "{}", part.path);
            for markup in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
            ] {
                assert!(!source.contains(markup), "{}: {markup}", part.path);
            }
        }
        let html = text("/");
        assert!(!html.contains("<style") && !html.contains(" style="));
        let is_handler = |it: &str| {
            let name = it.split('=').next().unwrap_or_default();
            it.contains('=') && name.bytes().all(|byte| byte.is_ascii_lowercase())
        };
        assert!(!html.split(" on").skip(1).any(is_handler));
    }
}

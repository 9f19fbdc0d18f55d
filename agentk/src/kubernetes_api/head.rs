//! The head of a request to the API server, from what kas sent. Pure.

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use prost::Message as _;
use proto::agent::{
    grpctool::{KeepOffer, ResumeOffer, http_request},
    kubernetes_api::rpc::{HeaderExtra, ImpersonationConfig},
    prototool,
};
use tonic::Status;

use super::{impersonate, url};
use crate::version;

/// What the protocol allows in `extra`.
const EXTRA_TYPE: &str = "gitlab.agent.kubernetes_api.rpc.HeaderExtra";

/// Lines of a request's head, at most: more than any kas lets through.
const MAX_HEADER_LINES: usize = 16_384;

/// Headers that are about one connection, or that the HTTP client sets itself.
const CONNECTION_HEADERS: [HeaderName; 9] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::CONNECTION,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// How long a request's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// There is none.
    None,
    /// So many bytes.
    Known(u64),
    /// Nobody said.
    Unknown,
}

impl Length {
    pub(super) fn known(self) -> Option<u64> {
        match self {
            Self::None => Some(0),
            Self::Known(length) => Some(length),
            Self::Unknown => None,
        }
    }
}

/// All of a request but its body.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) method: Method,
    /// Encoded.
    pub(super) path_and_query: String,
    pub(super) headers: HeaderMap,
    pub(super) length: Length,
    /// Whether the connection is to be taken over.
    pub(super) upgrade: bool,
    /// Whether the answer may go on for long.
    pub(super) long_running: bool,
    /// For whom kas says that it is.
    pub(super) identity: Option<ImpersonationConfig>,
    /// What kas offers of an upgrade.
    pub(super) resume: Option<ResumeOffer>,
    /// What kas offers of a request that changes something.
    pub(super) keep: Option<KeepOffer>,
}

impl Head {
    /// Understands what kas sent; `own` is whom the agent impersonates anyway. Boxed, since futures that hold it are
    /// moved.
    pub(super) fn new(header: http_request::Header, own: &HeaderMap) -> Result<Box<Self>, Status> {
        let (identity, resume) = (identity(header.extra)?, header.resume);
        let keep = header.keep;
        let request = header
            .request
            .ok_or_else(|| Status::invalid_argument("a header without a request"))?;
        let method = Method::from_bytes(request.method.as_bytes())
            .map_err(|_| Status::invalid_argument("a request without a valid method"))?;
        let long_running = is_long_running(&request);
        let values = request.header.iter().filter_map(|it| it.value.as_ref());
        let lines = values.map(|it| it.value.len()).sum::<usize>();
        if lines > MAX_HEADER_LINES {
            return Err(Status::invalid_argument(format!(
                "a request with {lines} header lines, more than the {MAX_HEADER_LINES} allowed"
            )));
        }
        let path_and_query = if request.target.is_empty() {
            url::encoded(&request.url_path, request.query)
        } else {
            url::verbatim(request.target, &request.url_path)
        }
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut headers = proto::metadata::to_headers(request.header);
        let upgrade = headers.contains_key(header::UPGRADE);
        clean(&mut headers, upgrade);
        let kept = if resume.is_some() || keep.is_some() {
            identity.clone()
        } else {
            None
        };
        impersonate::apply(own, identity, &mut headers)?;
        let length = match header.content_length {
            Some(0) => Length::None,
            // Upgrades have no body unless it says so.
            None | Some(..0) if upgrade => Length::None,
            None | Some(..0) => Length::Unknown,
            Some(length) => Length::Known(length.unsigned_abs()),
        };
        Ok(Box::new(Self {
            method,
            path_and_query,
            headers,
            length,
            upgrade,
            long_running,
            identity: kept,
            resume,
            keep,
        }))
    }
}

/// As whom a request is to be made.
pub(super) fn identity(
    extra: Option<prost_types::Any>,
) -> Result<Option<ImpersonationConfig>, Status> {
    let Some(extra) = extra else {
        return Ok(None);
    };
    let kind = extra.type_url.rsplit('/').next().unwrap_or_default();
    if kind != EXTRA_TYPE {
        return Err(Status::invalid_argument(format!(
            "{kind:?} is no extra of a request's header"
        )));
    }
    let extra = HeaderExtra::decode(extra.value.as_slice())
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok(extra.imp_config)
}

fn clean(headers: &mut HeaderMap, upgrade: bool) {
    for name in CONNECTION_HEADERS {
        headers.remove(name);
    }
    if upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    // Where there is no room for one more it stays out.
    let _ = headers.try_append(header::VIA, version::VIA_GRPC);
    if !headers.contains_key(header::USER_AGENT) {
        headers.insert(header::USER_AGENT, version::USER_AGENT);
    }
}

/// Watches, logs that are followed, and whatever a proxied pod does.
fn is_long_running(request: &prototool::HttpRequest) -> bool {
    let (path, raw_query) = match request.target.split_once('?') {
        Some((path, query)) => (path, query),
        None if request.target.is_empty() => (request.url_path.as_str(), ""),
        None => (request.target.as_str(), ""),
    };
    let is_set = |name: &str| {
        let of_map = || Some(request.query.get(name)?.value.first()?.as_str());
        let is = |pair: &&str| pair.split_once('=').is_some_and(|(key, _)| key == name);
        let raw = raw_query
            .split('&')
            .find(is)
            .map(|it| &it[name.len() + 1..]);
        raw.or_else(of_map)
            .is_some_and(|first| first != "false" && first != "0")
    };
    is_set("watch")
        || is_set("follow")
        || path.contains("/watch/")
        || path.contains("/proxy/")
        || path.ends_with("/proxy")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{agent::prototool::Values, metadata::entry};

    fn values(all: &[&str]) -> Values {
        Values {
            value: all.iter().map(|it| (*it).to_owned()).collect(),
        }
    }

    fn header(
        change: impl FnOnce(&mut http_request::Header, &mut prototool::HttpRequest),
    ) -> Result<Box<Head>, Status> {
        let mut request = prototool::HttpRequest {
            method: "GET".into(),
            url_path: "/api".into(),
            ..prototool::HttpRequest::default()
        };
        let mut header = http_request::Header {
            request: None,
            extra: None,
            content_length: Some(0),
            resume: None,
            keep: None,
        };
        change(&mut header, &mut request);
        header.request = Some(request);
        Head::new(header, &HeaderMap::new())
    }

    #[test]
    fn headers_about_the_connection_are_left_out_and_via_is_added() {
        let head = header(|_, request| {
            for (name, value) in [
                ("Host", "kas"),
                ("Content-Length", "7"),
                ("Connection", "close"),
                ("Accept", "a"),
                ("Via", "1.1 kas"),
            ] {
                request.header.push(entry(name, [value]));
            }
        })
        .unwrap();

        assert!(!head.headers.contains_key("host") && !head.headers.contains_key("content-length"));
        assert!(!head.headers.contains_key("connection"));
        assert_eq!(head.headers["accept"], "a");
        let via: Vec<_> = head.headers.get_all("via").iter().collect();
        assert_eq!(via[0], "1.1 kas");
        assert!(
            via[1]
                .to_str()
                .unwrap()
                .starts_with("gRPC/1.0 gitlab-agent/v16.5.0+kas.")
        );
    }

    #[test]
    fn a_value_may_have_any_bytes() {
        let head = header(|_, request| {
            request.header.push(entry("X-Name", [&b"caf\xe9"[..]]));
            request.header.push(entry("Trace-Bin", [&b"\xff\x00"[..]]));
        })
        .unwrap();

        assert_eq!(head.headers["x-name"].as_bytes(), b"caf\xe9");
        assert!(!head.headers.contains_key("trace-bin"));
    }

    #[test]
    fn lengths_say_whether_there_is_a_body() {
        for (announced, expected) in [
            (Some(0), Length::None),
            (Some(7), Length::Known(7)),
            (Some(-1), Length::Unknown),
            (None, Length::Unknown),
        ] {
            let head = header(|header, _| header.content_length = announced).unwrap();
            assert_eq!(head.length, expected);
        }
    }

    #[test]
    fn upgrades_keep_their_headers_and_have_no_body() {
        let head = header(|header, request| {
            header.content_length = Some(-1);
            request.header.push(entry("Upgrade", ["websocket"]));
            request.header.push(entry("Connection", ["upgrade"]));
        })
        .unwrap();

        assert!(head.upgrade);
        assert_eq!(head.length, Length::None);
        assert_eq!(head.headers["upgrade"], "websocket");
        assert_eq!(head.headers["connection"], "Upgrade");
    }

    #[test]
    fn what_may_last_is_told_apart() {
        let long_running = |path: &str, query: &[(&str, &str)]| {
            header(|_, request| {
                request.url_path = path.to_owned();
                for (key, value) in query {
                    request.query.insert((*key).to_owned(), values(&[value]));
                }
            })
            .unwrap()
            .long_running
        };

        assert!(long_running("/api/v1/pods", &[("watch", "true")]));
        assert!(long_running("/api/v1/pods", &[("watch", "1")]));
        assert!(!long_running("/api/v1/pods", &[("watch", "false")]));
        assert!(long_running(
            "/api/v1/namespaces/a/pods/b/log",
            &[("follow", "true")]
        ));
        assert!(long_running("/api/v1/namespaces/a/services/b/proxy/x", &[]));
        assert!(!long_running("/api/v1/pods", &[]));
    }

    #[test]
    fn a_target_is_sent_as_it_is_and_must_be_that_of_the_path() {
        let of = |target: &str, url_path: &str| {
            let head = header(|_, request| {
                request.target = target.to_owned();
                request.url_path = url_path.to_owned();
                request.query.insert("x".to_owned(), values(&["y"]));
            });
            head.map(|head| (head.path_and_query, head.long_running))
        };
        let sent = "/a%2Fb/%2e%2e/%zz?watch=1&b;c&%zz&a=|";

        assert_eq!(of(sent, "").unwrap(), (sent.to_owned(), true));
        assert_eq!(of("/a%20b", "/a b").unwrap().0, "/a%20b");
        assert_eq!(
            of("/b?watch=0", "/b").unwrap(),
            ("/b?watch=0".to_owned(), false)
        );
        for (target, url_path) in [
            ("/a", "/b"),
            ("/a/..", "/a"),
            ("a", ""),
            ("http://evil/a", ""),
            ("*", "*"),
            ("/a#b", ""),
            ("/a b", ""),
            ("/a\r\nx: y", ""),
            ("/a?b<", ""),
        ] {
            assert!(of(target, url_path).is_err(), "{target}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert!(header(|_, request| request.method = "G T".into()).is_err());
        assert!(header(|_, request| request.method = String::new()).is_err());
        assert!(header(|_, request| request.url_path = String::new()).is_err());
        let strange = header(|header, _| {
            header.extra = Some(prost_types::Any {
                type_url: "type.googleapis.com/other".into(),
                value: Vec::new(),
            });
        });
        assert!(strange.is_err());
    }
}

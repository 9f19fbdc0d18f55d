//! What a watch is, and how it is asked for again.

use http::{HeaderMap, HeaderValue, Method, header};
use prost::Message as _;
use proto::{
    agent::grpctool::{HttpRequest, http_request},
    frame::Payload,
    metadata::Meta,
};
use router::Opening;

use super::position::{Point, Position};
use crate::kubernetes_api::{
    query,
    request::{Length, Outline},
};

const BOOKMARKS: &str = "allowWatchBookmarks";
const INITIAL: &str = "sendInitialEvents";
const TIMEOUT: &str = "timeoutSeconds";
const VERSION: &str = "resourceVersion";
/// What says how a watch begins, and has no sense behind that.
const OF_THE_BEGINNING: [&str; 3] = [INITIAL, "resourceVersionMatch", "continue"];
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

/// Makes the request one that can be resumed, if it is a watch of a collection;
/// gives the place where it begins.
///
/// Bookmarks are asked for, so that the place is never old; they are kept from
/// a client that did not ask. A compressed answer could not be read.
pub(in crate::kubernetes_api) fn prepare(outline: &mut Outline) -> Option<Position> {
    let is_watch = outline.method == Method::GET
        && outline.length == Length::None
        && !outline.upgrade
        && query::is_true(&outline.query, "watch")
        && is_collection(&outline.path);
    if !is_watch {
        return None;
    }
    let asks = query::is_true(&outline.query, BOOKMARKS);
    let hides = !asks && is_understood(&outline.headers);
    let initial = (query::first(&outline.query, INITIAL).is_some())
        .then(|| query::is_true(&outline.query, INITIAL));
    let position = Position::new(query::first(&outline.query, VERSION), initial, hides);
    if hides {
        set(&mut outline.query, BOOKMARKS, "true");
    }
    outline.headers.insert(header::ACCEPT_ENCODING, IDENTITY);
    Some(position)
}

/// The call that goes on at `point`, when the watch has lasted for `spent`
/// seconds; nothing when its time is up.
pub(super) fn again(opening: &Opening, point: &Point, spent: u64) -> Option<Opening> {
    let mut request = HttpRequest::decode(opening.messages.first()?.head.clone()).ok()?;
    let Some(http_request::Message::Header(header)) = &mut request.message else {
        return None;
    };
    change(&mut header.request.as_mut()?.query, point, spent)?;
    let mut opening = opening.clone();
    *opening.messages.first_mut()? = Payload::message(&request);
    Some(opening)
}

fn change(query: &mut Meta, point: &Point, spent: u64) -> Option<()> {
    let limit = query::first(query, TIMEOUT).and_then(|limit| limit.parse::<u64>().ok());
    if let Some(limit) = limit.filter(|limit| *limit > 0) {
        let left = limit.checked_sub(spent).filter(|left| *left > 0)?;
        set(query, TIMEOUT, &left.to_string());
    }
    match point {
        Point::End => return None,
        Point::Start => {}
        Point::Behind(version) => {
            for name in OF_THE_BEGINNING {
                query.remove(name);
            }
            set(query, VERSION, version);
        }
    }
    Some(())
}

fn set(query: &mut Meta, name: &str, value: &str) {
    query.entry(name.to_owned()).or_default().value = vec![value.to_owned()];
}

/// Whether the path is that of a collection: what lies below a single object,
/// such as the proxy of a service, is no watch whatever its query says.
fn is_collection(path: &str) -> bool {
    let mut parts = path.trim_matches('/').split('/');
    let versioned = match parts.next() {
        Some("api") => parts.next().is_some(),
        Some("apis") => parts.next().is_some() && parts.next().is_some(),
        Some(_) | None => false,
    };
    let rest: Vec<_> = parts.take(4).collect();
    versioned && matches!(rest[..], [_] | ["namespaces", _, _])
}

/// Whether bookmarks can be taken out of all that the client accepts. The first
/// event of a table, which may be a bookmark, is the only one with the columns.
fn is_understood(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().all(|accept| {
        accept
            .to_str()
            .is_ok_and(|accept| accept.split(',').all(is_plain))
    })
}

fn is_plain(range: &str) -> bool {
    let mut parts = range.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default();
    matches!(
        kind,
        "" | "*/*" | "application/*" | super::JSON | super::PROTOBUF
    ) && !parts.any(|parameter| parameter.eq_ignore_ascii_case("as=Table"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(path: &str, raw_query: &str, accept: &str) -> Outline {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        headers.insert(header::ACCEPT_ENCODING, "gzip".parse().unwrap());
        Outline {
            method: Method::GET,
            path: path.into(),
            query: query::forwarded(raw_query),
            headers,
            length: Length::None,
            upgrade: false,
            impersonation: None,
        }
    }

    fn sorted(query: &Meta) -> Vec<(&str, &str)> {
        let mut all: Vec<_> = query
            .iter()
            .map(|(name, values)| (name.as_str(), values.value[0].as_str()))
            .collect();
        all.sort_unstable();
        all
    }

    fn changed(raw_query: &str, point: &Point, spent: u64) -> Option<Vec<(String, String)>> {
        let mut query = query::forwarded(raw_query);
        change(&mut query, point, spent)?;
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Some(sorted(&query).into_iter().map(own).collect())
    }

    fn pairs(pairs: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Some(pairs.iter().map(own).collect())
    }

    #[test]
    fn a_watch_of_a_collection_is_made_resumable() {
        for path in [
            "/api/v1/pods",
            "/api/v1/namespaces",
            "/api/v1/namespaces/a/pods",
            "/apis/apps/v1/deployments",
            "/apis/apps/v1/namespaces/a/deployments/",
        ] {
            let mut outline = outline(path, "watch=1&resourceVersion=7", "application/json");

            let position = prepare(&mut outline).expect(path);

            assert_eq!(position, Position::new(Some("7"), None, true));
            let expected = [(BOOKMARKS, "true"), (VERSION, "7"), ("watch", "1")];
            assert_eq!(sorted(&outline.query), expected);
            assert_eq!(outline.headers[header::ACCEPT_ENCODING], "identity");
        }
    }

    #[test]
    fn anything_else_is_left_as_it_is() {
        for (path, query) in [
            ("/api/v1/pods", ""),
            ("/api/v1/pods", "watch=false"),
            ("/api/v1/namespaces/a", "watch=true"),
            ("/api/v1/namespaces/a/pods/x", "watch=true"),
            ("/api/v1/namespaces/a/services/x/proxy", "watch=true"),
            ("/api/v1/nodes/a/proxy", "watch=true"),
            ("/apis/apps/v1", "watch=true"),
            ("/healthz", "watch=true"),
            ("/", "watch=true"),
        ] {
            let mut outline = outline(path, query, "application/json");

            assert_eq!(prepare(&mut outline), None, "{path}?{query}");
            assert!(!outline.query.contains_key(BOOKMARKS));
            assert_eq!(outline.headers[header::ACCEPT_ENCODING], "gzip");
        }
    }

    #[test]
    fn bookmarks_are_asked_for_where_they_can_be_taken_out_again() {
        let asked = |query, accept| {
            let mut outline = outline("/api/v1/pods", query, accept);
            let position = prepare(&mut outline).unwrap();
            let hides = position == Position::new(None, None, true);
            (outline.query.contains_key(BOOKMARKS), hides)
        };
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let partial = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
        let both = "application/vnd.kubernetes.protobuf, application/json";

        assert_eq!(asked("watch=1", table), (false, false));
        assert_eq!(asked("watch=1", partial), (true, true));
        assert_eq!(asked("watch=1", both), (true, true));
        assert_eq!(asked("watch=1", "*/*"), (true, true));
        assert_eq!(
            asked("watch=1", "application/cbor,application/json"),
            (false, false)
        );
        assert_eq!(asked("watch=1&allowWatchBookmarks=1", both), (true, false));
    }

    #[test]
    fn the_version_is_replaced_and_what_is_of_the_beginning_removed() {
        let query = "watch=1&labelSelector=a%3Db&resourceVersion=0&continue=x\
                     &sendInitialEvents=true&resourceVersionMatch=NotOlderThan";

        assert_eq!(
            changed(query, &Point::Behind("9".into()), 5),
            pairs(&[("labelSelector", "a=b"), (VERSION, "9"), ("watch", "1")])
        );
        assert_eq!(
            changed("watch=1&sendInitialEvents=true", &Point::Start, 5),
            pairs(&[(INITIAL, "true"), ("watch", "1")])
        );
    }

    #[test]
    fn time_that_is_spent_is_not_given_again() {
        let limited = |spent| changed("timeoutSeconds=10", &Point::Start, spent);

        assert_eq!(limited(3), pairs(&[(TIMEOUT, "7")]));
        assert_eq!(limited(10), None);
        assert_eq!(limited(11), None);
        assert_eq!(
            changed("timeoutSeconds=0", &Point::Start, 3),
            pairs(&[(TIMEOUT, "0")])
        );
        assert_eq!(
            changed("timeoutSeconds=x", &Point::Start, 3),
            pairs(&[(TIMEOUT, "x")])
        );
    }
}

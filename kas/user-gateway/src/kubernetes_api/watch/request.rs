//! What a watch is, and how it is asked for again.

use http::{HeaderMap, HeaderValue, Method, header};
use prost::Message as _;
use proto::{
    agent::grpctool::{HttpRequest, http_request},
    frame::Payload,
};
use router::Opening;

use super::position::{Point, Position};
use crate::{
    kubernetes_api::request_head::RequestHead,
    query::{self, Edit},
    route::Length,
};

const BOOKMARKS: &str = "allowWatchBookmarks";
const INITIAL: &str = "sendInitialEvents";
const TIMEOUT: &str = "timeoutSeconds";
const VERSION: &str = "resourceVersion";
/// How long a watch may last whose client sets no limit, in seconds: an API server ends such a watch
/// after half an hour to an hour (`--min-request-timeout`, once or twice 1800 s), and would begin to
/// count anew each time that it is resumed.
const MAX_WATCH_SECONDS: u64 = 3600;
/// Parameters that only say how a watch begins.
const INITIAL_PARAMETERS: [&str; 3] = [INITIAL, "resourceVersionMatch", "continue"];
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

/// Makes the request one that can be resumed, if it is a watch of a collection;
/// gives the place where it begins.
///
/// Bookmarks are asked for, so that the place is never old; they are kept from
/// a client that did not ask. A compressed answer could not be read.
pub(in crate::kubernetes_api) fn prepare(head: &mut RequestHead) -> Option<Position> {
    let is_watch = head.method == Method::GET
        && head.length == Length::None
        && !head.upgrade
        // What only few agents take is passed on without looking into it.
        && head.target.reencoding().is_none()
        && query::is_true(head.target.query(), "watch")
        && is_collection(head.target.path());
    if !is_watch {
        return None;
    }
    let asked = head.target.query();
    let asks = query::is_true(asked, BOOKMARKS);
    let hides = !asks && is_understood(&head.headers);
    let initial = (query::first(asked, INITIAL).is_some()).then(|| query::is_true(asked, INITIAL));
    // A table may be asked for without the objects whose metadata show it.
    let shows_end = (asks || hides) && query::first(asked, "includeObject") != Some("None");
    let position = Position::new(query::first(asked, VERSION), initial, hides);
    let position = match shows_end {
        true => position,
        false => position.without_end(),
    };
    if hides {
        head.target.set(BOOKMARKS, "true");
    }
    head.headers.insert(header::ACCEPT_ENCODING, IDENTITY);
    Some(position)
}

/// The call that goes on at `point`, when the watch has lasted for `spent`
/// seconds; nothing when its time is up.
pub(super) fn again(opening: &Opening, point: &Point, spent: u64) -> Option<Opening> {
    let mut request = HttpRequest::decode(opening.messages.first()?.head.clone()).ok()?;
    let Some(http_request::Message::Header(header)) = &mut request.message else {
        return None;
    };
    let sent = header.request.as_mut()?;
    let query = Edit {
        query: &mut sent.query,
        target: &mut sent.target,
    };
    change(query, point, spent)?;
    let mut opening = opening.clone();
    *opening.messages.first_mut()? = Payload::message(&request);
    Some(opening)
}

fn change(mut query: Edit<'_>, point: &Point, spent: u64) -> Option<()> {
    let limit = query::first(query.query, TIMEOUT).and_then(|limit| limit.parse::<u64>().ok());
    let limit = limit
        .filter(|limit| *limit > 0)
        .unwrap_or(MAX_WATCH_SECONDS);
    let left = limit.checked_sub(spent).filter(|left| *left > 0)?;
    query.set(TIMEOUT, &left.to_string());
    match point {
        Point::End => return None,
        Point::Start => {}
        Point::Behind(version) => {
            for name in INITIAL_PARAMETERS {
                query.remove(name);
            }
            query.set(VERSION, version);
        }
    }
    Some(())
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
    use proto::metadata::Meta;

    use super::*;
    use crate::{prefix::Prefix, target::Target};

    fn target(path: &str, raw_query: &str) -> Target {
        let uri = format!("{path}?{raw_query}").parse().unwrap();
        Target::of(&uri, &Prefix::default()).unwrap()
    }

    fn head(path: &str, raw_query: &str, accept: &str) -> RequestHead {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        headers.insert(header::ACCEPT_ENCODING, "gzip".parse().unwrap());
        RequestHead {
            resume: None,
            keep: None,
            method: Method::GET,
            target: target(path, raw_query),
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
        let (_, mut query, mut sent) = target("/", raw_query).for_agent();
        let edit = Edit {
            query: &mut query,
            target: &mut sent,
        };
        change(edit, point, spent)?;
        let again = Target::at(&sent).unwrap();
        assert_eq!(again.query(), &query, "both forms say the same");
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
            let mut head = head(path, "watch=1&resourceVersion=7", "application/json");

            let position = prepare(&mut head).expect(path);

            assert_eq!(position, Position::new(Some("7"), None, true));
            let expected = [(BOOKMARKS, "true"), (VERSION, "7"), ("watch", "1")];
            assert_eq!(sorted(head.target.query()), expected);
            assert_eq!(head.headers[header::ACCEPT_ENCODING], "identity");
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
            let mut head = head(path, query, "application/json");

            assert_eq!(prepare(&mut head), None, "{path}?{query}");
            assert!(!head.target.query().contains_key(BOOKMARKS));
            assert_eq!(head.headers[header::ACCEPT_ENCODING], "gzip");
        }
    }

    #[test]
    fn bookmarks_are_asked_for_where_they_can_be_taken_out_again() {
        let asked = |query, accept| {
            let mut head = head("/api/v1/pods", query, accept);
            let position = prepare(&mut head).unwrap();
            let hides = position == Position::new(None, None, true);
            (head.target.query().contains_key(BOOKMARKS), hides)
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
            pairs(&[
                ("labelSelector", "a=b"),
                (VERSION, "9"),
                (TIMEOUT, "3595"),
                ("watch", "1")
            ])
        );
        assert_eq!(
            changed("watch=1&sendInitialEvents=true", &Point::Start, 5),
            pairs(&[(INITIAL, "true"), (TIMEOUT, "3595"), ("watch", "1")])
        );
    }

    #[test]
    fn time_that_is_spent_is_not_given_again() {
        let limited = |spent| changed("timeoutSeconds=10", &Point::Start, spent);

        assert_eq!(limited(3), pairs(&[(TIMEOUT, "7")]));
        assert_eq!(limited(10), None);
        assert_eq!(limited(11), None);
        let unlimited = |query, spent| changed(query, &Point::Start, spent);
        for query in ["", "timeoutSeconds=0", "timeoutSeconds=x"] {
            assert_eq!(unlimited(query, 3), pairs(&[(TIMEOUT, "3597")]));
            assert_eq!(unlimited(query, 3600), None);
        }
    }
}

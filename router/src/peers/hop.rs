//! The head of a question, which goes over one hop between replicas.
//!
//! `kas-hop-*` is for the replica that is asked, `authorization` proves who
//! asks; the rest is the call's own metadata and reaches the agent.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use cluster_state::AgentId;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    header::{AUTHORIZATION, CONTENT_TYPE, TE, USER_AGENT},
};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};
use proto::{
    agent::prototool::Values,
    metadata::{self, Meta},
};
use tonic::Status;

use crate::{call::Opening, search::Need};

/// The metadata that names the agent on the private API.
pub const AGENT_ID: &str = "kas-hop-routing-agent-id";
/// The metadata that says that the agent must act on behalf of somebody.
pub const IMPERSONATION: &str = "kas-hop-impersonation";
/// The metadata that says that the agent must carry what follows an HTTP upgrade.
const UPGRADE: &str = "kas-hop-upgrade";
/// The metadata that says on whose behalf the call is made, percent-encoded.
pub const CALLER: &str = "kas-hop-caller";

/// The metadata that says that the call's messages follow at once.
const BEGINS: &str = "kas-hop-begins";
/// The metadata that says that the call may be ended by a replica that leaves.
const MOVES: &str = "kas-hop-moves";
/// What all metadata between replicas begin with that stay between them.
const HOP: &str = "kas-hop-";
/// What cannot stand for itself in [`CALLER`].
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// A question for a tunnel.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Question {
    pub(crate) agent: AgentId,
    pub(crate) need: Need,
    /// Metadata for the agent.
    pub(crate) meta: Meta,
    /// Whether the call's messages follow without waiting for an answer.
    pub(crate) begins: bool,
    /// Whether the call is made again elsewhere whenever it breaks.
    pub(crate) moves: bool,
}

/// The question as a request that proves with `credentials` who asks.
pub(super) fn request(
    agent: AgentId,
    need: &Need,
    opening: &Opening,
    credentials: HeaderMap,
) -> Request<()> {
    let uri = Uri::builder()
        .scheme("http")
        .authority("kas")
        .path_and_query(&*need.method);
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = uri.build().expect("a method path is a path");
    let headers = request.headers_mut();
    put_meta(headers, &opening.meta);
    headers.extend(credentials);
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/grpc+proto"),
    );
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(AGENT_ID, HeaderValue::from(agent.0));
    if need.impersonation {
        headers.insert(IMPERSONATION, HeaderValue::from_static("required"));
    }
    if need.upgrade {
        headers.insert(UPGRADE, HeaderValue::from_static("required"));
    }
    if opening.moves {
        headers.insert(MOVES, HeaderValue::from_static("true"));
    }
    let caller = utf8_percent_encode(&need.caller, ESCAPED).to_string();
    if let Ok(caller) = HeaderValue::from_str(&caller)
        && !caller.is_empty()
    {
        headers.insert(CALLER, caller);
    }
    request
}

pub(super) fn say_that_it_begins(question: &mut Request<()>) {
    let headers = question.headers_mut();
    headers.insert(BEGINS, HeaderValue::from_static("now"));
}

impl Question {
    /// Reads the head of a question.
    ///
    /// # Errors
    /// A status for the one who asks.
    pub(crate) fn read<B>(request: &Request<B>) -> Result<Self, Status> {
        let headers = request.headers();
        // Whether the agent must act for somebody is known to the asking
        // replica, which says so by a hop header.
        let impersonation = headers.contains_key(IMPERSONATION);
        Ok(Self {
            agent: agent(headers)?,
            need: Need {
                method: request.uri().path().into(),
                impersonation,
                upgrade: headers.contains_key(UPGRADE),
                caller: caller(headers),
            },
            meta: meta(headers),
            begins: headers.contains_key(BEGINS),
            moves: headers.contains_key(MOVES),
        })
    }
}

fn agent(headers: &HeaderMap) -> Result<AgentId, Status> {
    let ids: Vec<_> = headers.get_all(AGENT_ID).iter().collect();
    let [id] = ids[..] else {
        let count = ids.len();
        return Err(Status::invalid_argument(format!(
            "Expecting a single {AGENT_ID}, got {count}"
        )));
    };
    let id = id.to_str().ok().and_then(|id| id.parse().ok());
    id.map(AgentId)
        .ok_or_else(|| Status::invalid_argument(format!("Invalid {AGENT_ID}")))
}

fn caller(headers: &HeaderMap) -> Arc<str> {
    let caller = headers.get(CALLER).map_or(&b""[..], HeaderValue::as_bytes);
    percent_decode(caller).decode_utf8_lossy().into()
}

fn put_meta(headers: &mut HeaderMap, meta: &Meta) {
    let own = meta.iter().filter(|(name, _)| goes_on(name));
    for (name, values) in own {
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
            continue;
        };
        for value in &values.value {
            let value = match is_binary(&name) {
                true => HeaderValue::from_str(&STANDARD_NO_PAD.encode(value)),
                false => HeaderValue::from_str(value),
            };
            if let Ok(value) = value {
                // What is beyond any request's headers stays here.
                let _ = headers.try_append(&name, value);
            }
        }
    }
}

/// What the agent gets: neither what is for this replica nor what belongs to
/// the stream, and above all nothing that proves who a replica is.
fn meta(headers: &HeaderMap) -> Meta {
    let mut meta = metadata::from_headers(headers, |name| name.as_str().to_owned());
    meta.retain(|name, _| goes_on(name));
    for (name, Values { value }) in &mut meta {
        if name.ends_with("-bin") {
            value.retain_mut(|value| decode(value).map(|bytes| *value = bytes).is_some());
        }
    }
    meta
}

fn goes_on(name: &str) -> bool {
    let belongs_to_the_stream = [CONTENT_TYPE, TE, AUTHORIZATION, USER_AGENT]
        .iter()
        .any(|reserved| name.eq_ignore_ascii_case(reserved.as_str()));
    let begins = |with: &str| {
        let start = name.get(..with.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(with))
    };
    !belongs_to_the_stream && !begins(HOP) && !begins("grpc-")
}

fn is_binary(name: &HeaderName) -> bool {
    name.as_str().ends_with("-bin")
}

fn decode(value: &str) -> Option<String> {
    let bytes = STANDARD_NO_PAD.decode(value.trim_end_matches('=')).ok()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(values: &[&str]) -> Values {
        let value = values.iter().map(|value| (*value).to_owned()).collect();
        Values { value }
    }

    fn opening(meta: &Meta, moves: bool) -> Opening {
        Opening {
            method: "/a.B/C".into(),
            meta: meta.clone(),
            messages: Vec::new(),
            close: true,
            safe: true,
            moves,
        }
    }

    fn need(caller: &str) -> Need {
        Need {
            method: "/a.B/C".into(),
            impersonation: true,
            upgrade: true,
            caller: caller.into(),
        }
    }

    #[test]
    fn a_question_arrives_as_it_was_asked() {
        for (caller, moves) in [
            ("", false),
            ("user:alice", true),
            ("user:Zoë 100%\n", false),
        ] {
            let meta = Meta::from([
                ("traceparent".to_owned(), values(&["00-ab-cd-01"])),
                ("tracestate".to_owned(), values(&["a=1", "b=2"])),
                ("blob-bin".to_owned(), values(&["line\nbreak é"])),
            ]);

            let opening = opening(&meta, moves);
            let request = request(AgentId(42), &need(caller), &opening, HeaderMap::new());

            let read = Question::read(&request).unwrap();
            assert_eq!(
                read,
                Question {
                    agent: AgentId(42),
                    need: need(caller),
                    meta,
                    begins: false,
                    moves,
                }
            );
        }
    }

    #[test]
    fn neither_credentials_nor_hop_metadata_reach_the_agent() {
        let credentials = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static("x"))]);
        let own = Meta::from([
            ("Authorization".to_owned(), values(&["forged"])),
            ("kas-hop-caller".to_owned(), values(&["forged"])),
            ("grpc-timeout".to_owned(), values(&["1S"])),
        ]);

        let mut request = request(
            AgentId(1),
            &need("user:a"),
            &opening(&own, false),
            credentials,
        );
        request
            .headers_mut()
            .insert("kas-hop-later", HeaderValue::from_static("x"));

        assert_eq!(request.headers()[AUTHORIZATION], "x");
        assert_eq!(request.headers().get_all(AUTHORIZATION).iter().count(), 1);
        let read = Question::read(&request).unwrap();
        assert_eq!(&*read.need.caller, "user:a");
        assert_eq!(read.meta, Meta::new());
    }

    #[test]
    fn exactly_one_agent_must_be_named() {
        for (ids, why) in [
            (&[][..], "got 0"),
            (&["1", "2"], "got 2"),
            (&["one"], "Invalid"),
        ] {
            let mut request = Request::new(());
            for id in ids {
                let id = HeaderValue::from_static(id);
                request.headers_mut().try_append(AGENT_ID, id).unwrap();
            }

            let refused = Question::read(&request).unwrap_err();

            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(refused.message().contains(why), "{refused}");
        }
    }
}

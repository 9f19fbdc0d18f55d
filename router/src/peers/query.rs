//! The head of a request for a tunnel: the metadata of one hop between replicas.
//!
//! `kas-hop-*` is for the peer, `authorization` authenticates this replica; the
//! rest is the call's own metadata and reaches the agent.

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

use crate::opening::{Need, Opening, request_id};

/// The agent's id.
pub const AGENT_ID: &str = "kas-hop-routing-agent-id";
/// Set if the agent must support impersonation.
pub const IMPERSONATION: &str = "kas-hop-impersonation";
/// Set if the agent must support connection upgrades.
const UPGRADE: &str = "kas-hop-upgrade";
/// The caller, percent-encoded.
pub const CALLER: &str = "kas-hop-caller";

/// Set if the call's messages follow at once.
const BEGINS: &str = "kas-hop-begins";
/// Set if a draining replica may end the call.
const MOVES: &str = "kas-hop-moves";
/// Prefix of metadata that stay between replicas.
const HOP_PREFIX: &str = "kas-hop-";
/// Characters that are percent-encoded in [`CALLER`].
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// A peer's request for a tunnel.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TunnelQuery {
    pub(crate) agent: AgentId,
    pub(crate) need: Need,
    /// Metadata for the agent.
    pub(crate) meta: Meta,
    /// Whether the call's messages follow without waiting for a reply.
    pub(crate) begins: bool,
    /// See [`Opening::moves`].
    pub(crate) moves: bool,
}

/// The HTTP request, authenticated by `credentials`.
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

/// The call's messages follow at once.
pub(super) fn set_begins(request: &mut Request<()>) {
    let headers = request.headers_mut();
    headers.insert(BEGINS, HeaderValue::from_static("now"));
}

impl TunnelQuery {
    /// Reads the head of a request.
    ///
    /// # Errors
    /// A status for the peer.
    pub(crate) fn read<B>(request: &Request<B>) -> Result<Self, Status> {
        let headers = request.headers();
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
            moves: Self::is_moving(headers),
        })
    }

    /// See [`Opening::moves`].
    pub(crate) fn is_moving(headers: &HeaderMap) -> bool {
        headers.contains_key(MOVES)
    }

    /// The request's id; empty without one.
    pub(crate) fn request_id(&self) -> &str {
        request_id(&self.meta)
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
    let own = meta.iter().filter(|(name, _)| is_forwarded(name));
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
                // Headers beyond the map's capacity are left out.
                let _ = headers.try_append(&name, value);
            }
        }
    }
}

/// The metadata for the agent: without those of the hop and of the stream, and
/// above all without credentials.
fn meta(headers: &HeaderMap) -> Meta {
    let mut meta = metadata::from_headers(headers, |name| name.as_str().to_owned());
    meta.retain(|name, _| is_forwarded(name));
    for (name, Values { value }) in &mut meta {
        if name.ends_with("-bin") {
            value.retain_mut(|value| decode(value).map(|bytes| *value = bytes).is_some());
        }
    }
    meta
}

fn is_forwarded(name: &str) -> bool {
    let belongs_to_the_stream = [CONTENT_TYPE, TE, AUTHORIZATION, USER_AGENT]
        .iter()
        .any(|reserved| name.eq_ignore_ascii_case(reserved.as_str()));
    let begins = |with: &str| {
        let start = name.get(..with.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(with))
    };
    !belongs_to_the_stream && !begins(HOP_PREFIX) && !begins("grpc-")
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
    use crate::opening::REQUEST_ID;

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
    fn a_request_arrives_as_it_was_sent() {
        for (caller, moves) in [
            ("", false),
            ("user:alice", true),
            ("user:Zoë 100%\n", false),
        ] {
            let meta = Meta::from([
                ("traceparent".to_owned(), values(&["00-ab-cd-01"])),
                (REQUEST_ID.to_owned(), values(&["r-1"])),
                ("tracestate".to_owned(), values(&["a=1", "b=2"])),
                ("blob-bin".to_owned(), values(&["line\nbreak é"])),
            ]);

            let opening = opening(&meta, moves);
            let request = request(AgentId(42), &need(caller), &opening, HeaderMap::new());

            let read = TunnelQuery::read(&request).unwrap();
            assert_eq!(read.request_id(), "r-1");
            assert_eq!(
                read,
                TunnelQuery {
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
        let read = TunnelQuery::read(&request).unwrap();
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

            let refused = TunnelQuery::read(&request).unwrap_err();

            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(refused.message().contains(why), "{refused}");
        }
    }
}

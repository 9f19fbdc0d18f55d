//! Asks an agent which cluster it is in, by a tunnel that nobody else uses.

use std::{sync::Arc, time::Duration};

use cluster_state::{ClusterUid, Owner, ReplicaId, memory::MemoryStore};
use prost::Message as _;
use proto::{
    agent::{
        grpctool::{HttpRequest, HttpResponse, http_request, http_response},
        prototool,
    },
    frame::Payload,
    metadata::Meta,
};
use router::{Call, Event, Need, Opening, Registry};

use crate::gateway::caller::{METHOD, OpenTunnel};

/// How long the answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may be.
const MAX_ANSWER_BYTES: usize = 64 << 10;
const NAMESPACE: &str = "/api/v1/namespaces/kube-system";

/// Which cluster it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Uid(ClusterUid),
    /// The agent may not read it.
    Hidden,
    /// The cluster did not answer, or the agent did not.
    None,
}

/// Asks. The tunnel is used up.
pub(super) async fn ask(open: OpenTunnel) -> Answer {
    let OpenTunnel {
        offer,
        stream,
        permit,
        ..
    } = open;
    // A registry of its own: nobody else finds the tunnel, and no other is found.
    let me = Owner {
        replica: ReplicaId::new("asking"),
        url: String::new(),
    };
    let registry = Registry::new(Arc::new(MemoryStore::default().table(me)));
    let agent = offer.agent;
    let watch = registry.park(offer, stream);
    permit.caller.opened(watch.cutter(), None);
    let need = Need {
        method: METHOD.into(),
        impersonation: false,
        upgrade: false,
        caller: "kas".into(),
    };
    let Some(tunnel) = registry.take(agent, &need) else {
        return Answer::None;
    };
    let Ok(call) = Call::through_tunnel(tunnel, &opening()) else {
        return Answer::None;
    };
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, read(call)).await;
    drop(watch);
    drop(permit);
    answer.ok().flatten().unwrap_or(Answer::None)
}

fn opening() -> Opening {
    let header = http_request::Header {
        content_length: Some(0),
        extra: None,
        resume: None,
        keep: None,
        request: Some(prototool::HttpRequest {
            method: "GET".to_owned(),
            url_path: NAMESPACE.to_owned(),
            ..prototool::HttpRequest::default()
        }),
    };
    let message = |message| {
        Payload::message(&HttpRequest {
            message: Some(message),
        })
    };
    let trailer = http_request::Trailer {};
    Opening {
        method: METHOD.into(),
        meta: Meta::new(),
        messages: vec![
            message(http_request::Message::Header(header)),
            message(http_request::Message::Trailer(trailer)),
        ],
        close: true,
        safe: true,
        moves: false,
    }
}

/// Reads the answer; `None` if it broke off, or is too long.
async fn read(mut call: Call) -> Option<Answer> {
    let (mut status, mut body) = (0, Vec::new());
    loop {
        match call.event().await.ok()? {
            Event::Message(bytes) => match HttpResponse::decode(bytes).ok()?.message? {
                http_response::Message::Header(header) => status = header.response?.status_code,
                http_response::Message::Data(data) => {
                    body.extend_from_slice(&data.data);
                    if body.len() > MAX_ANSWER_BYTES {
                        return None;
                    }
                }
                http_response::Message::Trailer(_) => {}
                http_response::Message::UpgradeData(_) | http_response::Message::Segment(_) => {
                    return None;
                }
            },
            Event::Header(_) | Event::Trailer(_) => {}
            Event::Error(_) => return None,
            Event::End => return answer(status, &body),
        }
    }
}

/// Which cluster an answer of the API server names.
fn answer(status: i32, body: &[u8]) -> Option<Answer> {
    #[derive(serde::Deserialize)]
    struct Namespace {
        metadata: Metadata,
    }
    #[derive(serde::Deserialize)]
    struct Metadata {
        uid: ClusterUid,
    }
    match status {
        200 => {
            let namespace = serde_json::from_slice::<Namespace>(body);
            Some(namespace.map_or(Answer::Hidden, |it| Answer::Uid(it.metadata.uid)))
        }
        429 | 500.. => None,
        _ => Some(Answer::Hidden),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_a_cluster_hides_it_or_is_none() {
        let named = br#"{"kind":"Namespace","metadata":{"name":"kube-system","uid":"u-1"}}"#;
        let uid = ClusterUid::parse("u-1").unwrap();
        assert_eq!(answer(200, named), Some(Answer::Uid(uid)));
        for hidden in [403, 401, 404] {
            assert_eq!(answer(hidden, b"{}"), Some(Answer::Hidden));
        }
        assert_eq!(answer(200, b"{}"), Some(Answer::Hidden));
        for nothing in [500, 503, 429] {
            assert_eq!(answer(nothing, named), None);
        }
    }
}

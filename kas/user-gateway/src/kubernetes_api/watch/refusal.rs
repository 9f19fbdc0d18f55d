//! The last event of a watch that the cluster would not go on with: its
//! `Status`, as the API server itself ends a watch.

use bytes::Bytes;
use http::StatusCode;
use prost::Message;
use serde_json::{Value, json};

use super::Encoding;
use crate::failure::protobuf::{self, MAGIC};

/// `k8s.io/apimachinery/pkg/apis/meta/v1.WatchEvent`.
#[derive(Clone, PartialEq, Message)]
struct WatchEvent {
    #[prost(string, optional, tag = "1")]
    kind: Option<String>,
    #[prost(message, optional, tag = "2")]
    object: Option<RawExtension>,
}

#[derive(Clone, PartialEq, Message)]
struct RawExtension {
    #[prost(bytes = "bytes", optional, tag = "1")]
    raw: Option<Bytes>,
}

/// An `ERROR` event in the watch's encoding, with the `Status` that the cluster
/// answered with, or one that says the same.
pub(super) fn event(encoding: Encoding, code: StatusCode, body: &Bytes) -> Bytes {
    match encoding {
        Encoding::Json => json_event(code, body),
        Encoding::Protobuf => protobuf_event(code, body),
    }
}

fn json_event(code: StatusCode, body: &[u8]) -> Bytes {
    let object = status(body).unwrap_or_else(|| {
        let (message, reason) = (message(code, body), reason(code));
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code.as_u16(),
        })
    });
    let event = json!({ "type": "ERROR", "object": object });
    Bytes::from(format!("{event}\n"))
}

fn protobuf_event(code: StatusCode, body: &Bytes) -> Bytes {
    let raw = if body.starts_with(MAGIC) {
        body.clone()
    } else {
        protobuf_status(code, body)
    };
    let object = Some(RawExtension { raw: Some(raw) });
    let kind = Some("ERROR".to_owned());
    let event = WatchEvent { kind, object }.encode_to_vec();
    let length = u32::try_from(event.len()).unwrap_or(u32::MAX);
    Bytes::from([&length.to_be_bytes(), &event[..]].concat())
}

fn protobuf_status(code: StatusCode, body: &[u8]) -> Bytes {
    let given = status(body).unwrap_or_default();
    let text = |name: &str| given[name].as_str().map(str::to_owned);
    let message = text("message").unwrap_or_else(|| message(code, body));
    let reason = text("reason").unwrap_or_else(|| reason(code).to_owned());
    protobuf::status(code, message, reason)
}

fn status(body: &[u8]) -> Option<Value> {
    serde_json::from_slice::<Value>(body)
        .ok()
        .filter(|value| value["kind"] == "Status")
}

fn message(code: StatusCode, body: &[u8]) -> String {
    match std::str::from_utf8(body).map(str::trim) {
        Ok(text) if !text.is_empty() => text.to_owned(),
        Ok(_) | Err(_) => format!("the server answered with {code}"),
    }
}

fn reason(code: StatusCode) -> &'static str {
    if code == StatusCode::GONE {
        return "Expired";
    }
    crate::failure::reason(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::protobuf::{Status, Unknown};
    use crate::kubernetes_api::watch::{
        event::{Kind, Step},
        json, protobuf,
    };

    const GONE: &str = "{\n  \"kind\": \"Status\",\n  \"message\": \"too old\",\n  \
                        \"reason\": \"Expired\",\n  \"code\": 410\n}\n";

    fn of_protobuf(event: &Bytes) -> Status {
        let event = WatchEvent::decode(&event[4..]).unwrap();
        let raw = event.object.unwrap().raw.unwrap();
        let unknown = Unknown::decode(raw.strip_prefix(MAGIC).unwrap()).unwrap();
        assert_eq!(unknown.type_meta.unwrap().kind.unwrap(), "Status");
        Status::decode(&unknown.raw.unwrap()[..]).unwrap()
    }

    #[test]
    fn a_status_is_passed_on_in_one_line() {
        let event = event(Encoding::Json, StatusCode::GONE, &GONE.into());

        let expected = "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\
                        \"message\":\"too old\",\"reason\":\"Expired\",\"code\":410}}\n";
        assert_eq!(event, expected);
        let Ok(Step::Event(length, found)) = json::Scanner::new().feed(&event) else {
            panic!("{event:?}")
        };
        assert_eq!((length, found.kind), (event.len() - 1, Kind::Error));
    }

    #[test]
    fn a_status_is_put_into_the_encoding_of_the_watch() {
        let event = event(Encoding::Protobuf, StatusCode::GONE, &GONE.into());

        let Ok(Step::Event(length, found)) = protobuf::Scanner::new().feed(&event) else {
            panic!("{event:?}")
        };
        assert_eq!((length, found.kind), (event.len(), Kind::Error));
        let status = of_protobuf(&event);
        assert_eq!(status.message.as_deref(), Some("too old"));
        assert_eq!(status.reason.as_deref(), Some("Expired"));
        assert_eq!(status.code, Some(410));
    }

    #[test]
    fn a_status_in_protobuf_is_kept_as_it_is() {
        let body = protobuf_status(StatusCode::FORBIDDEN, b"no");

        let event = event(Encoding::Protobuf, StatusCode::FORBIDDEN, &body);

        let decoded = WatchEvent::decode(&event[4..]).unwrap();
        assert_eq!(decoded.object.unwrap().raw.unwrap(), body);
        assert_eq!(of_protobuf(&event).message.as_deref(), Some("no"));
    }

    #[test]
    fn an_answer_that_is_no_status_becomes_one() {
        let event = event(
            Encoding::Json,
            StatusCode::NOT_FOUND,
            &"404 page not found\n".into(),
        );

        let event: Value = serde_json::from_slice(&event).unwrap();
        assert_eq!(event["type"], "ERROR");
        assert_eq!(event["object"]["message"], "404 page not found");
        assert_eq!(event["object"]["reason"], "NotFound");
        assert_eq!(event["object"]["code"], 404);
    }
}

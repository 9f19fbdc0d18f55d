//! A request's head as the agent gets it.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use prost::Message as _;
use proto::{
    agent::{
        grpctool::{HttpRequest, KeepOffer, ResumeOffer, http_request},
        kubernetes_api::rpc::{HeaderExtra, ImpersonationConfig},
        prototool,
    },
    frame::Payload,
    metadata::Meta,
};
use router::Opening;

use super::upload;
use crate::{
    headers, query,
    request_id::{self, RequestId},
    route::Length,
    target::Target,
};

/// The method of the agent that does requests.
pub(super) const METHOD: &str = "/gitlab.agent.kubernetes_api.rpc.KubernetesApi/MakeRequest";
/// The same of an agent that sends path and query as they are. GitLab's agentk has none.
pub(super) const EXACT_METHOD: &str = "/kas.kubernetes_api.rpc.KubernetesApi/MakeRequest";
const EXTRA: &str = "type.googleapis.com/gitlab.agent.kubernetes_api.rpc.HeaderExtra";

/// The headers that name the trace that a request belongs to.
static OF_A_TRACE: [HeaderName; 2] = [
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// What an agent gets ahead of a request's body.
#[derive(Debug)]
pub(super) struct RequestHead {
    /// The HTTP method.
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: Target,
    /// The headers as they came.
    pub(super) headers: HeaderMap,
    /// The length of the body.
    pub(super) length: Length,
    /// Whether another protocol is asked for.
    pub(super) upgrade: bool,
    /// As whom it is done.
    pub(super) impersonation: Option<ImpersonationConfig>,
    /// What is offered of an upgrade.
    pub(super) resume: Option<ResumeOffer>,
    /// What is offered of a request that changes something.
    pub(super) keep: Option<KeepOffer>,
}

impl RequestHead {
    /// Whether doing it twice is like doing it once. An exec over WebSocket is
    /// a GET too, but not safe.
    fn is_safe(&self) -> bool {
        self.method.is_safe() && !self.upgrade
    }

    /// The beginning of the call. A request without a body is whole in it.
    pub(super) fn opening(self, method: &Arc<str>, via: &HeaderValue, id: &RequestId) -> Opening {
        let meta = metadata(&self.headers, id);
        let bodyless = self.length == Length::None;
        let close = bodyless && !self.upgrade;
        let safe = self.is_safe();
        let (url_path, query, target) = self.target.for_agent();
        let header = http_request::Header {
            content_length: Some(on_the_wire(self.length)),
            extra: self.impersonation.as_ref().map(extra),
            resume: self.resume,
            keep: self.keep,
            request: Some(prototool::HttpRequest {
                method: self.method.as_str().to_owned(),
                header: headers::of_request(self.headers, via),
                url_path,
                query,
                target,
            }),
        };
        let message = Some(http_request::Message::Header(header));
        let mut messages = vec![Payload::message(&HttpRequest { message })];
        if bodyless {
            messages.push(upload::trailer());
        }
        Opening {
            method: method.clone(),
            meta,
            messages,
            close,
            safe,
            moves: false,
        }
    }
}

fn on_the_wire(length: Length) -> i64 {
    match length {
        Length::None => 0,
        Length::Known(length) => i64::try_from(length).unwrap_or(-1),
        Length::Unknown => -1,
    }
}

/// The request's id, and the trace that it belongs to, as the agent's own log and spans need them. It is metadata of
/// gRPC there, which a Go agent refuses with the whole call where it is not printable ASCII.
fn metadata(headers: &HeaderMap, id: &RequestId) -> Meta {
    let mut meta = Meta::with_capacity(1);
    let value = vec![id.as_str().to_owned()];
    meta.insert(request_id::METADATA.to_owned(), prototool::Values { value });
    for name in &OF_A_TRACE {
        let values = headers.get_all(name).iter();
        let value: Vec<_> = values
            .filter_map(|value| Some(value.to_str().ok()?.to_owned()))
            .filter(|value| value.bytes().all(|byte| (b' '..=b'~').contains(&byte)))
            .collect();
        if !value.is_empty() {
            meta.insert(name.as_str().to_owned(), prototool::Values { value });
        }
    }
    meta
}

/// How long the caller itself would wait for an answer, where it says so.
pub(super) fn timeout(parameters: &Meta) -> Option<Duration> {
    if query::is_true(parameters, "watch") || query::is_true(parameters, "follow") {
        return None;
    }
    duration(query::first(parameters, "timeout")?).filter(|timeout| !timeout.is_zero())
}

/// Reads a duration as Go writes it, such as `1m30s` or `500ms`.
fn duration(mut text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    while !text.is_empty() {
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, rest) = text.split_at(digits);
        let letters = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(letters);
        let seconds = number.parse::<f64>().ok()? * seconds_in(unit)?;
        total = total.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
        text = rest;
    }
    Some(total)
}

fn seconds_in(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    })
}

/// On whose behalf, as the header carries it.
fn extra(config: &ImpersonationConfig) -> prost_types::Any {
    let extra = HeaderExtra {
        imp_config: Some(config.clone()),
    };
    prost_types::Any {
        type_url: EXTRA.into(),
        value: extra.encode_to_vec(),
    }
}

/// The same call on behalf of this identity, which may be another than that of the first decision.
/// None if the call is no HTTP request.
pub(super) fn on_behalf_of(
    opening: &Opening,
    impersonation: Option<&ImpersonationConfig>,
) -> Option<Opening> {
    let mut header = header(opening)?;
    header.extra = impersonation.map(extra);
    with_header(opening, header)
}

/// The same call with another offer. None if the call is no HTTP request.
pub(super) fn offering(opening: &Opening, keep: KeepOffer) -> Option<Opening> {
    let mut header = header(opening)?;
    header.keep = Some(keep);
    with_header(opening, header)
}

fn with_header(opening: &Opening, header: http_request::Header) -> Option<Opening> {
    let message = Some(http_request::Message::Header(header));
    let mut opening = opening.clone();
    *opening.messages.first_mut()? = Payload::message(&HttpRequest { message });
    Some(opening)
}

/// Whether the call is made on behalf of this identity already.
pub(super) fn is_on_behalf_of(
    opening: &Opening,
    impersonation: Option<&ImpersonationConfig>,
) -> bool {
    header(opening).is_none_or(|header| header.extra == impersonation.map(extra))
}

/// On whose behalf the call is made.
pub(super) fn acts_as(opening: &Opening) -> Option<ImpersonationConfig> {
    let extra = header(opening)?.extra?;
    HeaderExtra::decode(&*extra.value).ok()?.imp_config
}

/// The same as the agent is told it.
pub(super) fn acts_as_extra(opening: &Opening) -> Option<prost_types::Any> {
    header(opening)?.extra
}

fn header(opening: &Opening) -> Option<http_request::Header> {
    let request = HttpRequest::decode(opening.messages.first()?.head.clone()).ok()?;
    match request.message? {
        http_request::Message::Header(header) => Some(header),
        http_request::Message::Data(_)
        | http_request::Message::Trailer(_)
        | http_request::Message::UpgradeData(_)
        | http_request::Message::Segment(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let seconds = |text| duration(text).map(|d| d.as_secs_f64());

        assert_eq!(seconds("30s"), Some(30.0));
        assert_eq!(seconds("1m30.5s"), Some(90.5));
        assert_eq!(seconds("250ms"), Some(0.25));
        assert_eq!(seconds("30"), None);
        assert_eq!(seconds("s"), None);
        assert_eq!(seconds("-1s"), None);
    }

    #[test]
    fn only_what_every_agent_takes_of_a_trace_is_passed_on() {
        let mut headers = HeaderMap::new();
        headers
            .try_append("traceparent", HeaderValue::from_static("00-1-2-01"))
            .unwrap();
        headers
            .try_append("tracestate", HeaderValue::from_static("a=b\tc"))
            .unwrap();
        let passed = metadata(&headers, &RequestId::of(&headers));

        assert_eq!(passed["traceparent"].value, ["00-1-2-01"]);
        assert!(!passed.contains_key("tracestate"));
        assert_eq!(passed["x-request-id"].value[0].len(), 32);
    }

    #[test]
    fn a_watch_has_no_timeout_of_its_own() {
        assert_eq!(
            timeout(&query::forwarded("timeout=5s")),
            Some(Duration::from_secs(5))
        );
        assert_eq!(timeout(&query::forwarded("timeout=5s&watch=true")), None);
        assert_eq!(timeout(&query::forwarded("timeoutSeconds=5")), None);
    }

    #[test]
    fn a_request_without_a_body_is_whole_in_its_opening() {
        let head = |length, upgrade| RequestHead {
            method: Method::GET,
            target: Target::at("/api").unwrap(),
            headers: HeaderMap::new(),
            length,
            upgrade,
            impersonation: None,
            resume: None,
            keep: None,
        };
        let shape = |length, upgrade| {
            let via = HeaderValue::from_static("v");
            let id = RequestId::of(&HeaderMap::new());
            let opening = head(length, upgrade).opening(&METHOD.into(), &via, &id);
            let header = HttpRequest::decode(opening.messages[0].head.clone()).unwrap();
            let Some(http_request::Message::Header(header)) = header.message else {
                panic!()
            };
            assert_eq!(header.extra, None);
            (
                opening.messages.len(),
                opening.close,
                header.content_length.unwrap(),
            )
        };

        assert_eq!(shape(Length::None, false), (2, true, 0));
        assert_eq!(shape(Length::None, true), (2, false, 0));
        assert_eq!(shape(Length::Known(5), false), (1, false, 5));
        assert_eq!(shape(Length::Unknown, false), (1, false, -1));
    }
}

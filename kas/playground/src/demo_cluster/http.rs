//! HTTP: from a request to its answer.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, StreamBody};
use serde_json::{Value, json};
use tokio::time::{Duration, timeout};

use super::cluster::Cluster;
use super::failure::Failure;
use super::request::{Query, Route};
use super::{discovery, openapi, protobuf, review};

mod resources;

/// The answer's body: a document, or a stream that ends when the client leaves.
pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Bodies larger than this are refused.
const MAX_BODY_BYTES: usize = 2 << 20;
const BODY_READ_TIMEOUT: Duration = Duration::from_secs(60);

/// A request whose body has arrived.
#[derive(Debug)]
struct ApiRequest {
    method: Method,
    query: Query,
    headers: HeaderMap,
    body: Bytes,
}

/// Answers one request; refusals are answers too.
pub(crate) async fn answer<B>(cluster: Arc<Cluster>, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (parts, body) = request.into_parts();
    let body = match read(body).await {
        Ok(body) => body,
        Err(failure) => return refuse(&failure),
    };
    let request = ApiRequest {
        method: parts.method,
        query: Query::parse(parts.uri.query().unwrap_or_default()),
        headers: parts.headers,
        body,
    };
    respond(cluster, parts.uri.path(), &request).unwrap_or_else(|failure| refuse(&failure))
}

async fn read<B>(body: B) -> Result<Bytes, Failure>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let limited = std::pin::pin!(Limited::new(body, MAX_BODY_BYTES).collect());
    match timeout(BODY_READ_TIMEOUT, limited).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Failure::too_large(MAX_BODY_BYTES)),
        Ok(Err(error)) => Err(Failure::bad_request(format!("the body broke off: {error}"))),
        Err(_) => Err(Failure::slow_body()),
    }
}

fn respond(cluster: Arc<Cluster>, path: &str, request: &ApiRequest) -> Result<Answer, Failure> {
    match Route::parse(path) {
        Route::Health => Ok(text("ok")),
        Route::Version => Ok(document(&discovery::version())),
        Route::Discovery(path) => discover(&path, request),
        Route::OpenApi(path) => openapi::document(&path).map(|found| document(&found)),
        Route::Review(plural) => {
            if request.method != Method::POST {
                return Err(Failure::method_not_allowed());
            }
            let body = request.json().unwrap_or(Value::Null);
            let answer = review::answer(&plural, &request.headers, &body)?;
            Ok(with_status(StatusCode::CREATED, &answer))
        }
        Route::Resource(target) => resources::respond(cluster, target, request),
        Route::Unknown => Err(Failure::no_such_path()),
    }
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

fn discover(path: &[String], request: &ApiRequest) -> Result<Answer, Failure> {
    let accepted = request.header(&ACCEPT);
    let aggregated = path.len() == 1 && accepted.split(',').any(|one| one.trim() == AGGREGATED);
    let found = discovery::document(path, aggregated)?;
    let mut answer = document(&found);
    if aggregated {
        let value = http::HeaderValue::from_static(AGGREGATED);
        answer.headers_mut().insert(CONTENT_TYPE, value);
    }
    Ok(answer)
}

impl ApiRequest {
    fn header(&self, name: &http::HeaderName) -> &str {
        let value = self.headers.get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The body, decoded as its `Content-Type` says.
    fn json(&self) -> Result<Value, Failure> {
        let content_type = self.header(&CONTENT_TYPE);
        if content_type.contains("cbor") {
            return Err(Failure::unsupported_media(content_type));
        }
        if content_type.contains("protobuf") {
            return protobuf::decode(&self.body);
        }
        match serde_json::from_slice(&self.body) {
            Ok(value) => Ok(value),
            Err(_) if content_type.contains("yaml") => self.yaml(),
            Err(error) => Err(Failure::bad_request(format!(
                "the body is not JSON: {error}"
            ))),
        }
    }

    fn yaml(&self) -> Result<Value, Failure> {
        let text = std::str::from_utf8(&self.body)
            .map_err(|_| Failure::bad_request("the body is not text"))?;
        serde_saphyr::from_str(text)
            .map_err(|error| Failure::bad_request(format!("the body is not YAML: {error}")))
    }
}

/// A JSON document.
fn document(value: &Value) -> Answer {
    with_status(StatusCode::OK, value)
}

fn with_status(status: StatusCode, value: &Value) -> Answer {
    let bytes = serde_json::to_vec(value).expect("keys are strings");
    let mut answer = typed("application/json", Full::from(bytes).boxed_unsync());
    *answer.status_mut() = status;
    answer
}

fn text(text: &'static str) -> Answer {
    typed("text/plain", Full::from(text).boxed_unsync())
}

fn typed(content_type: &'static str, body: UnsyncBoxBody<Bytes, Infallible>) -> Answer {
    let mut answer = Response::new(body);
    let value = http::HeaderValue::from_static(content_type);
    answer.headers_mut().insert(CONTENT_TYPE, value);
    answer
}

/// A body that goes on for as long as the chunks do.
fn streamed(
    content_type: &'static str,
    chunks: impl Stream<Item = Bytes> + Send + 'static,
) -> Answer {
    let frames = chunks.map(|chunk| Ok(Frame::data(chunk)));
    typed(content_type, StreamBody::new(frames).boxed_unsync())
}

fn refuse(failure: &Failure) -> Answer {
    let status = StatusCode::from_u16(failure.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    with_status(status, &failure.status())
}

/// The `Status` of a deletion that is done.
fn success(kind: &super::kinds::Kind, object: &Value) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
           "details": {"name": super::object::name(object), "group": kind.group,
                       "kind": kind.plural, "uid": super::object::uid(object)}})
}

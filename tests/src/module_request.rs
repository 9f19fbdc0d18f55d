//! What an agent's module asks GitLab through kas, as agentk sends it.

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use prost::Message as _;
use prost_types::Any;
use proto::{
    agent::{
        gitlab_access::rpc::{HeaderExtra, gitlab_access_client::GitlabAccessClient},
        grpctool::{HttpRequest, HttpResponse, http_request, http_response},
        prototool::{self, RawEntry},
    },
    metadata,
};
use tonic::{Status, Streaming};

use crate::gitlab_double::Caller;

/// Bytes of a body in a message.
const CHUNK_BYTES: usize = 32 << 10;

/// A request without its body.
#[derive(Debug, Clone)]
pub struct ModuleRequest {
    module: String,
    request: prototool::HttpRequest,
}

/// What GitLab answered.
#[derive(Debug)]
pub struct ModuleAnswer {
    /// The status.
    pub status: i32,
    /// The headers, as they came.
    pub headers: Vec<(String, Vec<String>)>,
    /// The body.
    pub body: Vec<u8>,
}

impl ModuleRequest {
    /// A request of a module to a path below its name.
    #[must_use]
    pub fn new(module: &str, method: &str, path: &str) -> Self {
        Self {
            module: module.to_owned(),
            request: prototool::HttpRequest {
                method: method.to_owned(),
                url_path: path.to_owned(),
                ..prototool::HttpRequest::default()
            },
        }
    }

    /// The same with a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let entry = metadata::entry(name.to_owned(), [value.to_owned()]);
        self.request.header.push(entry);
        self
    }

    /// The same with a parameter.
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Self {
        let values = self.request.query.entry(name.to_owned()).or_default();
        values.value.push(value.to_owned());
        self
    }

    /// Makes it with this body.
    ///
    /// # Errors
    /// As kas says.
    pub async fn send(&self, agent: &Caller, body: &[u8]) -> Result<ModuleAnswer, Status> {
        let chunks: Vec<_> = body
            .chunks(CHUNK_BYTES)
            .map(Bytes::copy_from_slice)
            .collect();
        let data = chunks.into_iter().map(data).chain([trailer()]);
        read(self.open(agent, stream::iter(data)).await?).await
    }

    /// Makes it with these messages behind its header.
    ///
    /// # Errors
    /// As kas says.
    pub async fn open(
        &self,
        agent: &Caller,
        messages: impl Stream<Item = HttpRequest> + Send + 'static,
    ) -> Result<Streaming<HttpResponse>, Status> {
        let messages = stream::iter([self.first()]).chain(messages);
        let mut client = GitlabAccessClient::new(agent.clone());
        Ok(client.make_request(messages).await?.into_inner())
    }

    fn first(&self) -> HttpRequest {
        let extra = HeaderExtra {
            module_name: self.module.clone(),
        };
        message(http_request::Message::Header(http_request::Header {
            request: Some(self.request.clone()),
            extra: Some(Any {
                type_url: "type.googleapis.com/gitlab.agent.gitlab_access.rpc.HeaderExtra"
                    .to_owned(),
                value: extra.encode_to_vec(),
            }),
            ..http_request::Header::default()
        }))
    }
}

/// A part of a body.
#[must_use]
pub fn data(data: Bytes) -> HttpRequest {
    message(http_request::Message::Data(http_request::Data { data }))
}

/// The end of a body.
#[must_use]
pub fn trailer() -> HttpRequest {
    message(http_request::Message::Trailer(http_request::Trailer {}))
}

fn message(message: http_request::Message) -> HttpRequest {
    HttpRequest {
        message: Some(message),
    }
}

/// Reads an answer to its end, which must be in order.
///
/// # Errors
/// As kas says.
pub async fn read(mut messages: Streaming<HttpResponse>) -> Result<ModuleAnswer, Status> {
    let mut answer = ModuleAnswer {
        status: 0,
        headers: Vec::new(),
        body: Vec::new(),
    };
    let mut whole = false;
    while let Some(message) = messages.message().await? {
        match message.message {
            Some(http_response::Message::Header(header)) => {
                let head = header.response.unwrap_or_default();
                answer.status = head.status_code;
                let headers = head.header.into_iter();
                answer.headers = headers.map(texts).collect();
            }
            Some(http_response::Message::Data(data)) => answer.body.extend_from_slice(&data.data),
            Some(http_response::Message::Trailer(_)) => whole = true,
            Some(http_response::Message::UpgradeData(_) | http_response::Message::Segment(_))
            | None => {
                return Err(Status::internal("a message that has no place here"));
            }
        }
    }
    match whole {
        true => Ok(answer),
        false => Err(Status::internal("the answer ended before its trailer")),
    }
}

fn texts(entry: RawEntry) -> (String, Vec<String>) {
    let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
    let values = entry.value.unwrap_or_default().value;
    (text(entry.key), values.into_iter().map(text).collect())
}

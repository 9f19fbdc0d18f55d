//! Answers a call by what a Kubernetes API says, as agentk does it.

use anyhow::ensure;
use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use proto::{
    agent::prototool::{HttpRequest, HttpResponse},
    frame::FrameBuilder,
    metadata::{self, Meta},
};
use runtime::grpc::send_frame;

use super::{
    call::{self, Call},
    rpc::Failure,
    upgrade,
};

/// A Kubernetes API over HTTP/1.1.
#[derive(Debug)]
pub(super) struct Backend {
    client: Client<HttpConnector, Full<Bytes>>,
    origin: Uri,
}

impl Backend {
    /// The API at `http://host:port`.
    pub(super) fn new(origin: Uri) -> anyhow::Result<Self> {
        let is_origin = origin.scheme_str() == Some("http") && origin.authority().is_some();
        ensure!(is_origin, "--backend must be http://host:port");
        let client = Client::builder(TokioExecutor::new()).build_http();
        Ok(Self { client, origin })
    }

    /// Passes the call on and answers it; gives the length of the body that was sent.
    pub(super) async fn serve(&self, mut call: Call) -> Result<u64, Failure> {
        let received = call::read(&mut call, |_| true).await?;
        let wanted = call::wants_upgrade(&received.head);
        let body = received.body.into_iter().flatten().collect::<Bytes>();
        let request = self.request(received.head, body)?;
        let answered = tokio::select! {
            answered = self.client.request(request) => answered.map_err(|_| BROKEN)?,
            // kas says nothing more until it ends the call.
            ended = call.inbound.message() => return ended.map(|_| 0),
        };
        if wanted && answered.status() == StatusCode::SWITCHING_PROTOCOLS {
            return switch(answered, call).await;
        }
        pass_on(answered, call).await
    }

    fn request(&self, head: HttpRequest, body: Bytes) -> Result<Request<Full<Bytes>>, Failure> {
        let mut parts = self.origin.clone().into_parts();
        let place = format!("{}{}", head.url_path, query(&head.query));
        parts.path_and_query = Some(PathAndQuery::try_from(place).map_err(|_| MALFORMED)?);
        let uri = Uri::from_parts(parts).map_err(|_| MALFORMED)?;
        let request = Request::builder().method(&*head.method).uri(uri);
        let mut request = request.body(Full::new(body)).map_err(|_| MALFORMED)?;
        *request.headers_mut() = metadata::to_headers(head.header);
        // The body is whole already; the client says its length.
        request.headers_mut().remove(header::CONTENT_LENGTH);
        Ok(request)
    }
}

const MALFORMED: Failure = Failure::Protocol("a request that is no HTTP");
const BROKEN: Failure = Failure::Protocol("the backend does not answer");

async fn switch(mut answered: Response<Incoming>, call: Call) -> Result<u64, Failure> {
    let switching = hyper::upgrade::on(&mut answered);
    let head = head_of(answered.into_parts().0);
    let upgraded = switching.await.map_err(|_| BROKEN)?;
    upgrade::carry(call, head, TokioIo::new(upgraded)).await
}

fn head_of(head: http::response::Parts) -> FrameBuilder {
    call::head(HttpResponse {
        status_code: i32::from(head.status.as_u16()),
        status: head.status.to_string(),
        header: metadata::raw_from_headers(&head.headers, HeaderName::to_string),
    })
}

async fn pass_on(answered: Response<Incoming>, mut call: Call) -> Result<u64, Failure> {
    let (mut head, mut body) = answered.into_parts();
    // Those of the connection, which ends here.
    for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
        head.headers.remove(name);
    }
    send_frame(&mut call.send, head_of(head).build()).await?;
    let mut sent = 0;
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            ended = call.inbound.message() => return ended.map(|_| sent),
        };
        let Some(frame) = frame else { break };
        if let Ok(data) = frame.map_err(|_| BROKEN)?.into_data() {
            sent += data.len() as u64;
            send_frame(&mut call.send, call::piece(data)).await?;
        }
    }
    let tail = call::tail(FrameBuilder::default());
    call.send.send_data(tail, true)?;
    while call.inbound.message().await?.is_some() {}
    Ok(sent)
}

fn query(query: &Meta) -> String {
    let escape = |text: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        let escaped = text.bytes().map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        });
        escaped.collect::<String>()
    };
    let pairs = query.iter().flat_map(|(name, values)| {
        let pair = move |value: &String| format!("{}={}", escape(name), escape(value));
        values.value.iter().map(pair)
    });
    let pairs: Vec<_> = pairs.collect();
    match pairs.is_empty() {
        true => String::new(),
        false => format!("?{}", pairs.join("&")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::agent::prototool::Values;

    #[test]
    fn a_request_keeps_its_path_query_and_headers() {
        let backend = Backend::new(Uri::from_static("http://127.0.0.1:80")).unwrap();
        let one = |value: &str| Values {
            value: vec![value.to_owned()],
        };
        let head = HttpRequest {
            method: "GET".into(),
            url_path: "/api/v1/pods".into(),
            query: [("labelSelector".to_owned(), one("a=b c"))].into(),
            header: vec![
                metadata::entry("Accept", ["application/json"]),
                metadata::entry("Content-Length", ["7"]),
            ],
            ..HttpRequest::default()
        };

        let request = backend.request(head, Bytes::new()).unwrap();

        let url = "http://127.0.0.1:80/api/v1/pods?labelSelector=a%3Db%20c";
        assert_eq!(request.uri(), url);
        assert_eq!(request.headers()["accept"], "application/json");
        assert!(!request.headers().contains_key("content-length"));
    }

    #[test]
    fn only_an_origin_is_a_backend() {
        assert!(Backend::new(Uri::from_static("https://127.0.0.1")).is_err());
        assert!(Backend::new(Uri::from_static("/path")).is_err());
    }
}

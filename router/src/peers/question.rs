//! Questions to other replicas that have one answer, on the connections that tunnels are requested on.

use std::future::poll_fn;

use http::{
    HeaderMap, HeaderValue, Method, Request, Uri, Version,
    header::{CONTENT_TYPE, TE},
};
use prost::Message;
use proto::{bounds::Bounds, frame::Frame};
use runtime::grpc::{receive, status_from};
use tonic::{Code, Status};

use super::{Failed, Peers};

impl Peers {
    /// Calls a unary method of the peer at `url`, `/package.Service/Method`, whose answer is within `bounds`. Asked once
    /// more as requests for tunnels are. The caller has a deadline.
    ///
    /// # Errors
    /// A status when the peer is unreachable or refuses, or does not know the method.
    pub async fn ask<A: Message + Default>(
        &self,
        url: &str,
        method: &'static str,
        question: &impl Message,
        bounds: &Bounds,
    ) -> Result<A, Status> {
        let asked = match self.ask_once(url, method, question, bounds).await {
            Err(failed) if failed.retry => self.ask_once(url, method, question, bounds).await,
            asked => asked,
        };
        asked.map_err(|failed| failed.status)
    }

    async fn ask_once<A: Message + Default>(
        &self,
        url: &str,
        method: &'static str,
        question: &impl Message,
        bounds: &Bounds,
    ) -> Result<A, Failed> {
        let (mut connection, permit) = self.connection(url).await?;
        let credentials = self.credentials.metadata(url, &connection.audience);
        let request = request(method, credentials);
        let (response, mut send) = connection.send.send_request(request, false)?;
        send.send_data(Frame::message(question), true)?;
        let response = response.await?;
        permit.answered();
        if let Some(status) = Status::from_header_map(response.headers()) {
            let retry = status.code() == Code::Unauthenticated
                && self.credentials.rejected(url, response.headers());
            return Err(Failed { status, retry });
        }
        let (head, mut body) = response.into_parts();
        match receive(&head.headers, &mut body, bounds).await {
            Ok(answer) => Ok(answer),
            Err(status) => Err(refusal(&mut body).await.unwrap_or(status).into()),
        }
    }
}

fn request(method: &'static str, credentials: HeaderMap) -> Request<()> {
    let uri = Uri::builder()
        .scheme("http")
        .authority("kas")
        .path_and_query(method);
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = uri.build().expect("a method path is a path");
    let headers = request.headers_mut();
    headers.extend(credentials);
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/grpc+proto"),
    );
    headers.insert(TE, HeaderValue::from_static("trailers"));
    request
}

/// The reason behind an answer that did not come, if the stream has ended with one.
async fn refusal(body: &mut h2::RecvStream) -> Option<Status> {
    if !body.is_end_stream() {
        return None;
    }
    match poll_fn(|cx| body.poll_trailers(cx)).await {
        Ok(trailers) => {
            let status = Status::from_header_map(&trailers?)?;
            (status.code() != Code::Ok).then_some(status)
        }
        Err(error) => Some(status_from(&error)),
    }
}

//! The route on which browsers' sessions get tokens for their WebSockets.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use runtime::drain::Drain;

use crate::{
    admission::Admission,
    body::Content,
    failure::{Failure, JSON},
    prefix::Prefix,
    route::{Answer, Route, UserRequest},
    scope::Scope,
    target::Target,
    websocket_tokens::{self, Purpose, WebSocketTokens},
};

/// Issues tokens to those who may make the request that a token is for.
#[derive(Debug)]
pub(crate) struct TokenRoute {
    tokens: WebSocketTokens,
    admission: Arc<Admission>,
    prefix: Prefix,
}

impl TokenRoute {
    /// A route that issues `tokens` for requests below this prefix.
    pub(crate) fn new(tokens: WebSocketTokens, admission: Arc<Admission>, prefix: Prefix) -> Self {
        Self {
            tokens,
            admission,
            prefix,
        }
    }

    async fn issue(
        &self,
        head: &Parts,
        from: IpAddr,
        scope: &mut Scope,
    ) -> Result<Answer, Failure> {
        let target = Target::of_request(head, &self.prefix)?;
        let path = target.sent_path();
        let (access, _) = self.admission.admit(head, path, from, scope).await?;
        let issued = self.tokens.issue(Purpose::of(head, path), &access);
        let body = issued.map_err(|error| {
            let message = format!("the WebSocket token could not be signed: {error}");
            Failure::new(StatusCode::INTERNAL_SERVER_ERROR, message)
        })?;
        let headers = HeaderMap::from_iter([
            (header::CONTENT_TYPE, JSON),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ]);
        let content = Content::from(Bytes::from(body));
        Ok(Answer::new(StatusCode::OK, headers, content))
    }
}

impl Route for TokenRoute {
    fn matches(&self, request: &UserRequest) -> bool {
        websocket_tokens::is_asked_for(&request.head)
    }

    fn takes_ambient_credentials(&self) -> bool {
        true
    }

    fn serve<'a>(
        &'a self,
        request: &'a mut UserRequest,
        scope: &'a mut Scope,
        _drain: &'a Drain,
    ) -> BoxFuture<'a, Result<Answer, Failure>> {
        let from = request.remote_addr.ip();
        Box::pin(self.issue(&request.head, from, scope))
    }
}

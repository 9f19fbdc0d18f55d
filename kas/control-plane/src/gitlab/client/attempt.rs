//! One request on the wire.

use std::{borrow::Cow, error::Error, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use runtime::jwt;

use super::{
    super::{
        call::{Call, Expect},
        error::CallError,
    },
    Client, answer,
};

/// The header with this server's own token.
pub(super) const OWN_TOKEN: HeaderName = HeaderName::from_static("gitlab-kas-api-request");
/// How long that token is good, as upstream makes it.
const TOKEN_TTL: Duration = Duration::from_secs(30);
const JSON: HeaderValue = HeaderValue::from_static("application/json");

impl Client {
    /// Sends a call once and reads its answer.
    pub(super) async fn send(&self, call: &Call) -> Result<Bytes, CallError> {
        let request = self.request(call)?;
        let response = self.exchange(&target(call), request).await?;
        self.read(call, response).await
    }

    /// Sends a request to a path, under this server's name, and gives its answer.
    pub(in crate::gitlab) async fn exchange(
        &self,
        target: &str,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, CallError> {
        let url = self.base.url(target);
        *request.uri_mut() = url.map_err(|error| CallError::InvalidRequest(error.to_string()))?;
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, self.user_agent.clone());
        if let Some(value) = &self.proxy_authorization {
            headers.insert(header::PROXY_AUTHORIZATION, value.clone());
        }
        let answer = self.http.request(request).await;
        answer.map_err(|error| CallError::Unreachable {
            connected: !error.is_connect(),
            detail: causes(&error),
        })
    }

    /// Signed anew each time: a late retry must not carry an old token.
    fn request(&self, call: &Call) -> Result<Request<Full<Bytes>>, CallError> {
        let body = call.body.clone().unwrap_or_default();
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = call.method.clone();
        let headers = request.headers_mut();
        if call.expect == Expect::Json {
            headers.insert(header::ACCEPT, JSON);
        }
        if call.body.is_some() {
            headers.insert(header::CONTENT_TYPE, JSON);
        }
        if call.signed {
            headers.insert(OWN_TOKEN, self.own_token()?);
        }
        if let Some((name, token)) = &call.credential {
            headers.insert(name, secret(token.expose())?);
        }
        Ok(request)
    }

    /// This server's own token, signed now.
    pub(super) fn own_token(&self) -> Result<HeaderValue, CallError> {
        let token = jwt::sign_for(&self.secret, "gitlab-kas", "gitlab", TOKEN_TTL);
        secret(&token.map_err(|error| CallError::InvalidRequest(error.to_string()))?)
    }

    async fn read(&self, call: &Call, response: Response<Incoming>) -> Result<Bytes, CallError> {
        let (head, body) = response.into_parts();
        let good = match call.expect {
            Expect::Json => matches!(head.status.as_u16(), 200 | 201),
            Expect::Nothing => matches!(head.status.as_u16(), 200 | 204),
        };
        let body = answer::read(body, call.path).await;
        match (good, call.expect) {
            (true, Expect::Json) => answer::json(&head, body?, call.path),
            (true, Expect::Nothing) => Ok(Bytes::new()),
            (false, _) => Err(answer::refusal(&head, &body.unwrap_or_default(), call)),
        }
    }
}

/// The path, with the query if there is one.
fn target(call: &Call) -> Cow<'static, str> {
    match &call.query {
        None => call.path.into(),
        Some((name, value)) => {
            let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
            format!("{}?{name}={value}", call.path).into()
        }
    }
}

pub(super) fn secret(value: &str) -> Result<HeaderValue, CallError> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| CallError::InvalidRequest("the token is no header value".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// An error with what lies under it.
pub(super) fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

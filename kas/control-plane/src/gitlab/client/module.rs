//! A request of an agent's module on the wire: its body goes out as it comes.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::client::legacy;
use runtime::telemetry::Repeats;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

use super::{
    super::{
        super::Token,
        error::CallError,
        modules::{ModuleError, ModuleHead, StreamedBody},
    },
    Client,
    attempt::{OWN_TOKEN, causes, secret},
};

/// How long GitLab may take to begin its answer once it has the whole request, as upstream has it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

impl Client {
    /// Sends a module's request once. Its answer is read as it comes.
    pub(in super::super) async fn send_module(
        &self,
        token: &Token,
        head: &ModuleHead,
        body: StreamedBody,
    ) -> Result<Response<Incoming>, ModuleError> {
        let sent = CancellationToken::new();
        let body = SentBody {
            body,
            _sent: sent.clone().drop_guard(),
        };
        let request = self.module_request(token, head, body)?;
        let answered = self.modules.request(request);
        let late = async {
            sent.cancelled().await;
            tokio::time::sleep(ANSWER_TIMEOUT).await;
        };
        let answered = tokio::select! {
            answered = answered => answered.map_err(failed),
            () = late => Err(CallError::Timeout(ANSWER_TIMEOUT).into()),
        };
        if let Err(error) = &answered {
            log(head, error);
        }
        answered
    }

    fn module_request<B>(
        &self,
        token: &Token,
        head: &ModuleHead,
        body: B,
    ) -> Result<Request<B>, CallError> {
        let url = self.base.url(&head.path.target());
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = url.map_err(|error| CallError::InvalidRequest(error.to_string()))?;
        *request.headers_mut() = head.headers.clone();
        let bearer = format!("Bearer {}", token.expose());
        let own: [(_, HeaderValue); 3] = [
            (header::USER_AGENT, self.user_agent.clone()),
            (OWN_TOKEN, self.own_token()?),
            (header::AUTHORIZATION, secret(&bearer)?),
        ];
        let headers = request.headers_mut();
        for (name, value) in own {
            headers.insert(name, value);
        }
        if let Some(value) = &self.proxy_authorization {
            headers.insert(header::PROXY_AUTHORIZATION, value.clone());
        }
        Ok(request)
    }
}

/// Whose fault it is: a body that breaks off is found among the causes.
fn failed(error: legacy::Error) -> ModuleError {
    let mut next: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(cause) = next {
        if let Some(status) = cause.downcast_ref::<Status>() {
            return ModuleError::Body(status.clone());
        }
        next = cause.source();
    }
    let detail = causes(&error);
    match error.is_connect() {
        true => ModuleError::NoConnection { detail },
        false => CallError::Unreachable {
            connected: true,
            detail,
        }
        .into(),
    }
}

fn log(head: &ModuleHead, error: &ModuleError) {
    static FAILED: Repeats = Repeats::new("request of an agent's module failed");
    let detail = match error {
        ModuleError::NoConnection { detail }
        | ModuleError::Call(CallError::Unreachable { detail, .. }) => detail.as_str(),
        ModuleError::Call(_) => "",
        ModuleError::Body(_) => return,
    };
    if FAILED.admit() {
        let module = head.path.module();
        tracing::warn!(module, %error, detail, "request of an agent's module failed");
    }
}

/// A body that tells when it is sent: it is at its end, or not needed any more.
pub(super) struct SentBody<B> {
    body: B,
    _sent: DropGuard,
}

impl Body for SentBody<StreamedBody> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(ready!(Pin::new(&mut self.body).poll_frame(cx)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

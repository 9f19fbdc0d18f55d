//! What a method of the agents' port declares: its path, the bounds of its request, whether it answers once or
//! with a stream, and its handler. Reading requests, refusing calls and ending streams is done here, once.

mod responses;

use std::{
    fmt,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use control_plane::{AgentInfo, TokenHash};
use http::Request;
use proto::{bounds::Bounds, frame::Frame};
use router::AgentId;
use runtime::{
    grpc::{CallKind, CountedCall, MethodMetrics, SendResponse, ServerMetrics, answer, receive},
    io::ByteStream,
    shares::Share,
    telemetry::{Repeats, Untrusted},
};
use tonic::{Code, Status};

use super::caller::{Identity, OpenTunnel, Permit};
use crate::tracker::Origin;
pub(super) use responses::Responses;

/// A call being served, until its end.
pub(super) type Served = Pin<Box<dyn Future<Output = ()> + Send>>;
/// A tunnel being opened: its descriptor is read.
pub(super) type Opening = Pin<Box<dyn Future<Output = Opened> + Send>>;
/// An open tunnel, or where to refuse it and why.
pub(super) type Opened = Result<OpenTunnel, (SendResponse, Status)>;
/// Serves the bytes that a call carries as a connection of its own.
pub(super) type Nested = Arc<dyn Fn(ByteStream) + Send + Sync>;

/// A call with a valid token.
pub(super) struct Call {
    pub(super) identity: Identity,
    pub(super) request: Request<h2::RecvStream>,
    pub(super) respond: SendResponse,
    /// How long a stream may be silent before a load balancer may cut it; `None` where pings keep it open.
    pub(super) silence: Option<Duration>,
    /// `None` unless the connection may carry those of other pods.
    pub(super) nested: Option<Nested>,
    /// Counts the call until it ends.
    pub(super) permit: Permit,
}

/// A method with one request and one response.
pub(super) trait Unary: Send + Sync + 'static {
    /// `/<package>.<Service>/<Method>`.
    const PATH: &'static str;
    /// Checked before the request is decoded.
    const BOUNDS: Bounds;
    type Request: prost::Message + Default;
    type Response: prost::Message;

    /// Authenticated before the request is read; what it gives is held until the call ends.
    fn admit(&self, _agent: &AgentInfo) -> Result<Option<Share<AgentId>>, Status> {
        Ok(None)
    }

    fn call(
        &self,
        identity: &Identity,
        request: Self::Request,
    ) -> impl Future<Output = Result<Self::Response, Status>> + Send;
}

/// A method with one request and a stream of responses.
pub(super) trait ServerStreaming: Send + Sync + 'static {
    /// `/<package>.<Service>/<Method>`.
    const PATH: &'static str;
    /// Checked before the request is decoded.
    const BOUNDS: Bounds;
    type Request: prost::Message + Default;

    /// Opens the responses, or refuses the call by an error before it does. The stream ends with the result.
    fn serve(
        &self,
        call: &StreamCall,
        request: Self::Request,
        responses: &mut Responses,
    ) -> impl Future<Output = Result<(), Status>> + Send;
}

/// A method with two streams, which it serves itself.
pub(super) trait Bidirectional: Send + Sync + 'static {
    /// `/<package>.<Service>/<Method>`.
    const PATH: &'static str;
    /// Of each message.
    const BOUNDS: Bounds;

    fn serve(&self, call: Call) -> impl Future<Output = ()> + Send;
}

/// A method of the agents' port: an entry of [`Services`](super::Services).
pub struct Method {
    path: &'static str,
    kind: CallKind,
    handler: Handler,
    calls: OnceLock<MethodMetrics>,
}

/// How calls of a method are served.
pub(super) enum Handler {
    /// By a future that runs to the call's end.
    Call(Box<dyn Fn(Call) -> Served + Send + Sync>),
    /// As a tunnel, which the connection keeps for other callers once it is open.
    Tunnel(Box<dyn Fn(Call) -> Opening + Send + Sync>),
    /// A runner's call, whose token is no agent's: the handler says whether it was good.
    Runner(Box<dyn Fn(RunnerCall) -> ServedRunner + Send + Sync>),
    /// A call of an agent that has no token of its own yet.
    Joining(Box<dyn Fn(RunnerCall) -> ServedRunner + Send + Sync>),
}

impl Handler {
    /// Whether its callers have tokens that are no agent's.
    pub(super) fn takes_strangers(&self) -> bool {
        matches!(self, Self::Runner(_) | Self::Joining(_))
    }
}

/// A call of a runner, or of who joins. Nothing is known of its token yet.
pub(super) struct RunnerCall {
    pub(super) token: TokenHash,
    pub(super) from: IpAddr,
    pub(super) origin: Arc<Origin>,
    pub(super) request: Request<h2::RecvStream>,
    pub(super) respond: SendResponse,
    /// Counts the call until it ends.
    pub(super) counted: Option<CountedCall>,
}

/// A runner's call being served: whether its token was good.
pub(super) type ServedRunner = Pin<Box<dyn Future<Output = bool> + Send>>;

impl Method {
    pub(super) fn unary<S: Unary>(service: S) -> Self {
        let service = Arc::new(service);
        let serve = move |call| -> Served { Box::pin(serve_unary(service.clone(), call)) };
        Self {
            path: S::PATH,
            kind: CallKind::Unary,
            handler: Handler::Call(Box::new(serve)),
            calls: OnceLock::new(),
        }
    }

    pub(super) fn server_streaming<S: ServerStreaming>(service: S) -> Self {
        let service = Arc::new(service);
        let serve = move |call: Call| -> Served {
            // Boxed by itself: streams live long, and nothing of the request is kept but its message.
            let request = Box::pin(read(call.request, &S::BOUNDS));
            let responses = Responses::Unopened(call.respond);
            let stream = StreamCall {
                identity: call.identity,
                silence: call.silence,
                permit: call.permit,
            };
            Box::pin(serve_stream(service.clone(), stream, request, responses))
        };
        Self {
            path: S::PATH,
            kind: CallKind::ServerStream,
            handler: Handler::Call(Box::new(serve)),
            calls: OnceLock::new(),
        }
    }

    pub(super) fn bidirectional<S: Bidirectional>(service: S) -> Self {
        let service = Arc::new(service);
        let serve = move |call| -> Served {
            let service = service.clone();
            Box::pin(async move { service.serve(call).await })
        };
        Self {
            path: S::PATH,
            kind: CallKind::BidiStream,
            handler: Handler::Call(Box::new(serve)),
            calls: OnceLock::new(),
        }
    }

    pub(super) fn tunnel(
        path: &'static str,
        open: impl Fn(Call) -> Opening + Send + Sync + 'static,
    ) -> Self {
        Self {
            path,
            kind: CallKind::BidiStream,
            handler: Handler::Tunnel(Box::new(open)),
            calls: OnceLock::new(),
        }
    }

    /// Counts its calls from now on. Where several gateways share it, the first one does.
    pub(super) fn count(&self, calls: &ServerMetrics) {
        self.calls
            .get_or_init(|| calls.method(self.path, self.kind));
    }

    /// A call begins.
    pub(super) fn begin(&self) -> Option<CountedCall> {
        self.calls.get().map(MethodMetrics::begin)
    }

    /// A call was refused before it was anybody's.
    pub(super) fn refused(&self, status: &Status) {
        if let Some(call) = self.begin() {
            call.ends(status.code());
        }
    }

    pub(super) fn of_runners(
        path: &'static str,
        serve: impl Fn(RunnerCall) -> ServedRunner + Send + Sync + 'static,
    ) -> Self {
        Self {
            path,
            kind: CallKind::Unary,
            handler: Handler::Runner(Box::new(serve)),
            calls: OnceLock::new(),
        }
    }

    pub(super) fn joining(
        path: &'static str,
        serve: impl Fn(RunnerCall) -> ServedRunner + Send + Sync + 'static,
    ) -> Self {
        Self {
            path,
            kind: CallKind::Unary,
            handler: Handler::Joining(Box::new(serve)),
            calls: OnceLock::new(),
        }
    }

    pub(super) fn path(&self) -> &'static str {
        self.path
    }

    /// Its service, for gRPC's refusals.
    pub(super) fn service(&self) -> &'static str {
        let (service, _) = self.path.rsplit_once('/').unwrap_or_default();
        service.trim_start_matches('/')
    }

    /// Its name without its service.
    pub(super) fn name(&self) -> &'static str {
        name(self.path)
    }

    pub(super) fn handler(&self) -> &Handler {
        &self.handler
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Method").field(&self.path).finish()
    }
}

fn name(path: &'static str) -> &'static str {
    path.rsplit('/').next().unwrap_or(path)
}

async fn serve_unary<S: Unary>(service: Arc<S>, call: Call) {
    let Call {
        identity,
        request,
        respond,
        permit,
        ..
    } = call;
    let answered = async {
        let _share = service.admit(&identity.agent)?;
        let request = read(request, &S::BOUNDS).await?;
        permit.received();
        service.call(&identity, request).await
    };
    match answered.await {
        Ok(response) => {
            permit.sent();
            permit.ends(Code::Ok);
            // An agent that is gone needs no answer.
            let _ = answer(respond, Frame::message(&response));
        }
        Err(status) => {
            permit.ends(status.code());
            refuse(respond, &status, name(S::PATH));
        }
    }
}

async fn serve_stream<S: ServerStreaming>(
    service: Arc<S>,
    call: StreamCall,
    request: impl Future<Output = Result<S::Request, Status>>,
    mut responses: Responses,
) {
    let served = async {
        let request = request.await?;
        call.permit.received();
        service.serve(&call, request, &mut responses).await
    };
    let ended: Result<(), Status> = served.await;
    call.permit.ends(code(&ended));
    responses.end(ended, name(S::PATH));
}

async fn read<M: prost::Message + Default>(
    request: Request<h2::RecvStream>,
    bounds: &Bounds,
) -> Result<M, Status> {
    let (head, mut stream) = request.into_parts();
    receive(&head.headers, &mut stream, bounds).await
}

/// Refuses a call, and logs it.
pub(super) fn refuse(respond: SendResponse, status: &Status, method: &str) {
    static REFUSED: Repeats = Repeats::new("agent call refused");
    if REFUSED.admit() {
        let error = Untrusted(status.message());
        tracing::info!(code = ?status.code(), %error, method, "agent call refused");
    }
    // An agent that is gone needs no answer.
    let _ = runtime::grpc::refuse(respond, status);
}

/// A call that is answered with a stream.
pub(super) struct StreamCall {
    pub(super) identity: Identity,
    silence: Option<Duration>,
    permit: Permit,
}

/// The code of an end.
pub(super) fn code(ended: &Result<(), Status>) -> Code {
    ended.as_ref().err().map_or(Code::Ok, Status::code)
}

impl StreamCall {
    /// A response was sent.
    pub(super) fn sent(&self) {
        self.permit.sent();
    }

    /// Waits until the stream is to end in order: its connection is left, or it was open for as long as it may
    /// be silent. The agent opens another at once.
    pub(super) async fn ends(&self) {
        let silent = async {
            match self.silence {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.identity.caller.streams_end.cancelled() => {}
            () = silent => {}
        }
    }
}

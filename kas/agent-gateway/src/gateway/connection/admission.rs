//! Authenticates the calls on a connection, before anything else of them is looked at.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use control_plane::{AgentInfo, Token, TokenHash};
use futures_util::future::BoxFuture;
use http::Request;
use runtime::{
    backoff::jittered,
    grpc::{SendResponse, bearer},
    telemetry::Repeats,
};
use tonic::Status;
use tracing::Instrument as _;

use super::{
    super::{
        authenticate,
        caller::{Caller, Identity},
        kind,
        service::{Call, Handler, Method, RunnerCall},
    },
    Connection,
    lifecycle::Phase,
    work::Work,
};

/// Calls that wait for the control plane: with one token, an agent's first calls; on a connection without a valid
/// token yet, those of a few agents of a load balancer; on any other.
const MAX_AUTHENTICATING_PER_TOKEN: usize = 8;
const MAX_AUTHENTICATING_WITHOUT_CALLER: usize = 32;
const MAX_AUTHENTICATING: usize = 256;

/// A call whose token is not known yet. Nothing of its body is read.
pub(super) struct PendingCall {
    method: Arc<Method>,
    token: Token,
    request: Request<h2::RecvStream>,
    respond: SendResponse,
}

/// A call whose token the control plane is asked about.
pub(super) struct Authenticating {
    call: Option<PendingCall>,
    token: TokenHash,
    asked: BoxFuture<'static, Authenticated>,
}

pub(super) type Authenticated = Result<Arc<AgentInfo>, Status>;

impl Future for Authenticating {
    type Output = (PendingCall, Authenticated);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let authenticated = std::task::ready!(self.asked.as_mut().poll(cx));
        match self.call.take() {
            Some(call) => Poll::Ready((call, authenticated)),
            None => Poll::Pending,
        }
    }
}

impl Connection {
    /// Begins to authenticate a call.
    pub(super) fn dispatch(&mut self, request: Request<h2::RecvStream>, respond: SendResponse) {
        let directions = &self.gateway.settings.directions;
        let Some(respond) = runtime::grpc::reject_non_grpc(&request, respond, directions) else {
            return;
        };
        let services = &self.gateway.settings.services;
        let method = match services.find(request.uri().path()) {
            Ok(method) => method,
            Err(status) => return self.refuse(respond, &status, "unknown"),
        };
        if let Err(status) = kind::check(request.headers(), &method) {
            return self.refuse(respond, &status, method.name());
        }
        let token = match bearer(request.headers()) {
            Ok(secret) => self
                .callers
                .token(secret)
                .unwrap_or_else(|| Token::new(secret)),
            Err(status) => return self.refuse_call(&method, respond, &status),
        };
        if let Handler::Runner(serve) | Handler::Joining(serve) = method.handler() {
            let call = RunnerCall {
                token: token.hash(),
                from: self.origin.remote_addr.ip(),
                origin: self.origin.clone(),
                request,
                respond,
                counted: method.begin(),
            };
            return self.serve_runner(&method, serve, call);
        }
        let (gateway, shown) = (self.gateway.clone(), token.clone());
        let from = self.origin.clone();
        let mut authenticating = Authenticating {
            token: token.hash(),
            asked: Box::pin(async move { gateway.authenticator.agent(&shown, &from).await }),
            call: Some(PendingCall {
                method,
                token,
                request,
                respond,
            }),
        };
        // A token that is remembered is known at once, and needs no place among those that are asked about.
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready((call, authenticated)) = Pin::new(&mut authenticating).poll(&mut cx) {
            return self.admit(call, authenticated);
        }
        if self.may_ask(&authenticating.token) {
            return self.authenticating.push(authenticating);
        }
        if let Some(PendingCall {
            method, respond, ..
        }) = authenticating.call
        {
            let status =
                Status::resource_exhausted("too many calls with tokens that are not known yet");
            self.refuse_call(&method, respond, &status);
        }
    }

    fn refuse_call(&self, method: &Method, respond: SendResponse, status: &Status) {
        method.refused(status);
        self.refuse(respond, status, method.name());
    }

    fn may_ask(&self, token: &TokenHash) -> bool {
        if self.callers.find(token).is_some() {
            return true;
        }
        let limit = if self.callers.is_empty() {
            MAX_AUTHENTICATING_WITHOUT_CALLER
        } else {
            MAX_AUTHENTICATING
        };
        let same = self.authenticating.iter().filter(|it| it.token == *token);
        self.authenticating.len() < limit && same.count() < MAX_AUTHENTICATING_PER_TOKEN
    }

    /// Begins to serve a call, if its token is valid.
    pub(super) fn admit(&mut self, call: PendingCall, authenticated: Authenticated) {
        let PendingCall {
            method,
            token,
            request,
            respond,
        } = call;
        let checked = self
            .dialled
            .as_ref()
            .map_or(Ok(()), |it| it.check(&authenticated));
        let hash = token.hash();
        let identity = checked
            .and(authenticated)
            .and_then(|agent| self.identify(token, agent));
        let identity = match identity {
            Ok(identity) => identity,
            Err(status) => {
                if authenticate::is_refusal(&status) {
                    self.revoke(&hash);
                }
                return self.refuse_call(&method, respond, &status);
            }
        };
        let permit = match method.handler() {
            Handler::Tunnel(_) => identity.caller.tunnel(),
            Handler::Call(_) | Handler::Runner(_) | Handler::Joining(_) => identity.caller.call(),
        };
        let permit = match permit {
            Ok(permit) => permit.counted(method.begin()),
            Err(status) => return self.refuse_call(&method, respond, &status),
        };
        let call = Call {
            identity,
            request,
            respond,
            silence: self.silence,
            nested: self.nested.clone(),
            permit,
        };
        match method.handler() {
            Handler::Tunnel(open) => self.opening.push(open(call)),
            Handler::Call(serve) => {
                let served = serve(call).instrument(self.span.clone());
                self.work.push(Work::Call(served));
            }
            // Begun before anybody asks for an agent.
            Handler::Runner(_) | Handler::Joining(_) => {}
        }
    }

    /// A replica that has as many connections as it takes closes those that come, so that agents dial again: they would
    /// ask on the same connection else, and never come to a replica that has room.
    fn take_place(&mut self) -> Result<(), Status> {
        static FULL: Repeats = Repeats::new("too many connections of agents; closing new ones");
        if self.open.is_some() || self.dialled.is_some() {
            return Ok(());
        }
        if self.phase == Phase::Finishing {
            return Err(Status::unavailable(
                "this connection is being closed: connect again",
            ));
        }
        match self.gateway.connections.enter() {
            Ok(open) => {
                self.open = Some(open);
                Ok(())
            }
            Err(full) => {
                self.gateway.metrics.full.inc();
                if FULL.admit() {
                    tracing::warn!(error = %full, "too many connections of agents; closing new ones");
                }
                self.close();
                Err(Status::unavailable(full.to_string()))
            }
        }
    }

    /// The caller with this token. The first one makes the connection an agent's.
    fn identify(&mut self, token: Token, agent: Arc<AgentInfo>) -> Result<Identity, Status> {
        if let Some(caller) = self.callers.find(&token.hash())
            && caller.agent == agent.id
        {
            let caller = caller.clone();
            return Ok(Identity { caller, agent });
        }
        self.gateway
            .authenticator
            .connected(&token, agent.id, &self.origin)?;
        self.take_place()?;
        let caller = Caller::new(
            token,
            agent.id,
            self.streams_end.child_token(),
            self.origin.clone(),
        );
        let first = self.callers.is_empty();
        self.callers.add(caller.clone())?;
        if first {
            self.span.record("agent.id", agent.id.0);
            runtime::grpc::raise_window(&mut self.http2);
        }
        if self.phase == Phase::Unauthenticated {
            self.phase = Phase::Active;
            self.set_timer(jittered(self.gateway.settings.max_connection_age));
        }
        Ok(Identity { caller, agent })
    }
}

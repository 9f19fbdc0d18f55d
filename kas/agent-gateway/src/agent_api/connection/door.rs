//! Who makes a call on a connection: asked before anything else of the call is looked at.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use http::Request;
use runtime::{backoff::jittered, grpc::SendResponse};
use tonic::Status;

use super::{
    super::{
        authenticate::{self, Shown},
        caller::{Caller, Identity},
        service::{Call, Handler, Method},
    },
    Connection, Task,
    life::Phase,
    work::Work,
};
use control_plane::{AgentInfo, TokenHash};

/// Calls whose token the control plane is being asked about: with one token, an agent's first calls; on a
/// connection on which nobody is known yet, those of a few agents of a load balancer; on any other.
const MAX_ASKING_PER_TOKEN: usize = 8;
const MAX_ASKING_UNKNOWN: usize = 32;
const MAX_ASKING: usize = 256;

/// A call of which it is not known yet who makes it. Nothing of its body is looked at.
pub(super) struct Knock {
    method: Arc<Method>,
    shown: Shown,
    request: Request<h2::RecvStream>,
    respond: SendResponse,
}

/// Whose the token of a call is, asked of the control plane.
pub(super) struct Asking {
    knock: Option<Knock>,
    token: TokenHash,
    asked: Task<Asked>,
}

pub(super) type Asked = Result<Arc<AgentInfo>, Status>;

impl Future for Asking {
    type Output = (Knock, Asked);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let asked = std::task::ready!(self.asked.as_mut().poll(cx));
        match self.knock.take() {
            Some(knock) => Poll::Ready((knock, asked)),
            None => Poll::Pending,
        }
    }
}

impl Connection {
    /// Looks at who makes a call, and at nothing else of it.
    pub(super) fn dispatch(&mut self, request: Request<h2::RecvStream>, respond: SendResponse) {
        let directions = &self.api.settings.directions;
        let Some(respond) = runtime::grpc::turn_away(&request, respond, directions) else {
            return;
        };
        let method = match self.api.settings.services.find(request.uri().path()) {
            Ok(method) => method,
            Err(status) => return self.refuse(respond, &status, "call"),
        };
        let shown = match Shown::read(request.headers()) {
            Ok(shown) => shown,
            Err(status) => return self.refuse(respond, &status, method.name()),
        };
        let (api, token, from) = (self.api.clone(), shown.token.clone(), self.remote_addr.ip());
        let mut asking = Asking {
            token: shown.hash,
            asked: Box::pin(async move { api.authenticator.agent(&token, from).await }),
            knock: Some(Knock {
                method,
                shown,
                request,
                respond,
            }),
        };
        // Whoever is remembered needs no place among those who are asked about.
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready((knock, asked)) = Pin::new(&mut asking).poll(&mut cx) {
            return self.admit(knock, asked);
        }
        if self.may_ask(&asking.token) {
            return self.asking.push(asking);
        }
        if let Some(Knock {
            method, respond, ..
        }) = asking.knock
        {
            let status =
                Status::resource_exhausted("too many calls with tokens that are not known yet");
            self.refuse(respond, &status, method.name());
        }
    }

    fn may_ask(&self, token: &TokenHash) -> bool {
        if self.callers.find(token).is_some() {
            return true;
        }
        let limit = if self.callers.is_empty() {
            MAX_ASKING_UNKNOWN
        } else {
            MAX_ASKING
        };
        let same = self.asking.iter().filter(|it| it.token == *token);
        self.asking.len() < limit && same.count() < MAX_ASKING_PER_TOKEN
    }

    /// Lets a call in whose token is good.
    pub(super) fn admit(&mut self, knock: Knock, asked: Asked) {
        let Knock {
            method,
            shown,
            request,
            respond,
        } = knock;
        let checked = self.dialled.as_ref().map_or(Ok(()), |it| it.check(&asked));
        let token = shown.hash;
        let known = checked.and(asked).and_then(|agent| self.know(shown, agent));
        let identity = match known {
            Ok(identity) => identity,
            Err(status) => {
                if authenticate::is_refusal(&status) {
                    self.revoke(&token);
                }
                return self.refuse(respond, &status, method.name());
            }
        };
        let place = match method.handler() {
            Handler::Tunnel(_) => identity.caller.tunnel(),
            Handler::Call(_) => identity.caller.call(),
        };
        let place = match place {
            Ok(place) => place,
            Err(status) => return self.refuse(respond, &status, method.name()),
        };
        let call = Call {
            identity,
            request,
            respond,
            silence: self.silence,
            nested: self.nested.clone(),
            place,
        };
        match method.handler() {
            Handler::Tunnel(open) => self.opening.push(open(call)),
            Handler::Call(serve) => self.work.push(Work::Call(serve(call))),
        }
    }

    /// Who has shown a good token; the connection is one of an agent from then on.
    fn know(&mut self, shown: Shown, agent: Arc<AgentInfo>) -> Result<Identity, Status> {
        if let Some(caller) = self.callers.find(&shown.hash)
            && caller.agent == agent.id
        {
            let caller = caller.clone();
            return Ok(Identity { caller, agent });
        }
        self.api.authenticator.connected(shown.hash)?;
        let caller = Caller::new(shown, agent.id, self.leaving.child_token());
        let first = self.callers.is_empty();
        self.callers.add(caller.clone())?;
        if first {
            runtime::grpc::welcome(&mut self.http2);
        }
        if self.phase == Phase::Unknown {
            self.phase = Phase::Used;
            self.postpone(jittered(self.api.settings.max_connection_age));
        }
        Ok(Identity { caller, agent })
    }
}

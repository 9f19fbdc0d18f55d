//! The idle tunnels of a connection from kas, each for one call.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::Request;
use runtime::grpc::SendResponse;
use tokio::sync::{oneshot, watch};

/// How long no tunnel is idle before kas is taken to let this agent go. It opens others within a moment, whenever one
/// is used.
const STARVED_AFTER: Duration = Duration::from_secs(3);

/// A call of the session's that is to go through a tunnel. Nothing of its body is read.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) request: Request<h2::RecvStream>,
    pub(super) respond: SendResponse,
}

/// Idle tunnels, and what can be called through them.
#[derive(Debug, Default)]
pub(super) struct Offers {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Offer>,
    /// What the latest tunnel offered.
    methods: Option<Arc<[String]>>,
    /// Whether the session has a connection whose calls come here.
    line: bool,
}

/// An idle tunnel.
#[derive(Debug)]
struct Offer {
    methods: Arc<[String]>,
    call: oneshot::Sender<Box<Call>>,
}

impl Offers {
    /// Adds an idle tunnel, which waits for its call.
    pub(super) fn add(&self, methods: Vec<String>) -> oneshot::Receiver<Box<Call>> {
        let (call, waiting) = oneshot::channel();
        let mut state = self.lock();
        let methods = match &state.methods {
            Some(known) if **known == *methods => known.clone(),
            Some(_) | None => methods.into(),
        };
        state.methods = Some(methods.clone());
        state.idle.push(Offer { methods, call });
        drop(state);
        self.changed.send_replace(());
        waiting
    }

    /// Forgets tunnels that are not idle any more.
    pub(super) fn sweep(&self) {
        self.lock().idle.retain(|offer| !offer.call.is_closed());
        self.changed.send_replace(());
    }

    /// Gives a call to an idle tunnel that offers its method; gives it back if there is none.
    pub(super) fn give(&self, mut call: Box<Call>) -> Result<(), Box<Call>> {
        loop {
            let mut state = self.lock();
            state.idle.retain(|offer| !offer.call.is_closed());
            let path = call.request.uri().path();
            let fits = |offer: &Offer| offer.methods.iter().any(|method| method == path);
            let Some(at) = state.idle.iter().position(fits) else {
                return Err(call);
            };
            let offer = state.idle.remove(at);
            drop(state);
            match offer.call.send(call) {
                Ok(()) => {
                    self.changed.send_replace(());
                    return Ok(());
                }
                Err(back) => call = back,
            }
        }
    }

    /// Whether kas offers a method, as far as it is known.
    pub(super) fn may_offer(&self, path: &str) -> bool {
        let state = self.lock();
        let known = state.methods.as_ref();
        known.is_none_or(|methods| methods.iter().any(|method| method == path))
    }

    /// Whether kas offers any method of this one's service.
    pub(super) fn offers_service_of(&self, path: &str) -> bool {
        let Some((service, _)) = path.rsplit_once('/') else {
            return false;
        };
        let state = self.lock();
        let mut known = state.methods.iter().flat_map(|methods| methods.iter());
        known.any(|method| method.rsplit_once('/').is_some_and(|(it, _)| it == service))
    }

    /// Changes with the tunnels.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The session has a connection whose calls come here.
    pub(super) fn line_opened(&self) {
        self.lock().line = true;
    }

    /// It makes no more calls there.
    pub(super) fn line_left(&self) {
        self.lock().line = false;
        self.changed.send_replace(());
    }

    /// Waits until tunnels are idle and the session has no connection for them. Cancel-safe.
    pub(super) async fn unused(&self) {
        self.until(|state| !state.line && has_idle(state)).await;
    }

    /// Waits until no tunnel has been idle for a while. Cancel-safe.
    pub(super) async fn starved(&self) {
        loop {
            self.until(|state| !has_idle(state)).await;
            let fed = tokio::time::timeout(STARVED_AFTER, self.until(has_idle)).await;
            if fed.is_err() {
                return;
            }
        }
    }

    async fn until(&self, holds: impl Fn(&State) -> bool) {
        let mut changes = self.changed.subscribe();
        while !holds(&self.lock()) {
            // The sender is this.
            let _ = changes.changed().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn has_idle(state: &State) -> bool {
    state.idle.iter().any(|offer| !offer.call.is_closed())
}

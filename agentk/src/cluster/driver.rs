//! Runs an HTTP/2 connection and all that belongs to it in one task.
//!
//! hyper has the connection, the requests' bodies and the answers run as tasks beside the one that begins requests. Were
//! they on another thread, a request could reach the API server and a GOAWAY come back between two steps of hyper's in
//! which it begins the request; it would then give the GOAWAY as the request's error, although it was taken. In one task
//! nothing comes in between.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures_util::stream::{FuturesUnordered, Stream as _};
use hyper::rt::Executor;

type Part = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where hyper puts the parts of a connection, as many as it has requests. They are put there from [`run`] only, which
/// looks for them whenever it has polled anything.
#[derive(Clone, Default)]
pub(super) struct Parts(Arc<Mutex<Vec<Part>>>);

impl<F> Executor<F> for Parts
where
    F: Future + Send + 'static,
{
    fn execute(&self, part: F) {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.push(Box::pin(async move {
            part.await;
        }));
    }
}

impl Parts {
    fn take(&self) -> Vec<Part> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Runs a connection and its parts until all of its requests are over. Calls `closed` when it takes no more requests:
/// whoever can make some lets go of it then, by which those come back that were queued too late.
pub(super) async fn run(connection: impl Future + Send, parts: Parts, closed: impl FnOnce()) {
    let mut closed = Some(closed);
    let mut connection = Box::pin(Some(connection));
    let mut running = FuturesUnordered::new();
    poll_fn(|cx| {
        loop {
            if let Some(open) = connection.as_mut().as_pin_mut()
                && open.poll(cx).is_ready()
            {
                // At once: what is queued for it goes back to where it came from.
                connection.set(None);
                if let Some(closed) = closed.take() {
                    closed();
                }
            }
            let goes_on = poll_parts(&mut running, &parts, cx);
            if !goes_on {
                let over = connection.is_none() && running.is_empty();
                return if over { Poll::Ready(()) } else { Poll::Pending };
            }
        }
    })
    .await;
}

/// Whether something has ended, by which something else may go on.
fn poll_parts(running: &mut FuturesUnordered<Part>, parts: &Parts, cx: &mut Context<'_>) -> bool {
    loop {
        let new = parts.take();
        let none_new = new.is_empty();
        running.extend(new);
        match Pin::new(&mut *running).poll_next(cx) {
            Poll::Ready(Some(())) => return true,
            Poll::Ready(None) | Poll::Pending if none_new => return false,
            Poll::Ready(None) | Poll::Pending => {}
        }
    }
}

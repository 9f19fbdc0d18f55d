//! Tunnels that kas opens to this agent, by which the agent makes its own calls on kas.
//!
//! The form of GitLab's receptive agents, as far as it is known: kas opens `ReverseTunnel.Connect` streams and says
//! what can be called through them; each call of the agent takes one. What is not in public sources was inferred: all
//! of it is in here, and in kas's `receptive::tunnels`.
//!
//! To the session this is a connection like any other: one in memory, whose calls go on to tunnels ([`line`]).

mod line;
mod offers;
mod tunnel;

use std::sync::Arc;

use http::{HeaderMap, Request};
use runtime::{
    grpc::{SendResponse, refuse},
    io::ByteStream,
};
use tokio::{
    sync::mpsc::{self, OwnedPermit},
    task::JoinSet,
};
use tonic::Status;

use line::LineEnd;
use offers::Offers;

/// Bytes on their way between the session and tunnels, in one direction.
const PIPE_BYTES: usize = 256 << 10;

/// Whether a caller is kas, by its call's headers.
pub(crate) type Check = Arc<dyn Fn(&HeaderMap) -> Result<(), Status> + Send + Sync>;

/// The tunnels of one connection from kas.
pub(crate) struct KasTunnels {
    check: Check,
    incoming: mpsc::Sender<ByteStream>,
    offers: Arc<Offers>,
    tunnels: JoinSet<()>,
    lines: JoinSet<LineEnd>,
}

/// Whether more can come of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tended {
    GoesOn,
    /// The session has closed what it was given.
    Over,
}

impl KasTunnels {
    /// Nothing yet; what comes of the connection goes to the session.
    pub(crate) fn new(check: Check, incoming: mpsc::Sender<ByteStream>) -> Self {
        Self {
            check,
            incoming,
            offers: Arc::default(),
            tunnels: JoinSet::new(),
            lines: JoinSet::new(),
        }
    }

    /// Whether a call opens a tunnel.
    pub(crate) fn is_for<B>(request: &Request<B>) -> bool {
        request.uri().path() == runtime::tunnel::PATH
    }

    /// Opens a tunnel. How many there can be is a matter of the connection's streams.
    pub(crate) fn accept(&mut self, request: Request<h2::RecvStream>, respond: SendResponse) {
        match (self.check)(request.headers()) {
            Ok(()) => {
                let tunnel = tunnel::serve(self.offers.clone(), request, respond);
                self.tunnels.spawn(tunnel);
            }
            // Fails only when the caller has gone.
            Err(status) => drop(refuse(respond, &status)),
        }
    }

    /// Whether there is neither a tunnel nor what would use one.
    pub(crate) fn is_empty(&self) -> bool {
        self.tunnels.is_empty() && self.lines.is_empty()
    }

    /// Gives the session a connection when there are tunnels for one, and sees to what has ended. To be called again
    /// and again. Cancel-safe.
    pub(crate) async fn tend(&mut self) -> Tended {
        tokio::select! {
            Some(_) = self.tunnels.join_next() => {}
            Some(ended) = self.lines.join_next() => if !matches!(ended, Ok(LineEnd::Starved)) {
                return Tended::Over;
            },
            place = place(&self.offers, &self.incoming) => self.open_line(place),
        }
        Tended::GoesOn
    }

    fn open_line(&mut self, place: OwnedPermit<ByteStream>) {
        let (ours, sessions) = tokio::io::duplex(PIPE_BYTES);
        self.offers.line_opened();
        let line = line::serve(self.offers.clone(), ByteStream::boxed(ours), true);
        self.lines.spawn(line);
        place.send(ByteStream::boxed(sessions));
    }
}

/// Waits until there are tunnels that nobody uses, and the session takes a connection. Cancel-safe.
async fn place(offers: &Offers, incoming: &mpsc::Sender<ByteStream>) -> OwnedPermit<ByteStream> {
    offers.unused().await;
    match incoming.clone().reserve_owned().await {
        Ok(place) => place,
        // The agent stops.
        Err(_) => std::future::pending().await,
    }
}

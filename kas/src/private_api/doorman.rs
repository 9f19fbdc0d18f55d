//! Who is let into the private API, and which replica answers there.

use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, HeaderValue, Request, header::AUTHORIZATION};
use router::ReplicaId;
use runtime::grpc::{SendResponse, ok_trailers, refuse, response_headers};
use tokio::time::Instant;
use tonic::Status;

use super::tokens::{REUSE, Tokens};

/// The metadata of a question who answers here, instead of one for a tunnel.
pub(super) const SELF_TEST: &str = "kas-hop-self-test";
/// The metadata of its answer: the replica's name.
pub(super) const REPLICA: &str = "kas-hop-replica";

/// Tokens that are remembered: one of each of so many peers.
const REMEMBERED: usize = 64;

/// Stands at the door of a replica.
#[derive(Debug)]
pub(super) struct Doorman {
    id: ReplicaId,
    tokens: Arc<Tokens>,
    /// Tokens that were found good, each for as long as peers use one.
    good: Mutex<Vec<(HeaderValue, Instant)>>,
}

impl Doorman {
    /// The door of replica `id`; those who show such `tokens` may come in.
    pub(super) fn new(id: ReplicaId, tokens: Arc<Tokens>) -> Self {
        Self {
            id,
            tokens,
            good: Mutex::default(),
        }
    }

    /// Gives back the question if it is one for a tunnel, and asked by a peer.
    pub(super) fn admit(
        &self,
        request: &Request<h2::RecvStream>,
        mut respond: SendResponse,
    ) -> Option<SendResponse> {
        // Whoever is gone needs no answer.
        if let Err(status) = self.check(request.headers()) {
            let _ = refuse(respond, &status);
            return None;
        }
        if !request.headers().contains_key(SELF_TEST) {
            return Some(respond);
        }
        let mut response = response_headers();
        response.headers_mut().extend(ok_trailers());
        if let Ok(name) = HeaderValue::from_str(&self.id.to_string()) {
            response.headers_mut().insert(REPLICA, name);
        }
        let _ = respond.send_response(response, true);
        None
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), Status> {
        let nothing = HeaderValue::from_static("");
        let value = headers.get(AUTHORIZATION).unwrap_or(&nothing);
        let now = Instant::now();
        if self.remembers(value, now) {
            return Ok(());
        }
        self.tokens.check(value)?;
        self.remember(value.clone(), now);
        Ok(())
    }

    fn remembers(&self, value: &HeaderValue, now: Instant) -> bool {
        let good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        good.iter()
            .any(|(known, until)| now < *until && known == value)
    }

    fn remember(&self, value: HeaderValue, now: Instant) {
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        good.retain(|(_, until)| now < *until);
        if good.len() < REMEMBERED {
            good.push((value, now + REUSE));
        }
    }
}

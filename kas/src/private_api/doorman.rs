//! Who is let into the private API, and which replica answers there.

use std::sync::{Mutex, PoisonError};

use http::{HeaderMap, HeaderValue, Request, header::AUTHORIZATION};
use router::ReplicaId;
use runtime::{
    grpc::{SendResponse, ok_trailers, refuse, response_headers},
    jwt::{self, Secret},
};
use tokio::time::Instant;
use tonic::Status;

use super::{NAME, REUSE};

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
    secret: Secret,
    /// Tokens that were found good, each for as long as peers use one.
    good: Mutex<Vec<(HeaderValue, Instant)>>,
}

impl Doorman {
    /// The door of replica `id`; those who sign with `secret` may come in.
    pub(super) fn new(id: ReplicaId, secret: Secret) -> Self {
        Self {
            id,
            secret,
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
        let refused = || Status::unauthenticated("JWT validation failed");
        let value = headers.get(AUTHORIZATION).ok_or_else(refused)?;
        let now = Instant::now();
        if self.remembers(value, now) {
            return Ok(());
        }
        let token = value.to_str().ok();
        let token = token
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or_else(refused)?;
        jwt::verify(&self.secret, token, NAME, Some(NAME)).map_err(|error| {
            tracing::debug!(%error, "refused a peer");
            refused()
        })?;
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

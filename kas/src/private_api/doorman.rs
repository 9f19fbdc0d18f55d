//! Who is let into the private API, and which replica answers there.
//!
//! A connection begins with a greeting: whoever dials learns, proved by the secret that all replicas
//! share, which replica answers, and for whom tokens on this connection must be. Only then does it
//! show one. Whoever took over an address, or has lured a replica to one, learns nothing and has nothing
//! to show elsewhere.

use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, HeaderValue, Request, header::AUTHORIZATION};
use router::Owner;
use runtime::grpc::{SendResponse, ok_trailers, refuse, response_headers};
use tokio::time::Instant;
use tonic::Status;

use super::tokens::{Greeted, REUSE, Tokens};

/// The metadata of the question who answers here, instead of one for a tunnel: a nonce.
pub(super) const SELF_TEST: &str = "kas-hop-self-test";
/// The metadata of its answer: the replica's name.
pub(super) const REPLICA: &str = "kas-hop-replica";
/// The same: a nonce of the connection.
pub(super) const CONNECTION: &str = "kas-hop-connection";
/// The same: the proof that a replica has answered.
pub(super) const PROOF: &str = "kas-hop-proof";

/// Bytes of a nonce that is answered, at most.
const NONCE_BYTES: usize = 64;

/// Stands at the door of a replica.
#[derive(Debug)]
pub(super) struct Doorman {
    me: Owner,
    tokens: Arc<Tokens>,
}

/// A connection of somebody who may be a peer.
#[derive(Debug)]
pub struct Visitor {
    greeted: Greeted,
    /// The token that was found good last, for as long as peers use one.
    good: Mutex<Option<(HeaderValue, Instant)>>,
}

impl Doorman {
    /// The door of this replica; those who show such `tokens`, made for it, may come in.
    pub(super) fn new(me: Owner, tokens: Arc<Tokens>) -> Self {
        Self { me, tokens }
    }

    /// Somebody has connected.
    pub(super) fn visitor(&self) -> Visitor {
        Visitor {
            greeted: Greeted::new(&self.me.replica.to_string()),
            good: Mutex::default(),
        }
    }

    /// Gives back the question if it is one for a tunnel, and asked by a peer.
    pub(super) fn admit(
        &self,
        visitor: &Visitor,
        request: &Request<h2::RecvStream>,
        mut respond: SendResponse,
    ) -> Option<SendResponse> {
        // Whoever is gone needs no answer.
        if let Some(nonce) = request.headers().get(SELF_TEST) {
            let nonce = nonce.to_str().ok();
            let nonce = nonce.filter(|nonce| nonce.len() <= NONCE_BYTES);
            let _ = match nonce {
                Some(nonce) => respond
                    .send_response(self.introduce(visitor, nonce), true)
                    .map(drop),
                None => refuse(respond, &Status::invalid_argument("a nonce is too long")),
            };
            return None;
        }
        if let Err(status) = self.check(visitor, request.headers()) {
            let _ = refuse(respond, &status);
            return None;
        }
        Some(respond)
    }

    fn introduce(&self, visitor: &Visitor, nonce: &str) -> http::Response<()> {
        let greeted = &visitor.greeted;
        let mut response = response_headers();
        let headers = response.headers_mut();
        headers.extend(ok_trailers());
        for (name, value) in [
            (REPLICA, greeted.replica()),
            (CONNECTION, greeted.connection()),
            (PROOF, &self.tokens.proof(nonce, &self.me.url, greeted)),
        ] {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
        response
    }

    fn check(&self, visitor: &Visitor, headers: &HeaderMap) -> Result<(), Status> {
        let nothing = HeaderValue::from_static("");
        let value = headers.get(AUTHORIZATION).unwrap_or(&nothing);
        let now = Instant::now();
        let mut good = visitor.good.lock().unwrap_or_else(PoisonError::into_inner);
        let known = good.as_ref();
        if known.is_some_and(|(known, until)| now < *until && known == value) {
            return Ok(());
        }
        self.tokens.check(value, &visitor.greeted.audience())?;
        *good = Some((value.clone(), now + REUSE));
        Ok(())
    }
}

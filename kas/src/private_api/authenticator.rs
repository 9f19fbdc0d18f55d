//! Authenticates peers to this replica, and this replica to peers.
//!
//! A connection begins with a challenge: the dialling replica learns which replica answers, proved with
//! the secret that all replicas share, and the audience of tokens for this connection. Only then does it
//! send one. Whoever took over an address, or made a replica dial one, learns nothing that is valid
//! elsewhere.

use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, HeaderValue, Request, header::AUTHORIZATION};
use router::Owner;
use runtime::grpc::{SendResponse, ok_trailers, refuse, response_headers};
use tokio::time::Instant;
use tonic::Status;
use tracing::Span;

use super::{
    challenge::{CONNECTION, PROOF, PeerIdentity, REPLICA, SELF_TEST},
    tokens::{TOKEN_REUSE_TIMEOUT, Tokens},
};

/// Bytes of a challenge's nonce, at most.
const MAX_NONCE_BYTES: usize = 64;

/// Authenticates requests to this replica.
#[derive(Debug)]
pub(super) struct Authenticator {
    me: Owner,
    tokens: Arc<Tokens>,
}

/// The authentication state of one connection.
#[derive(Debug)]
pub struct Session {
    identity: PeerIdentity,
    /// The last valid token, for as long as peers reuse one.
    valid: Mutex<Option<(HeaderValue, Instant)>>,
}

impl Authenticator {
    /// Admits requests with such `tokens` that were made for this replica.
    pub(super) fn new(me: Owner, tokens: Arc<Tokens>) -> Self {
        Self { me, tokens }
    }

    /// The state of a new connection.
    pub(super) fn session(&self) -> Session {
        Session {
            identity: PeerIdentity::new(&self.me.replica.to_string()),
            valid: Mutex::default(),
        }
    }

    /// Gives the response channel back if the request is for a tunnel and its token is valid; answers anything else.
    pub(super) fn admit(
        &self,
        session: &Session,
        request: &Request<h2::RecvStream>,
        mut respond: SendResponse,
    ) -> Option<SendResponse> {
        // Sending fails only when the peer is gone.
        if let Some(nonce) = request.headers().get(SELF_TEST) {
            let nonce = nonce.to_str().ok();
            let nonce = nonce.filter(|nonce| nonce.len() <= MAX_NONCE_BYTES);
            let _ = match nonce {
                Some(nonce) => respond
                    .send_response(self.answer_challenge(session, nonce), true)
                    .map(drop),
                None => refuse(
                    respond,
                    &Status::invalid_argument("the nonce of a challenge is too long"),
                ),
            };
            return None;
        }
        if let Err(status) = self.check(session, request.headers()) {
            let _ = refuse(respond, &status);
            return None;
        }
        Some(respond)
    }

    fn answer_challenge(&self, session: &Session, nonce: &str) -> http::Response<()> {
        let identity = &session.identity;
        let mut response = response_headers();
        let headers = response.headers_mut();
        headers.extend(ok_trailers());
        for (name, value) in [
            (REPLICA, identity.replica()),
            (CONNECTION, identity.connection()),
            (PROOF, &self.tokens.proof(nonce, &self.me.url, identity)),
        ] {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
        response
    }

    fn check(&self, session: &Session, headers: &HeaderMap) -> Result<(), Status> {
        let nothing = HeaderValue::from_static("");
        let value = headers.get(AUTHORIZATION).unwrap_or(&nothing);
        let now = Instant::now();
        let mut valid = session.valid.lock().unwrap_or_else(PoisonError::into_inner);
        let known = valid.as_ref();
        if known.is_some_and(|(known, until)| now < *until && known == value) {
            return Ok(());
        }
        let peer = self.tokens.check(value, &session.identity.audience())?;
        if valid.is_none()
            && let Some(peer) = peer
        {
            Span::current().record("replica", peer);
        }
        *valid = Some((value.clone(), now + TOKEN_REUSE_TIMEOUT));
        Ok(())
    }
}

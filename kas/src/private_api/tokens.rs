//! The tokens with which replicas authenticate themselves to each other, also when their clocks differ.
//!
//! A token is valid for one connection to one replica, which has authenticated itself before. It is valid for
//! seconds by the verifier's clock. A replica whose clock differs is rejected with the verifier's time, signed,
//! and signs by that clock from then on. Only replicas can sign a time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderValue, Request, header::AUTHORIZATION};
use router::{
    ReplicaId,
    peers::{Challenge, Credentials},
};
use runtime::jwt::{self, JwtError, Secret};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tonic::Status;

use super::challenge::{ISSUER, PeerChallenge, PeerIdentity};

/// Purpose for which the key of proofs is derived from the shared secret.
const PROOF_KEY_PURPOSE: &str = "kas private api proof";
/// Audience of a signed time; it authenticates nothing.
const CLOCK_AUDIENCE: &str = "gitlab-kas-clock";
/// Metadata of a rejection: the verifier's signed time.
const CLOCK_METADATA: &str = "kas-hop-clock";
/// How long a token is reused, of the five seconds that it is valid for.
pub(super) const TOKEN_REUSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Difference between clocks that is ignored, in seconds.
const CLOCK_TOLERANCE_SECONDS: i64 = 1;
/// The age of a token that is too old for everybody: ten years.
const OUTDATED_SECONDS: i64 = 10 * 365 * 24 * 3600;
/// Peers with differing clocks that are remembered, at most.
const MAX_SKEWED_PEERS: usize = 64;

/// Signs and verifies tokens with the secret that all replicas share.
pub struct Tokens {
    secret: Secret,
    proofs: Secret,
    /// Whether tokens as of GitLab's kas are accepted, and made for replicas of it.
    unbound: bool,
    /// The replica that signs.
    signer: OnceLock<ReplicaId>,
    clock: fn() -> SystemTime,
    state: Mutex<State>,
}

/// What a token says besides the usual: the replica that signed it, for its peers' logs.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Signer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
}

#[derive(Default)]
struct State {
    /// Seconds that peers' clocks are ahead of this replica's, by URL, beyond the tolerance.
    ahead: HashMap<String, i64>,
    /// Recently signed tokens by audience. A header that stays the same for a while costs one byte on the
    /// wire.
    signed: HashMap<String, Signed>,
}

struct Signed {
    at: Instant,
    /// The clock difference that it was signed for.
    ahead: i64,
    headers: HeaderMap,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    /// Tokens of the replicas that share this secret.
    #[must_use]
    pub fn new(secret: Secret) -> Arc<Self> {
        Self::by(secret, SystemTime::now)
    }

    /// The same with another clock than the machine's.
    #[must_use]
    pub fn by(secret: Secret, clock: fn() -> SystemTime) -> Arc<Self> {
        Arc::new(Self::with(secret, false, clock))
    }

    /// Tokens as GitLab's kas accepts them, valid at every replica, for those that do not prove to be of ours; and both
    /// kinds are accepted.
    #[must_use]
    pub fn unbound(secret: Secret) -> Arc<Self> {
        Arc::new(Self::with(secret, true, SystemTime::now))
    }

    fn with(secret: Secret, unbound: bool, clock: fn() -> SystemTime) -> Self {
        Self {
            proofs: secret.derive(PROOF_KEY_PURPOSE),
            secret,
            unbound,
            signer: OnceLock::new(),
            clock,
            state: Mutex::default(),
        }
    }

    /// The proof that the replica published at `url` answers a challenge with this nonce.
    pub(super) fn proof(&self, nonce: &str, url: &str, identity: &PeerIdentity) -> String {
        let (replica, connection) = (identity.replica(), identity.connection());
        self.proofs.mac(&[nonce, url, replica, connection])
    }

    /// A challenge to the replica at `url`.
    pub(super) fn peer_challenge(&self, url: &str) -> PeerChallenge {
        PeerChallenge::new(self.proofs.clone(), url)
    }

    /// The secret that all replicas share.
    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Names the replica that signs, once. Tokens as GitLab's kas makes them name none.
    pub(super) fn sign_as(&self, replica: &ReplicaId) {
        // It is the same one each time.
        let _ = self.signer.set(replica.clone());
    }

    /// Verifies a peer's token on a connection of this audience. Returns the replica that signed it, if it says.
    ///
    /// # Errors
    /// The rejection; with this replica's time if only the token's time is wrong.
    pub(super) fn check(
        &self,
        credentials: &HeaderValue,
        audience: &str,
    ) -> Result<Option<String>, Status> {
        let token = credentials.to_str().ok();
        let Some(token) = token.and_then(|value| value.strip_prefix("Bearer ")) else {
            return Err(rejection());
        };
        let read = |audience| jwt::read::<Signer>(&self.secret, token, audience, Some(ISSUER));
        if self.unbound
            && let Ok(signer) = read(ISSUER)
        {
            return Ok(signer.sub);
        }
        let signer = read(audience).map_err(|error| {
            tracing::debug!(%error, "rejected the token of a peer");
            self.reject(&error)
        })?;
        Ok(signer.sub)
    }

    fn reject(&self, error: &JwtError) -> Status {
        let mut status = rejection();
        if error.is_about_time()
            && let Ok(time) = jwt::sign(&self.secret, ISSUER, CLOCK_AUDIENCE)
            && let Ok(time) = time.parse()
        {
            status.metadata_mut().insert(CLOCK_METADATA, time);
        }
        status
    }

    fn sign(&self, audience: &str, ahead: i64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let now = self.now().saturating_add_signed(ahead);
        let signer = Signer {
            sub: self
                .signer
                .get()
                .filter(|_| !self.unbound)
                .map(ToString::to_string),
        };
        if let Ok(token) = jwt::sign_at_with(&self.secret, ISSUER, audience, now, &signer)
            && let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}"))
        {
            headers.insert(AUTHORIZATION, value);
        }
        headers
    }

    /// A token that is too old for everybody, whoever's clock is wrong: its rejection tells the time.
    pub(super) fn outdated(&self, audience: &str) -> HeaderMap {
        self.sign(audience, -OUTDATED_SECONDS)
    }

    /// The time, in seconds since 1970, by the clock of the replica that has rejected a token for its age.
    pub(super) fn time_of(&self, rejection: &HeaderMap) -> Option<u64> {
        let signed = rejection.get(CLOCK_METADATA)?.to_str().ok()?;
        jwt::issued_at(&self.secret, signed, CLOCK_AUDIENCE, ISSUER).ok()
    }

    /// Seconds since 1970.
    fn now(&self) -> u64 {
        let since = (self.clock)().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| since.as_secs())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Credentials for Tokens {
    fn challenge(&self, url: &str) -> Option<Box<dyn Challenge>> {
        let challenge = self.peer_challenge(url);
        if self.unbound {
            return Some(Box::new(OptionalChallenge(challenge)));
        }
        Some(Box::new(challenge))
    }

    fn metadata(&self, url: &str, audience: &str) -> HeaderMap {
        let audience = if audience.is_empty() {
            ISSUER
        } else {
            audience
        };
        let mut state = self.state();
        let ahead = state.ahead.get(url).copied().unwrap_or_default();
        if let Some(signed) = state.signed.get(audience)
            && signed.ahead == ahead
            && signed.at.elapsed() < TOKEN_REUSE_TIMEOUT
        {
            return signed.headers.clone();
        }
        let headers = self.sign(audience, ahead);
        state
            .signed
            .retain(|_, signed| signed.at.elapsed() < TOKEN_REUSE_TIMEOUT);
        let signed = Signed {
            at: Instant::now(),
            ahead,
            headers: headers.clone(),
        };
        state.signed.insert(audience.to_owned(), signed);
        headers
    }

    fn rejected(&self, url: &str, rejection: &HeaderMap) -> bool {
        let Some(time) = self.time_of(rejection) else {
            return false;
        };
        let ahead = time.cast_signed().wrapping_sub(self.now().cast_signed());
        let before = self.state().learn(url, ahead);
        if before.abs_diff(ahead) > CLOCK_TOLERANCE_SECONDS.unsigned_abs() {
            report_clock(url, ahead);
        }
        true
    }
}

impl State {
    /// Remembers how far a peer's clock is ahead; returns what was known before.
    fn learn(&mut self, url: &str, ahead: i64) -> i64 {
        // Tokens may have been signed for another time.
        self.signed.clear();
        if self.ahead.len() >= MAX_SKEWED_PEERS {
            self.ahead.clear();
        }
        let before = self.ahead.remove(url).unwrap_or_default();
        if ahead.unsigned_abs() > CLOCK_TOLERANCE_SECONDS.unsigned_abs() {
            self.ahead.insert(url.to_owned(), ahead);
        }
        before
    }
}

/// A challenge that GitLab's kas, which does not know it, need not pass.
struct OptionalChallenge(PeerChallenge);

impl Challenge for OptionalChallenge {
    fn request(&self) -> Request<()> {
        self.0.request()
    }

    fn verify(&self, answer: &HeaderMap) -> Option<String> {
        Some(self.0.verify(answer).unwrap_or_default())
    }
}

fn report_clock(url: &str, ahead: i64) {
    if ahead.unsigned_abs() <= CLOCK_TOLERANCE_SECONDS.unsigned_abs() {
        return tracing::info!(
            peer = url,
            "clock of a peer agrees with this replica's again"
        );
    }
    tracing::warn!(
        peer = url,
        seconds_ahead = ahead,
        "clock of a peer differs from this replica's: replicas compensate for that, but certificates and other \
         tokens are checked by the wrong clock; synchronize the clocks (NTP)"
    );
}

fn rejection() -> Status {
    Status::unauthenticated("JWT validation failed")
}

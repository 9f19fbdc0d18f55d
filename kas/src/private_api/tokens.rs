//! The tokens by which replicas prove to each other who they are, whatever their clocks say.
//!
//! A token lives for seconds by the clock of who reads it. A replica whose clock differs is refused, and
//! told the time with it, signed: it signs by the other's clock from then on. Nobody without the secret can make it sign for another time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use router::peers::Credentials;
use runtime::jwt::{self, JwtError, Secret};
use tokio::time::Instant;
use tonic::Status;

/// Issuer and audience of the tokens between replicas, as GitLab's kas has it.
const NAME: &str = "gitlab-kas";
/// The audience of a word on the time: it opens no door.
const CLOCK_AUDIENCE: &str = "gitlab-kas-clock";
/// The metadata of a refusal that says what time it is there.
const CLOCK: &str = "kas-hop-clock";
/// How long a token is used, of the five seconds that it is valid for.
pub(super) const REUSE: Duration = Duration::from_secs(1);
/// Differences between clocks that matter to nobody, in seconds.
const CLOSE: i64 = 1;
/// Peers whose clocks differ that are remembered, at most.
const MOST: usize = 64;

/// Signs and checks with the secret that all replicas share.
pub struct Tokens {
    secret: Secret,
    clock: fn() -> SystemTime,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By how many seconds the clocks of peers are ahead of this one's, by URL, where they are not close.
    ahead: HashMap<String, i64>,
    /// What was signed lately, by such a difference. A header that stays the same for a while costs one
    /// byte on the wire.
    signed: HashMap<i64, (Instant, HeaderMap)>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    /// Tokens of those who share this secret.
    #[must_use]
    pub fn new(secret: Secret) -> Arc<Self> {
        Self::by(secret, SystemTime::now)
    }

    /// The same, signed by another clock than the machine's.
    #[must_use]
    pub fn by(secret: Secret, clock: fn() -> SystemTime) -> Arc<Self> {
        Arc::new(Self {
            secret,
            clock,
            state: Mutex::default(),
        })
    }

    /// The secret that all replicas share.
    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Checks what a peer proves itself with.
    ///
    /// # Errors
    /// The refusal; it says what time it is here if only that is wrong.
    pub(super) fn check(&self, credentials: &HeaderValue) -> Result<(), Status> {
        let token = credentials.to_str().ok();
        let Some(token) = token.and_then(|value| value.strip_prefix("Bearer ")) else {
            return Err(refusal());
        };
        jwt::verify(&self.secret, token, NAME, Some(NAME)).map_err(|error| {
            tracing::debug!(%error, "refused a peer");
            self.refuse(&error)
        })
    }

    fn refuse(&self, error: &JwtError) -> Status {
        let mut status = refusal();
        if error.is_about_time()
            && let Ok(word) = jwt::sign(&self.secret, NAME, CLOCK_AUDIENCE)
            && let Ok(word) = word.parse()
        {
            status.metadata_mut().insert(CLOCK, word);
        }
        status
    }

    fn sign(&self, ahead: i64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let now = self.now().saturating_add_signed(ahead);
        if let Ok(token) = jwt::sign_at(&self.secret, NAME, NAME, now)
            && let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}"))
        {
            headers.insert(AUTHORIZATION, value);
        }
        headers
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
    fn prove(&self, url: &str) -> HeaderMap {
        let mut state = self.state();
        let ahead = state.ahead.get(url).copied().unwrap_or_default();
        if let Some((signed_at, headers)) = state.signed.get(&ahead)
            && signed_at.elapsed() < REUSE
        {
            return headers.clone();
        }
        let headers = self.sign(ahead);
        state.signed.retain(|_, (at, _)| at.elapsed() < REUSE);
        state
            .signed
            .insert(ahead, (Instant::now(), headers.clone()));
        headers
    }

    fn refused(&self, url: &str, refusal: &HeaderMap) -> bool {
        let word = refusal.get(CLOCK).and_then(|word| word.to_str().ok());
        let time =
            word.and_then(|word| jwt::issued_at(&self.secret, word, CLOCK_AUDIENCE, NAME).ok());
        let Some(time) = time else {
            return false;
        };
        let ahead = time.cast_signed().wrapping_sub(self.now().cast_signed());
        let before = self.state().learn(url, ahead);
        if before.abs_diff(ahead) > CLOSE.unsigned_abs() {
            tell(url, ahead);
        }
        true
    }
}

impl State {
    /// Takes in how a peer's clock goes; gives what was thought before.
    fn learn(&mut self, url: &str, ahead: i64) -> i64 {
        // What was signed may be of a time before the clock was set.
        self.signed.clear();
        if self.ahead.len() >= MOST {
            self.ahead.clear();
        }
        let before = self.ahead.remove(url).unwrap_or_default();
        if ahead.unsigned_abs() > CLOSE.unsigned_abs() {
            self.ahead.insert(url.to_owned(), ahead);
        }
        before
    }
}

fn tell(url: &str, ahead: i64) {
    if ahead.unsigned_abs() <= CLOSE.unsigned_abs() {
        return tracing::info!(url, "the clocks of this replica and another agree again");
    }
    tracing::warn!(
        url,
        seconds = ahead,
        "the clock of another replica is so many seconds ahead of this one's: they go on talking to each other, but \
         one of the clocks is wrong, and certificates and tokens are judged by it; set it (NTP)"
    );
}

fn refusal() -> Status {
    Status::unauthenticated("JWT validation failed")
}

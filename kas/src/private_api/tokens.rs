//! The tokens by which replicas prove to each other who they are, whatever their clocks say.
//!
//! A token is for one connection to one replica, which has proved to be one before: it is of no use elsewhere.
//! It lives for seconds by the clock of who reads it. A replica whose clock differs is refused, and
//! told the time with it, signed: it signs by the other's clock from then on. Nobody without the secret can make it sign for another time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header::AUTHORIZATION};
use router::peers::{Credentials, Greeting};
use runtime::jwt::{self, JwtError, Secret};
use tokio::time::Instant;
use tonic::Status;

use super::doorman::{CONNECTION, PROOF, REPLICA, SELF_TEST};

/// Issuer of the tokens between replicas, and their audience where they are good at every replica, as GitLab's
/// kas has it.
const NAME: &str = "gitlab-kas";
/// What the secret for proofs is derived for.
const PROOFS: &str = "kas private api proof";
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
    proofs: Secret,
    /// Whether they are made and taken as GitLab's kas does.
    unbound: bool,
    clock: fn() -> SystemTime,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By how many seconds the clocks of peers are ahead of this one's, by URL, where they are not close.
    ahead: HashMap<String, i64>,
    /// What was signed lately, by its audience. A header that stays the same for a while costs one byte
    /// on the wire.
    signed: HashMap<String, Signed>,
}

struct Signed {
    at: Instant,
    /// For a clock that is so many seconds ahead.
    ahead: i64,
    headers: HeaderMap,
}

/// A replica, and a connection to it.
#[derive(Debug, Clone)]
pub(super) struct Greeted {
    replica: String,
    connection: String,
}

impl Greeted {
    /// A new connection to the replica of this name.
    pub(super) fn new(replica: &str) -> Self {
        Self {
            replica: replica.to_owned(),
            connection: nonce(),
        }
    }

    /// What the metadata of an answer say.
    fn of(answer: &HeaderMap) -> Option<Self> {
        let text = |name| Some(answer.get(name)?.to_str().ok()?.to_owned());
        Some(Self {
            replica: text(REPLICA)?,
            connection: text(CONNECTION)?,
        })
    }

    pub(super) fn replica(&self) -> &str {
        &self.replica
    }

    pub(super) fn connection(&self) -> &str {
        &self.connection
    }

    /// For whom tokens on the connection are.
    pub(super) fn audience(&self) -> String {
        format!("{NAME} {} {}", self.replica, self.connection)
    }
}

fn nonce() -> String {
    format!("{:032x}", rand::random::<u128>())
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
        Arc::new(Self::with(secret, false, clock))
    }

    /// Tokens as GitLab's kas makes and takes them: one is good at every replica, and no replica proves anything.
    #[must_use]
    pub fn unbound(secret: Secret) -> Arc<Self> {
        Arc::new(Self::with(secret, true, SystemTime::now))
    }

    fn with(secret: Secret, unbound: bool, clock: fn() -> SystemTime) -> Self {
        Self {
            proofs: secret.derive(PROOFS),
            secret,
            unbound,
            clock,
            state: Mutex::default(),
        }
    }

    /// What only a replica can say that is published at `url`, to whoever asks with this nonce.
    pub(super) fn proof(&self, nonce: &str, url: &str, greeted: &Greeted) -> String {
        let (replica, connection) = (greeted.replica(), greeted.connection());
        self.proofs.mac(&[nonce, url, replica, connection])
    }

    /// The secret that all replicas share.
    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Checks what a peer proves itself with on a connection of this audience.
    ///
    /// # Errors
    /// The refusal; it says what time it is here if only that is wrong.
    pub(super) fn check(&self, credentials: &HeaderValue, audience: &str) -> Result<(), Status> {
        let token = credentials.to_str().ok();
        let Some(token) = token.and_then(|value| value.strip_prefix("Bearer ")) else {
            return Err(refusal());
        };
        let verify = |audience| jwt::verify(&self.secret, token, audience, Some(NAME));
        if self.unbound && verify(NAME).is_ok() {
            return Ok(());
        }
        verify(audience).map_err(|error| {
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

    fn sign(&self, audience: &str, ahead: i64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let now = self.now().saturating_add_signed(ahead);
        if let Ok(token) = jwt::sign_at(&self.secret, NAME, audience, now)
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
    fn greet(&self, url: &str) -> Option<Box<dyn Greeting>> {
        if self.unbound {
            return None;
        }
        Some(Box::new(Question::new(self, url)))
    }

    fn prove(&self, url: &str, audience: &str) -> HeaderMap {
        let audience = if audience.is_empty() { NAME } else { audience };
        let mut state = self.state();
        let ahead = state.ahead.get(url).copied().unwrap_or_default();
        if let Some(signed) = state.signed.get(audience)
            && signed.ahead == ahead
            && signed.at.elapsed() < REUSE
        {
            return signed.headers.clone();
        }
        let headers = self.sign(audience, ahead);
        state.signed.retain(|_, signed| signed.at.elapsed() < REUSE);
        let signed = Signed {
            at: Instant::now(),
            ahead,
            headers: headers.clone(),
        };
        state.signed.insert(audience.to_owned(), signed);
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

/// The question who answers at a URL, which tells whoever answers nothing.
pub(super) struct Question {
    proofs: Secret,
    nonce: String,
    url: String,
}

impl Question {
    pub(super) fn new(tokens: &Tokens, url: &str) -> Self {
        Self {
            proofs: tokens.proofs.clone(),
            nonce: nonce(),
            url: url.to_owned(),
        }
    }

    /// Which replica has answered, and proved to be one that is published there.
    pub(super) fn answered_by(&self, answer: &HeaderMap) -> Option<Greeted> {
        let greeted = Greeted::of(answer)?;
        let proof = answer.get(PROOF)?.to_str().ok()?;
        let said = [
            &self.nonce,
            &self.url,
            greeted.replica(),
            greeted.connection(),
        ];
        self.proofs.is_mac(&said, proof).then_some(greeted)
    }
}

impl Greeting for Question {
    fn question(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = Uri::from_static("http://kas/kas.PrivateApi/SelfTest");
        let headers = request.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        if let Ok(nonce) = HeaderValue::from_str(&self.nonce) {
            headers.insert(SELF_TEST, nonce);
        }
        request
    }

    fn audience(&self, answer: &HeaderMap) -> Option<String> {
        Some(self.answered_by(answer)?.audience())
    }
}

fn refusal() -> Status {
    Status::unauthenticated("JWT validation failed")
}

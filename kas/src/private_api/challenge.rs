//! The challenge with which a replica authenticates itself on a connection.

use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use router::peers::Challenge;
use runtime::jwt::Secret;

/// Issuer of the tokens between replicas, and their audience where they are valid at every replica, as with
/// GitLab's kas.
pub(super) const ISSUER: &str = "gitlab-kas";
/// Metadata of a challenge, which comes instead of a request for a tunnel: a nonce.
pub(super) const SELF_TEST: &str = "kas-hop-self-test";
/// Metadata of the answer: the replica's id.
pub(super) const REPLICA: &str = "kas-hop-replica";
/// Metadata of the answer: a nonce of the connection.
pub(super) const CONNECTION: &str = "kas-hop-connection";
/// Metadata of the answer: the proof.
pub(super) const PROOF: &str = "kas-hop-proof";

/// The identity of a replica on one connection.
#[derive(Debug, Clone)]
pub(super) struct PeerIdentity {
    replica: String,
    connection: String,
}

impl PeerIdentity {
    /// A new connection to the replica of this name.
    pub(super) fn new(replica: &str) -> Self {
        Self {
            replica: replica.to_owned(),
            connection: nonce(),
        }
    }

    /// The identity in the metadata of an answer.
    fn read(answer: &HeaderMap) -> Option<Self> {
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

    /// The audience of tokens on the connection.
    pub(super) fn audience(&self) -> String {
        format!("{ISSUER} {} {}", self.replica, self.connection)
    }
}

fn nonce() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// A challenge to whoever answers at a URL. It reveals nothing.
pub(super) struct PeerChallenge {
    /// Verifies proofs.
    proofs: Secret,
    nonce: String,
    url: String,
}

impl PeerChallenge {
    pub(super) fn new(proofs: Secret, url: &str) -> Self {
        Self {
            proofs,
            nonce: nonce(),
            url: url.to_owned(),
        }
    }

    /// The replica that has answered, if it proved that it is published at the URL.
    pub(super) fn identify(&self, answer: &HeaderMap) -> Option<PeerIdentity> {
        let identity = PeerIdentity::read(answer)?;
        let proof = answer.get(PROOF)?.to_str().ok()?;
        let message = [
            &self.nonce,
            &self.url,
            identity.replica(),
            identity.connection(),
        ];
        self.proofs.is_mac(&message, proof).then_some(identity)
    }
}

impl Challenge for PeerChallenge {
    fn request(&self) -> Request<()> {
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

    fn verify(&self, answer: &HeaderMap) -> Option<String> {
        Some(self.identify(answer)?.audience())
    }
}

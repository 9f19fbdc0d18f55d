//! What kas shows an agent that it dials: a token of its own for each call, a certificate, or both.

use control_plane::{Material, MaterialError, Proof, ReceptiveAgent};
use http::{HeaderMap, HeaderValue, header};
use runtime::{
    connect::Target,
    jwt::{JwtError, SigningKey},
    tls::{ClientTls, ClientTlsOptions, PemPair},
};

use super::dial_error::DialError;

/// `iss` and `aud` of the tokens that kas shows.
const ISSUER: &str = "gitlab-kas";
const AUDIENCE: &str = "gitlab-agent";

/// Signs the tokens of one connection.
pub(super) struct Credentials {
    key: Option<SigningKey>,
    user_agent: HeaderValue,
}

impl Credentials {
    pub(super) async fn read(proof: &Proof, user_agent: &str) -> Result<Self, DialError> {
        let key = match &proof.jwt {
            Some(key) => Some(SigningKey::parse(&read(key).await?)?),
            None => None,
        };
        let user_agent = HeaderValue::from_str(user_agent).expect("the version is plain text");
        Ok(Self { key, user_agent })
    }

    /// The metadata of the next call: its token is good for five seconds.
    pub(super) fn metadata(&self) -> Result<HeaderMap, JwtError> {
        let mut metadata = HeaderMap::new();
        metadata.insert(header::USER_AGENT, self.user_agent.clone());
        if let Some(key) = &self.key {
            let token = key.sign(ISSUER, AUDIENCE)?;
            let bearer = HeaderValue::from_str(&format!("Bearer {token}"));
            let mut bearer = bearer.expect("a token is plain text");
            bearer.set_sensitive(true);
            metadata.insert(header::AUTHORIZATION, bearer);
        }
        Ok(metadata)
    }
}

/// TLS to the agent; `None` where its URL is without.
pub(super) async fn tls(
    agent: &ReceptiveAgent,
    target: &Target,
) -> Result<Option<ClientTls>, DialError> {
    let certificate = &agent.proof.certificate;
    if !target.scheme().is_tls() {
        return match certificate {
            None => Ok(None),
            Some(_) => Err(DialError::Material(
                "a certificate can only be shown to a grpcs:// or wss:// URL".to_owned(),
            )),
        };
    }
    let mut options = ClientTlsOptions {
        server_name: agent.server_name.clone(),
        ..ClientTlsOptions::default()
    };
    if let Some(ca) = &agent.ca {
        options.ca_pem = Some(read(ca).await?);
    }
    if let Some(shown) = certificate {
        options.identity_pem = Some(PemPair {
            certificate: read(&shown.certificate).await?,
            key: read(&shown.key).await?,
        });
    }
    Ok(Some(ClientTls::load(&options)?))
}

async fn read(material: &Material) -> Result<std::sync::Arc<str>, DialError> {
    let unreadable = |error: MaterialError| DialError::Material(error.to_string());
    material.read().await.map_err(unreadable)
}

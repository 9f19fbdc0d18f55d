//! An OpenID provider, as a client asks it: discovery, then OAuth 2.0.

use std::{path::PathBuf, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use control_plane::standalone::issuers::insecure;
use http::Request;
use oauth2::{
    AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, DeviceAuthorizationUrl,
    EndpointMaybeSet, EndpointNotSet, EndpointSet, ErrorResponse, ExtraTokenFields, HttpRequest,
    HttpResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RefreshToken,
    RequestTokenError, Scope, StandardDeviceAuthorizationResponse, StandardErrorResponse,
    StandardRevocableToken, StandardTokenResponse, TokenResponse, TokenUrl,
    basic::{
        BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse,
        BasicTokenType,
    },
};
use runtime::{
    connect::{ConnectOptions, ExchangeError, exchange},
    tls::{ClientTls, ClientTlsOptions},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{super::Output, LoginError};
use crate::cli::CommandError;

const ISSUER: &str = "the issuer";
/// How long the issuer may take for one answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
const ANSWER_MAX_BYTES: usize = 1 << 20;

/// As whom an issuer is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct Client {
    /// The issuer.
    pub(in super::super) issuer: String,
    /// The client's id.
    #[serde(rename = "client_id")]
    pub(in super::super) id: String,
    /// A file with its secret, where it has one.
    #[serde(rename = "client_secret_file")]
    pub(in super::super) secret_file: Option<PathBuf>,
    /// A CA of the issuer besides the system's.
    #[serde(rename = "issuer_ca_file")]
    pub(in super::super) ca_file: Option<PathBuf>,
}

/// What a login gives.
pub(in super::super) struct Tokens {
    pub(in super::super) id_token: String,
    pub(in super::super) refresh_token: Option<String>,
}

/// Where a person is sent, and what belongs to the answer.
pub(super) struct Question {
    pub(super) url: String,
    pub(super) state: CsrfToken,
    nonce: CsrfToken,
    verifier: PkceCodeVerifier,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
struct IdToken {
    id_token: Option<String>,
}

impl ExtraTokenFields for IdToken {}

type Answer = StandardTokenResponse<IdToken, BasicTokenType>;
type OAuth = oauth2::Client<
    BasicErrorResponse,
    Answer,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointSet,
    EndpointMaybeSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    device_authorization_endpoint: Option<String>,
}

/// A provider whose document was read.
pub(in super::super) struct Provider {
    client: Client,
    oauth: OAuth,
    options: ConnectOptions,
}

impl Provider {
    /// Reads the provider's document.
    ///
    /// # Errors
    /// When it cannot be had, or is another's.
    pub(in super::super) async fn discover(client: Client) -> Result<Self, LoginError> {
        let options = options(client.ca_file.clone())?;
        let base = client.issuer.strip_suffix('/').unwrap_or(&client.issuer);
        let url = secure("URL", format!("{base}/.well-known/openid-configuration"))?;
        let document: Discovery = get(ISSUER, &url, None, &options).await?;
        if document.issuer != client.issuer {
            return Err(LoginError::Answer {
                what: ISSUER,
                why: format!("its document is that of {}", document.issuer),
            });
        }
        let parsed = |name, error: oauth2::url::ParseError| LoginError::Endpoint {
            name,
            why: error.to_string(),
        };
        let authorization = secure("authorization_endpoint", document.authorization_endpoint)?;
        let authorization = AuthUrl::new(authorization);
        let token = TokenUrl::new(secure("token_endpoint", document.token_endpoint)?);
        let device = document.device_authorization_endpoint;
        let device = device.map(|url| {
            let name = "device_authorization_endpoint";
            let url = DeviceAuthorizationUrl::new(secure(name, url)?);
            url.map_err(|error| parsed(name, error))
        });
        let mut oauth = oauth2::Client::new(ClientId::new(client.id.clone()))
            .set_auth_uri(authorization.map_err(|error| parsed("authorization_endpoint", error))?)
            .set_token_uri(token.map_err(|error| parsed("token_endpoint", error))?)
            .set_device_authorization_url_option(device.transpose()?);
        if let Some(file) = &client.secret_file {
            let secret = std::fs::read_to_string(file).map_err(|error| LoginError::Io {
                attempt: format!("read the client's secret {}", file.display()),
                error,
            })?;
            oauth = oauth.set_client_secret(ClientSecret::new(secret.trim().to_owned()));
        }
        Ok(Self {
            client,
            oauth,
            options,
        })
    }

    /// As whom it is asked.
    pub(in super::super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Where a person is sent to log in and come back to `redirect`.
    pub(super) fn question(
        &self,
        scopes: &[String],
        redirect: &str,
    ) -> Result<Question, LoginError> {
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let nonce = CsrfToken::new_random();
        let redirect = redirect_url(redirect)?;
        let (url, state) = self
            .oauth
            .authorize_url(CsrfToken::new_random)
            .add_scopes(scopes.iter().cloned().map(Scope::new))
            .add_extra_param("nonce", nonce.secret())
            .set_pkce_challenge(challenge)
            .set_redirect_uri(std::borrow::Cow::Owned(redirect))
            .url();
        Ok(Question {
            url: url.into(),
            state,
            nonce,
            verifier,
        })
    }

    /// The tokens for a code.
    pub(super) async fn exchange_code(
        &self,
        code: String,
        question: Question,
        redirect: String,
    ) -> Result<Tokens, LoginError> {
        let http = |request| self.send(request);
        let answer = self
            .oauth
            .exchange_code(AuthorizationCode::new(code))
            .set_pkce_verifier(question.verifier)
            .set_redirect_uri(std::borrow::Cow::Owned(redirect_url(&redirect)?))
            .request_async(&http)
            .await;
        let tokens = tokens(answer)?;
        #[derive(Deserialize)]
        struct Nonce {
            nonce: Option<String>,
        }
        let Nonce { nonce } = claims(&tokens.id_token)?;
        if nonce.as_deref() != Some(question.nonce.secret()) {
            return Err(LoginError::Answer {
                what: ISSUER,
                why: "its ID token is the answer to another login".to_owned(),
            });
        }
        Ok(tokens)
    }

    /// Logs in with a code on another device.
    pub(super) async fn by_device(
        &self,
        scopes: &[String],
        output: &mut Output<'_>,
    ) -> Result<Tokens, CommandError> {
        let http = |request| self.send(request);
        let question = self.oauth.exchange_device_code();
        let question = question.map_err(LoginError::NoDeviceFlow)?;
        let details = question
            .add_scopes(scopes.iter().cloned().map(Scope::new))
            .request_async(&http)
            .await;
        let details: StandardDeviceAuthorizationResponse = details.map_err(refused)?;
        output.hint(&format!(
            "Open {} on any device and enter the code {}.",
            details.verification_uri().as_str(),
            details.user_code().secret()
        ))?;
        let answer = self
            .oauth
            .exchange_device_access_token(&details)
            .request_async(&http, tokio::time::sleep, None)
            .await;
        Ok(tokens(answer)?)
    }

    /// New tokens for a refresh token.
    pub(in super::super) async fn refresh(&self, token: &str) -> Result<Tokens, LoginError> {
        let http = |request| self.send(request);
        let token = RefreshToken::new(token.to_owned());
        let answer = self.oauth.exchange_refresh_token(&token);
        tokens(answer.request_async(&http).await)
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, ExchangeError> {
        let request = request.map(Bytes::from);
        let answer = exchange(request, &self.options, ANSWER_MAX_BYTES).await?;
        Ok(answer.map(|body| body.to_vec()))
    }
}

/// How servers are asked that show a certificate of this CA, or of the system's.
pub(super) fn options(ca_file: Option<PathBuf>) -> Result<ConnectOptions, LoginError> {
    let tls = ClientTls::load(&ClientTlsOptions {
        ca_files: ca_file.into_iter().collect(),
        ..ClientTlsOptions::default()
    })?;
    Ok(ConnectOptions {
        tls: Some(tls),
        timeout: REQUEST_TIMEOUT,
        ..ConnectOptions::default()
    })
}

/// Reads JSON.
pub(super) async fn get<T: DeserializeOwned>(
    what: &'static str,
    url: &str,
    bearer: Option<&str>,
    options: &ConnectOptions,
) -> Result<T, LoginError> {
    let unreadable = |why: String| LoginError::Answer { what, why };
    let mut request = Request::get(url).header("accept", "application/json");
    if let Some(bearer) = bearer {
        request = request.header("authorization", format!("Bearer {bearer}"));
    }
    let request = request.body(Bytes::new());
    let request = request.map_err(|error| unreadable(error.to_string()))?;
    let answer = exchange(request, options, ANSWER_MAX_BYTES).await;
    let answer = answer.map_err(|error| LoginError::Exchange { what, error })?;
    if !answer.status().is_success() {
        #[derive(Deserialize)]
        struct Status {
            message: String,
        }
        let status: Option<Status> = serde_json::from_slice(answer.body()).ok();
        let words = status.map_or_else(|| answer.status().to_string(), |it| it.message);
        return Err(LoginError::Refused { what, words });
    }
    serde_json::from_slice(answer.body()).map_err(|error| unreadable(error.to_string()))
}

/// What a token says, which is not checked: it came from its issuer over TLS, and kas checks it.
pub(super) fn claims<T: DeserializeOwned>(token: &str) -> Result<T, LoginError> {
    let payload = token.split('.').nth(1).unwrap_or_default();
    let payload = URL_SAFE_NO_PAD.decode(payload).unwrap_or_default();
    serde_json::from_slice(&payload).map_err(|error| LoginError::Answer {
        what: ISSUER,
        why: format!("its ID token: {error}"),
    })
}

fn secure(name: &'static str, url: String) -> Result<String, LoginError> {
    match insecure(&url) {
        None => Ok(url),
        Some(why) => Err(LoginError::Endpoint { name, why }),
    }
}

fn redirect_url(url: &str) -> Result<RedirectUrl, LoginError> {
    RedirectUrl::new(url.to_owned()).map_err(|error| LoginError::Endpoint {
        name: "redirect URL",
        why: error.to_string(),
    })
}

fn tokens<E>(
    answer: Result<Answer, RequestTokenError<ExchangeError, E>>,
) -> Result<Tokens, LoginError>
where
    E: ErrorResponse + Words + 'static,
{
    let answer = answer.map_err(refused)?;
    let refresh_token = answer.refresh_token().map(|it| it.secret().clone());
    let id_token = answer.extra_fields().id_token.clone();
    let id_token = id_token.ok_or_else(|| LoginError::Answer {
        what: ISSUER,
        why: "there is no ID token in it".to_owned(),
    })?;
    Ok(Tokens {
        id_token,
        refresh_token,
    })
}

/// What an issuer says that refuses.
trait Words {
    fn words(&self) -> String;
}

impl<T: oauth2::ErrorResponseType> Words for StandardErrorResponse<T>
where
    Self: std::fmt::Display,
{
    fn words(&self) -> String {
        self.to_string()
    }
}

fn refused<E>(error: RequestTokenError<ExchangeError, E>) -> LoginError
where
    E: ErrorResponse + Words + 'static,
{
    match error {
        RequestTokenError::ServerResponse(response) => LoginError::Refused {
            what: ISSUER,
            words: response.words(),
        },
        RequestTokenError::Request(error) => LoginError::Exchange {
            what: ISSUER,
            error,
        },
        RequestTokenError::Parse(error, _) => LoginError::Answer {
            what: ISSUER,
            why: error.to_string(),
        },
        RequestTokenError::Other(why) => LoginError::Answer { what: ISSUER, why },
    }
}

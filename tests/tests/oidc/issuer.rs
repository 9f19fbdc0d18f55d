//! A small issuer of ID tokens: its keys are the test's to choose, and it counts who asks for them.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// A key that signs.
pub(crate) struct Key {
    id: String,
    signing: EncodingKey,
    public: Value,
}

/// The issuer; dropping it stops it.
pub(crate) struct Issuer {
    pub(crate) url: String,
    state: Arc<State>,
    _serving: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct State {
    url: String,
    keys: Mutex<Vec<Value>>,
    away: AtomicBool,
    asked: AtomicUsize,
}

impl Key {
    pub(crate) fn new(id: &str) -> Result<Self> {
        let signing = EncodingKey::from_ec_der(&KeyPair::generate()?.serialize_der());
        let mut jwk = Jwk::from_encoding_key(&signing, Algorithm::ES256)?;
        jwk.common.key_id = Some(id.to_owned());
        Ok(Self {
            id: id.to_owned(),
            signing,
            public: serde_json::to_value(jwk)?,
        })
    }

    /// A token with these claims.
    pub(crate) fn sign(&self, claims: &Value) -> Result<String> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.id.clone());
        Ok(jsonwebtoken::encode(&header, claims, &self.signing)?)
    }

    /// The same signed as if what is public were a shared secret.
    pub(crate) fn confused(&self, claims: &Value) -> Result<String> {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(self.id.clone());
        let secret = EncodingKey::from_secret(self.public.to_string().as_bytes());
        Ok(jsonwebtoken::encode(&header, claims, &secret)?)
    }

    /// The same without a signature.
    pub(crate) fn unsigned(&self, claims: &Value) -> String {
        let header = json!({"alg": "none", "typ": "JWT", "kid": self.id});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", part(&header), part(claims))
    }
}

impl Issuer {
    /// Starts it with one key.
    pub(crate) async fn start(key: &Key) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://127.0.0.1:{}", listener.local_addr()?.port());
        let state = Arc::new(State {
            url: url.clone(),
            ..State::default()
        });
        let serving = tokio::spawn(serve(listener, state.clone()));
        let issuer = Self {
            url,
            state,
            _serving: AbortOnDropHandle::new(serving),
        };
        issuer.publish(&[key]);
        Ok(issuer)
    }

    /// Publishes these keys from now on.
    pub(crate) fn publish(&self, keys: &[&Key]) {
        let mut published = self
            .state
            .keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *published = keys.iter().map(|key| key.public.clone()).collect();
    }

    /// Answers nothing but 503 from now on.
    pub(crate) fn go_away(&self) {
        self.state.away.store(true, Ordering::Relaxed);
    }

    /// How often somebody asked, for the document or for keys.
    pub(crate) fn asked(&self) -> usize {
        self.state.asked.load(Ordering::Relaxed)
    }

    /// Good claims of a person, with these in place of them.
    pub(crate) fn claims(&self, other: &Value) -> Result<Value> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let mut claims = json!({
            "iss": self.url,
            "aud": "kas",
            "exp": now + 600,
            "iat": now,
            "sub": "id-1",
            "email": "alice@example.com",
            "email_verified": true,
            "groups": ["people", "ops team"],
        });
        let all = claims.as_object_mut().context("claims are an object")?;
        for (name, value) in other.as_object().into_iter().flatten() {
            all.insert(name.clone(), value.clone());
        }
        all.retain(|_, value| !value.is_null());
        Ok(claims)
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    while let Ok((socket, _)) = listener.accept().await {
        let state = state.clone();
        let service = service_fn(move |request| {
            let answer = answer(&request, &state);
            async move { Ok::<_, Infallible>(answer) }
        });
        let connection = hyper::server::conn::http1::Builder::new();
        tokio::spawn(connection.serve_connection(TokioIo::new(socket), service));
    }
}

fn answer(request: &Request<Incoming>, state: &State) -> Response<Full<Bytes>> {
    state.asked.fetch_add(1, Ordering::Relaxed);
    let body = match request.uri().path() {
        _ if state.away.load(Ordering::Relaxed) => None,
        "/.well-known/openid-configuration" => {
            Some(json!({"issuer": state.url, "jwks_uri": format!("{}/keys", state.url)}))
        }
        "/keys" => {
            let keys = state.keys.lock().unwrap_or_else(PoisonError::into_inner);
            Some(json!({"keys": *keys}))
        }
        _ => None,
    };
    let status = match body {
        Some(_) => StatusCode::OK,
        None => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = Response::new(Full::from(body.unwrap_or_default().to_string()));
    *response.status_mut() = status;
    response
}

//! Where requests go and what they say; and connections to there.

use std::sync::Arc;

use anyhow::{Context, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use http_body_util::{Either, Full};
use runtime::tls::{self, ClientTls, ClientTlsOptions};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Options, USERS};
use crate::{body::Body, content, http_body::Sending};

/// A connection, in clear or in TLS.
pub(super) type Io = tokio_util::either::Either<TcpStream, TlsStream<TcpStream>>;
/// A request's body.
pub(super) type RequestBody = Either<Full<Bytes>, Sending>;

/// The URL, taken apart once.
#[derive(Debug)]
pub(super) struct Target {
    address: (String, u16),
    path: Uri,
    host: HeaderValue,
    tls: Option<Tls>,
    bearer: Bearer,
    post: Option<u64>,
    upgrade: bool,
}

struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish()
    }
}

/// The `Authorization` header.
enum Bearer {
    None,
    Same(HeaderValue),
    /// One for each agent, in turn.
    Each(Vec<HeaderValue>),
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer")
    }
}

impl Target {
    pub(super) fn new(options: &Options) -> anyhow::Result<Self> {
        let url: Uri = options
            .url()
            .parse()
            .with_context(|| format!("{:?} is no URL", options.url()))?;
        let is_tls = match url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) | None => bail!("{url} must begin with http:// or https://"),
        };
        let authority = url.authority().context("the URL has no host")?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let port = authority
            .port_u16()
            .unwrap_or(if is_tls { 443 } else { 80 });
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            host: HeaderValue::try_from(authority.as_str())?,
            path: path.parse()?,
            tls: is_tls.then(|| Tls::new(options, &host)).transpose()?,
            address: (host, port),
            bearer: Bearer::new(options)?,
            post: options.post,
            upgrade: options.exec.is_some(),
        })
    }

    pub(super) fn path(&self) -> &str {
        self.path.path()
    }

    pub(super) fn request(&self, number: u64) -> Request<RequestBody> {
        let (method, body) = match self.post {
            None => (Method::GET, Either::Left(Full::default())),
            Some(length) => (Method::POST, self.body(length)),
        };
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = self.path.clone();
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.host.clone());
        if let Some(bearer) = self.bearer.of(number) {
            headers.insert(header::AUTHORIZATION, bearer);
        }
        if self.upgrade {
            headers.extend(upgrade());
        }
        request
    }

    fn body(&self, length: u64) -> RequestBody {
        match usize::try_from(length) {
            Ok(short) if short <= content::MAX_PIECE_BYTES => {
                Either::Left(Full::new(content::pattern(0, short)))
            }
            Ok(_) | Err(_) => Either::Right(Sending::new(Body::pattern(length))),
        }
    }

    pub(super) async fn connect(&self) -> std::io::Result<Io> {
        let (host, port) = &self.address;
        let tcp = TcpStream::connect((host.as_str(), *port)).await?;
        tcp.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Io::Left(tcp)),
            Some(Tls { connector, name }) => {
                connector.connect(name.clone(), tcp).await.map(Io::Right)
            }
        }
    }
}

/// The headers that ask for a WebSocket.
fn upgrade() -> HeaderMap {
    let key = STANDARD.encode(rand::random::<[u8; 16]>());
    let key = HeaderValue::try_from(key).expect("base64 is text");
    HeaderMap::from_iter([
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (
            header::SEC_WEBSOCKET_VERSION,
            HeaderValue::from_static("13"),
        ),
        (header::SEC_WEBSOCKET_KEY, key),
    ])
}

impl Tls {
    fn new(options: &Options, host: &str) -> anyhow::Result<Self> {
        let tls = ClientTls::load(&ClientTlsOptions {
            only_ca_files: options.ca_cert_file.is_some(),
            ca_files: options.ca_cert_file.iter().cloned().collect(),
            ..Default::default()
        })?;
        Ok(Self {
            connector: TlsConnector::from(Arc::clone(&tls.config(&[tls::HTTP_1_1]))),
            name: tls.server_name(host)?,
        })
    }
}

impl Bearer {
    fn new(options: &Options) -> anyhow::Result<Self> {
        let Some(template) = &options.bearer else {
            return Ok(Self::None);
        };
        let value = |token: &str| -> anyhow::Result<HeaderValue> {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))?;
            value.set_sensitive(true);
            Ok(value)
        };
        match options.agents {
            None => Ok(Self::Same(value(template)?)),
            Some((first, last)) => (first..=last)
                .map(|agent| {
                    let token = template.replace("{agent}", &agent.to_string());
                    value(&token.replace("{user}", &(agent % USERS).to_string()))
                })
                .collect::<Result<_, _>>()
                .map(Self::Each),
        }
    }

    fn of(&self, number: u64) -> Option<HeaderValue> {
        match self {
            Self::None => None,
            Self::Same(value) => Some(value.clone()),
            Self::Each(values) => {
                let index = number % values.len() as u64;
                values.get(usize::try_from(index).ok()?).cloned()
            }
        }
    }
}

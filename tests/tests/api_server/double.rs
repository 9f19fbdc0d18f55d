//! An API server that speaks HTTP/2 and gives trouble, as the path says.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Result;
use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{Request, Response};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::json;
use tests::{certs::Certs, ports};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::aws_lc_rs},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Requests that may be reset on a connection while they are served, as with Go's server.
const MAX_RESETS: usize = 400;

/// What it has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    known: Mutex<HashSet<String>>,
    /// Paths of requests that came whole and were carried out.
    served: Mutex<Vec<String>>,
    /// Requests for `/wait` in progress.
    pub(crate) waiting: AtomicUsize,
    /// Requests for `/wait` that were reset.
    pub(crate) reset: AtomicUsize,
    /// Connections that it ended since too much was reset on them.
    pub(crate) calmed: AtomicUsize,
}

/// A running one.
#[derive(Debug)]
pub(crate) struct Double {
    port: u16,
    certs: Certs,
    pub(crate) seen: Arc<Seen>,
    _serving: AbortOnDropHandle<()>,
}

impl Double {
    pub(crate) async fn start(folder: &Path) -> Result<Self> {
        let certs = Certs::create(&folder.join("api-certs"))?;
        let chain = CertificateDer::pem_file_iter(&certs.certificate)?;
        let chain = chain.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(&certs.key)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions()?;
        let mut config = config.with_no_client_auth().with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        // One that nobody else gets when it is gone.
        let port = ports::free();
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let seen = Arc::<Seen>::default();
        let serving = tokio::spawn(serve(listener, acceptor, seen.clone()));
        Ok(Self {
            port,
            certs,
            seen,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    pub(crate) fn kubeconfig(&self, folder: &Path) -> Result<PathBuf> {
        let file = folder.join("kubeconfig-double");
        let server = format!("https://127.0.0.1:{}", self.port);
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "double",
            "clusters": [{"name": "double", "cluster": {"server": server, "certificate-authority": self.certs.ca}}],
            "users": [{"name": "double", "user": {}}],
            "contexts": [{"name": "double", "context": {"cluster": "double", "user": "double"}}],
        });
        std::fs::write(&file, text.to_string())?;
        Ok(file)
    }
}

impl Seen {
    /// How often a request for this path was carried out.
    pub(crate) fn served(&self, path: &str) -> usize {
        lock(&self.served).iter().filter(|it| *it == path).count()
    }

    fn is_new(&self, path: &str) -> bool {
        lock(&self.known).insert(path.to_owned())
    }
}

/// A request for `/wait`, which ends by a reset, of its own or of its connection.
struct Waiting<'a>(&'a Seen, &'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(seen: &'a Seen, resets: &'a AtomicUsize) -> Self {
        seen.waiting.fetch_add(1, Ordering::Relaxed);
        Self(seen, resets)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.0.reset.fetch_add(1, Ordering::Relaxed);
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, seen: Arc<Seen>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let (acceptor, seen) = (acceptor.clone(), seen.clone());
        connections.spawn(async move {
            // Connections that break are what these tests are about.
            let _ = connection(socket, acceptor, seen).await;
        });
    }
}

async fn connection(socket: TcpStream, acceptor: TlsAcceptor, seen: Arc<Seen>) -> Result<()> {
    let mut settings = h2::server::Builder::new();
    // Of what is reset the double itself keeps count.
    settings
        .max_concurrent_streams(250)
        .max_pending_accept_reset_streams(10_000)
        .max_concurrent_reset_streams(10_000);
    let mut http2 = settings.handshake(acceptor.accept(socket).await?).await?;
    let (broken, resets) = (CancellationToken::new(), Arc::<AtomicUsize>::default());
    let mut requests = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = http2.accept() => accepted,
            () = broken.cancelled() => return Ok(()),
        };
        let Some(accepted) = accepted else {
            return Ok(());
        };
        let (request, respond) = accepted?;
        let (seen, broken, resets) = (seen.clone(), broken.clone(), resets.clone());
        if resets.load(Ordering::Relaxed) > MAX_RESETS {
            seen.calmed.fetch_add(1, Ordering::Relaxed);
            http2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        }
        requests.spawn(async move {
            // As above.
            let _ = answer(request, respond, &seen, &broken, &resets).await;
        });
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    seen: &Seen,
    broken: &CancellationToken,
    resets: &AtomicUsize,
) -> Result<()> {
    let path = request.uri().path().to_owned();
    let mut body = request.into_body();
    if path.starts_with("/refused-once/") && seen.is_new(&path) {
        respond.send_reset(Reason::REFUSED_STREAM);
        return Ok(());
    }
    let mut length = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        length += data.len();
        body.flow_control().release_capacity(data.len())?;
    }
    lock(&seen.served).push(path.clone());
    if path.starts_with("/lost-once/") && seen.is_new(&path) {
        broken.cancel();
        // A reset of the stream would come before the end of the connection.
        return std::future::pending().await;
    }
    if path == "/wait" {
        let _waiting = Waiting::begin(seen, resets);
        std::future::poll_fn(|cx| respond.poll_reset(cx)).await?;
        return Ok(());
    }
    let mut send = respond.send_response(Response::new(()), false)?;
    send.send_data(format!("{length} bytes").into(), true)?;
    Ok(())
}

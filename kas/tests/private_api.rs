//! A replica finds out at its start whether others can reach it, and only
//! replicas are let in.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use cluster_state::{AgentId, Liveness, Owner, PeerProbe as _, ReplicaId, memory::MemoryStore};
use kas::{
    private_api::{PrivateApi, SelfTestError, Tokens, dial, self_test},
    replica::{PeerSettings, Port},
};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use router::{
    Need, Opening, Registry,
    peers::{Challenge, Credentials, Peers, TunnelReply},
};
use runtime::{
    connect::ConnectOptions,
    drain::Drain,
    jwt::Secret,
    listen::{AnyListener, PlainAcceptor, bind, bind_unix},
    tls::{ClientTls, ClientTlsOptions, H2, Identity, ServerTls},
};
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio_util::sync::CancellationToken;

/// Enough for several attempts.
const SHORT: Duration = Duration::from_millis(1500);
const LONG: Duration = Duration::from_secs(20);

fn secret(byte: u8) -> Secret {
    Secret::new(vec![byte; 32])
}

fn tokens(byte: u8) -> Arc<Tokens> {
    Tokens::new(secret(byte))
}

fn owner(name: &str, url: impl ToString) -> Owner {
    Owner {
        replica: ReplicaId::new(name),
        url: url.to_string(),
    }
}

/// Where nobody listens, and nobody else can: bound, and not listening yet.
fn nobody() -> (TcpSocket, SocketAddr) {
    let held = TcpSocket::new_v4().unwrap();
    held.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = held.local_addr().unwrap();
    (held, address)
}

/// A port of the loopback interface.
async fn port(tls: Option<&Files>, dial: ConnectOptions) -> Port<PlainAcceptor, PeerSettings> {
    Port {
        listener: bind("127.0.0.1:0").await.unwrap().into(),
        acceptor: PlainAcceptor::new(tls.map(Files::server)),
        settings: PeerSettings {
            tokens: tokens(1),
            dial,
            own: "".into(),
        },
    }
}

async fn plain() -> (Port<PlainAcceptor, PeerSettings>, SocketAddr) {
    let port = port(None, ConnectOptions::default()).await;
    let address = port.listener.tcp_addr().unwrap();
    (port, address)
}

/// A replica that serves already.
fn serve(me: &Owner, port: Port<PlainAcceptor, PeerSettings>) -> Drain {
    let registry = Registry::new(Arc::new(MemoryStore::default().table(me.clone())));
    let api = PrivateApi::new(
        me.clone(),
        registry,
        port.settings.tokens,
        tonic::service::Routes::default(),
    );
    let drain = Drain::new();
    drain.spawn(api.serve(port.listener, port.acceptor, drain.clone()));
    drain
}

async fn ask(pool: &Peers, url: &str) -> Result<TunnelReply, tonic::Status> {
    let need = Need {
        method: "/test.Echo/Echo".into(),
        impersonation: false,
        upgrade: false,
        caller: "user:alice".into(),
    };
    let opening = Opening {
        method: need.method.clone(),
        meta: HashMap::new(),
        messages: Vec::new(),
        close: false,
        safe: false,
        moves: false,
    };
    let asked = pool.request_tunnel(url, AgentId(1), &need, &opening).await;
    asked?.reply().await
}

fn pool(options: ConnectOptions, tokens: Arc<Tokens>) -> Peers {
    Peers::new(dial(options, ""), tokens, CancellationToken::new())
}

/// A CA, and a certificate that it has signed.
struct Files(TempDir);

impl Files {
    fn new(name: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &ca).unwrap();
        let files = Self(folder);
        std::fs::write(files.path("ca.pem"), ca.pem()).unwrap();
        std::fs::write(files.path("cert.pem"), leaf.pem()).unwrap();
        std::fs::write(files.path("key.pem"), key.serialize_pem()).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn identity(&self) -> Identity {
        Identity {
            certificate: self.path("cert.pem"),
            key: self.path("key.pem"),
        }
    }

    /// TLS that demands a certificate of the same CA.
    fn server(&self) -> ServerTls {
        ServerTls::load_mutual(self.identity(), self.path("ca.pem"), &[H2]).unwrap()
    }

    fn client(&self, name: &str, identity: Option<Identity>) -> ConnectOptions {
        let tls = ClientTls::load(&ClientTlsOptions {
            ca_files: vec![self.path("ca.pem")],
            only_ca_files: true,
            server_name: Some(name.to_owned()),
            identity,
            ..ClientTlsOptions::default()
        });
        ConnectOptions {
            tls: Some(tls.unwrap()),
            ..ConnectOptions::default()
        }
    }
}

#[tokio::test]
async fn a_replica_that_reaches_itself_starts() {
    let (port, address) = plain().await;
    let me = owner("me", format!("grpc://{address}"));

    self_test(&me, &port, LONG).await.unwrap();
}

#[tokio::test]
async fn a_url_that_another_replica_has_is_an_error_that_names_both() {
    let (theirs, address) = plain().await;
    let url = format!("grpc://{address}");
    let _serving = serve(&owner("other", &url), theirs);
    let (mine, _) = plain().await;

    let error = self_test(&owner("me", &url), &mine, LONG)
        .await
        .unwrap_err();

    assert!(matches!(error, SelfTestError::Shared { .. }), "{error}");
    let text = error.to_string();
    for part in [&*url, "other", "OWN_PRIVATE_API_URL"] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn another_secret_is_an_error_that_names_its_file() {
    let (mut theirs, address) = plain().await;
    theirs.settings.tokens = tokens(2);
    let url = format!("grpc://{address}");
    let _serving = serve(&owner("other", &url), theirs);
    let (mine, _) = plain().await;

    let error = self_test(&owner("me", &url), &mine, LONG)
        .await
        .unwrap_err();

    assert!(matches!(error, SelfTestError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("authentication_secret_file"));
}

#[tokio::test]
async fn what_cannot_be_reached_is_an_error_that_says_what_to_set() {
    let (port, _) = plain().await;
    let (_held, nobody) = nobody();
    for (url, why, hint) in [
        (format!("grpc://{nobody}"), "refused", "OWN_PRIVATE_API_URL"),
        (
            format!("grpcs://{nobody}"),
            "refused",
            "OWN_PRIVATE_API_SCHEME=grpc",
        ),
        ("http://kas".to_owned(), "grpc://", "OWN_PRIVATE_API_URL"),
    ] {
        let error = self_test(&owner("me", &url), &port, SHORT)
            .await
            .unwrap_err();

        let text = error.to_string();
        for part in [&*url, why, hint] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

#[tokio::test]
async fn tls_that_does_not_fit_is_an_error_that_says_what_to_set() {
    let files = Files::new("kas");
    for (scheme, name, hint) in [
        ("grpc", "kas", "OWN_PRIVATE_API_SCHEME=grpcs"),
        ("grpcs", "other", "OWN_PRIVATE_API_HOST"),
    ] {
        let port = port(Some(&files), files.client(name, Some(files.identity()))).await;
        let url = format!("{scheme}://{}", port.listener.tcp_addr().unwrap());

        let error = self_test(&owner("me", url), &port, SHORT)
            .await
            .unwrap_err();

        assert!(error.to_string().contains(hint), "{error}");
    }
}

#[tokio::test]
async fn a_service_that_is_not_programmed_yet_is_waited_for() {
    let (port, address) = plain().await;
    let (held, service) = nobody();
    let programmed = tokio::spawn(async move {
        tokio::time::sleep(SHORT).await;
        let listener = held.listen(8).unwrap();
        let (mut theirs, _) = listener.accept().await.unwrap();
        let mut ours = tokio::net::TcpStream::connect(address).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut theirs, &mut ours).await;
    });

    let tested = self_test(&owner("me", format!("grpc://{service}")), &port, LONG).await;

    programmed.abort();
    tested.unwrap();
}

/// As between hosts with a bridge of containers: at one address nobody listens, at another somebody else does, who
/// may be the one that dials.
#[tokio::test]
async fn a_replica_with_several_urls_is_reached_at_the_one_that_leads_to_it() {
    let (_held, nobody) = nobody();
    let (theirs, elsewhere) = plain().await;
    let _other = serve(&owner("other", format!("grpc://{elsewhere}")), theirs);
    let (port, address) = plain().await;
    let published = format!("grpc://{nobody},grpc://{elsewhere},grpc://{address}");
    let me = owner("me", &published);
    self_test(&me, &port, LONG).await.unwrap();
    let settings = port.settings.clone();
    let serving = serve(&me, port);
    let pool = pool(ConnectOptions::default(), tokens(1));

    let answer = ask(&pool, &published).await;

    assert_eq!(answer.unwrap(), TunnelReply::NoneYet);
    assert_eq!(settings.probe(&me).await, Liveness::Alive);
    serving.start();
    assert!(serving.finished(LONG).await);
    // At the other address there still is somebody, who is not known to be the replica's successor.
    assert_eq!(settings.probe(&me).await, Liveness::Unknown);
    let dialling = PeerSettings {
        own: format!("grpc://10.0.0.9:1,grpc://{elsewhere}").into(),
        ..settings
    };
    assert_eq!(
        dialling.probe(&me).await,
        Liveness::Gone,
        "what is left is this machine's own"
    );
}

#[tokio::test]
async fn replicas_of_one_machine_reach_each_other_by_a_unix_socket() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("peers.sock");
    let mut port = port(None, ConnectOptions::default()).await;
    port.listener = AnyListener::Unix(bind_unix(&path).unwrap());
    let me = owner("me", format!("unix://{}", path.display()));
    self_test(&me, &port, LONG).await.unwrap();
    let _serving = serve(&me, port);
    let pool = pool(ConnectOptions::default(), tokens(1));

    let answer = ask(&pool, &me.url).await;

    assert_eq!(answer.unwrap(), TunnelReply::NoneYet);
}

#[tokio::test]
async fn only_who_has_the_secret_is_answered() {
    let (port, address) = plain().await;
    let url = format!("grpc://{address}");
    let _serving = serve(&owner("me", &url), port);

    let right = pool(ConnectOptions::default(), tokens(1));
    let wrong = pool(ConnectOptions::default(), tokens(2));

    assert_eq!(ask(&right, &url).await.unwrap(), TunnelReply::NoneYet);
    let refused = ask(&wrong, &url).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert!(refused.message().contains("does not prove"), "{refused}");
    // A token that is good at every replica is no better than none here.
    let everywhere = as_gitlabs(Tokens::unbound(secret(1)));
    let refused = ask(&everywhere, &url).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    // Whoever takes such tokens too does not show one here, so that sets can be changed one by one.
    let both = pool(ConnectOptions::default(), Tokens::unbound(secret(1)));
    assert_eq!(ask(&both, &url).await.unwrap(), TunnelReply::NoneYet);
}

/// Asks as GitLab's kas does, which lets nobody prove anything before.
fn as_gitlabs(tokens: Arc<Tokens>) -> Peers {
    let dial = dial(ConnectOptions::default(), "");
    Peers::new(dial, Arc::new(Unproved(tokens)), CancellationToken::new())
}

struct Unproved(Arc<Tokens>);

impl Credentials for Unproved {
    fn metadata(&self, url: &str, audience: &str) -> http::HeaderMap {
        self.0.metadata(url, audience)
    }
}

#[test]
fn only_a_set_with_gitlabs_kas_goes_on_with_whoever_proves_nothing() {
    let nothing = http::HeaderMap::new();
    let proved = |tokens: Arc<Tokens>| tokens.challenge("grpc://x").unwrap().verify(&nothing);

    assert_eq!(proved(tokens(1)), None);
    assert_eq!(proved(Tokens::unbound(secret(1))).as_deref(), Some(""));
}

#[tokio::test]
async fn a_token_is_of_no_use_on_another_connection_or_at_another_replica() {
    let (here, there) = (plain().await, plain().await);
    let [here, there] = [("here", here), ("there", there)].map(|(name, (port, address))| {
        let url = format!("grpc://{address}");
        let drain = serve(&owner(name, &url), port);
        (url, drain)
    });
    let caught = Arc::new(Caught {
        tokens: tokens(1),
        shown: Mutex::default(),
    });
    let caller = |caught: &Arc<Caught>| {
        let dial = dial(ConnectOptions::default(), "");
        Peers::new(dial, caught.clone(), CancellationToken::new())
    };

    // The first token that is shown is shown again to all others.
    let first = caller(&caught);
    assert_eq!(ask(&first, &here.0).await.unwrap(), TunnelReply::NoneYet);
    assert_eq!(ask(&first, &here.0).await.unwrap(), TunnelReply::NoneYet);
    for (pool, url) in [(&first, &there.0), (&caller(&caught), &here.0)] {
        let refused = ask(pool, url).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{url}");
    }
}

/// Shows everybody what it has once shown.
struct Caught {
    tokens: Arc<Tokens>,
    shown: Mutex<Option<http::HeaderMap>>,
}

impl Credentials for Caught {
    fn challenge(&self, url: &str) -> Option<Box<dyn Challenge>> {
        self.tokens.challenge(url)
    }

    fn metadata(&self, url: &str, audience: &str) -> http::HeaderMap {
        let mut shown = self.shown.lock().unwrap();
        let first = || self.tokens.metadata(url, audience);
        shown.get_or_insert_with(first).clone()
    }
}

#[tokio::test]
async fn a_set_with_gitlabs_kas_takes_its_tokens() {
    let (mut port, address) = plain().await;
    port.settings.tokens = Tokens::unbound(secret(1));
    let url = format!("grpc://{address}");
    let me = owner("me", &url);
    self_test(&me, &port, LONG).await.unwrap();
    let _serving = serve(&me, port);

    for tokens in [tokens(1), Tokens::unbound(secret(1))] {
        let pool = pool(ConnectOptions::default(), tokens);
        assert_eq!(ask(&pool, &url).await.unwrap(), TunnelReply::NoneYet);
    }
    let gitlabs = as_gitlabs(Tokens::unbound(secret(1)));
    assert_eq!(ask(&gitlabs, &url).await.unwrap(), TunnelReply::NoneYet);
    let stranger = pool(ConnectOptions::default(), Tokens::unbound(secret(2)));
    let refused = ask(&stranger, &url).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
}

/// By how many seconds the clock of those who ask is wrong.
static WRONG_BY: AtomicI64 = AtomicI64::new(0);

fn wrong_clock() -> SystemTime {
    let wrong_by = WRONG_BY.load(Ordering::SeqCst);
    let by = Duration::from_secs(wrong_by.unsigned_abs());
    let now = SystemTime::now();
    if wrong_by < 0 { now - by } else { now + by }
}

#[tokio::test]
async fn a_replica_whose_clock_is_wrong_or_steps_is_told_the_time_and_let_in() {
    let (port, address) = plain().await;
    let url = format!("grpc://{address}");
    let me = owner("me", &url);
    let _serving = serve(&me, port);
    let tokens = Tokens::by(secret(1), wrong_clock);
    let pool = pool(ConnectOptions::default(), tokens.clone());
    let settings = PeerSettings {
        tokens,
        dial: ConnectOptions::default(),
        own: "".into(),
    };

    for wrong_by in [0, 3600, -3600, 86_400 * 365, 0] {
        WRONG_BY.store(wrong_by, Ordering::SeqCst);

        let answer = ask(&pool, &url).await;

        assert_eq!(answer.unwrap(), TunnelReply::NoneYet, "{wrong_by} s");
    }
    WRONG_BY.store(-7200, Ordering::SeqCst);
    assert_eq!(settings.probe(&me).await, Liveness::Alive);
}

/// What a refusal says of the time is signed, and for nothing else.
#[tokio::test]
async fn nobody_without_the_secret_learns_or_sets_a_clock() {
    fn late() -> SystemTime {
        SystemTime::now() + Duration::from_secs(3600)
    }
    let (port, address) = plain().await;
    let url = format!("grpc://{address}");
    let _serving = serve(&owner("me", &url), port);

    let stranger = pool(ConnectOptions::default(), Tokens::by(secret(2), late));
    let refused = ask(&stranger, &url).await.unwrap_err();

    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert!(refused.metadata().get("kas-hop-clock").is_none());
    let mut forged = http::HeaderMap::new();
    let word = runtime::jwt::sign(&secret(2), "gitlab-kas", "gitlab-kas-clock").unwrap();
    forged.insert("kas-hop-clock", word.parse().unwrap());
    let mut taken = http::HeaderMap::new();
    let token = runtime::jwt::sign(&secret(1), "gitlab-kas", "gitlab-kas").unwrap();
    taken.insert("kas-hop-clock", token.parse().unwrap());
    for answer in [forged, taken, http::HeaderMap::new()] {
        assert!(!tokens(1).rejected(&url, &answer), "{answer:?}");
    }
}

#[tokio::test]
async fn with_a_client_ca_only_who_shows_a_certificate_of_it_gets_in() {
    let (files, stranger) = (Files::new("kas"), Files::new("kas"));
    let with = |identity| files.client("kas", identity);
    let port = port(Some(&files), with(Some(files.identity()))).await;
    let url = format!("grpcs://{}", port.listener.tcp_addr().unwrap());
    let me = owner("me", &url);
    self_test(&me, &port, LONG).await.unwrap();
    let _serving = serve(&me, port);

    let member = pool(with(Some(files.identity())), tokens(1));
    assert_eq!(ask(&member, &url).await.unwrap(), TunnelReply::NoneYet);

    for identity in [None, Some(stranger.identity())] {
        let refused = ask(&pool(with(identity), tokens(1)), &url).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable);
        assert!(refused.message().contains(&url), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nobody_is_known_is_closed_after_half_a_minute() {
    let (port, address) = plain().await;
    let me = owner("a", format!("grpc://{address}"));
    let _serving = serve(&me, port);
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let (_send, connection) = h2::client::handshake(socket).await.unwrap();
    let start = tokio::time::Instant::now();

    // In order or not.
    let _ = connection.await;

    assert!(start.elapsed() >= Duration::from_secs(29));
    assert!(start.elapsed() <= Duration::from_secs(31));
}

//! The connection: TLS, proxies, limits.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use control_plane::{AuthError, ControlPlane, Token, gitlab::GitLab};
use futures_util::future::join_all;
use kas::config::{OutageGrace, RateLimit};
use runtime::{
    connect::{ProxySetting, ProxyUrl},
    yaml::{FilePath, NonEmpty, Seconds},
};
use tests::{
    certs::Certs,
    gitlab_double::{Fault, FaultKind, GitLabDouble, Scenario},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

use crate::fixture::{FORGETFUL, Fixture, POLL, reading};

async fn knows_an_agent(gitlab: &GitLab) -> Result<(), AuthError> {
    gitlab
        .agent_by_token(&Token::new("agent-5-a"))
        .await
        .map(drop)
}

async fn tls_double() -> (GitLabDouble, Certs, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::create(folder.path()).unwrap();
    let double = GitLabDouble::start_tls(Scenario::sample(), &certs)
        .await
        .unwrap();
    (double, certs, folder)
}

#[tokio::test]
async fn a_gitlab_with_its_own_authority_is_trusted_when_that_is_named() {
    let (double, certs, _folder) = tls_double().await;
    let ca = certs.ca.clone();
    let named = Fixture::with(
        double,
        FORGETFUL,
        |it| it.ca_certificate_file = Some(ca),
        ProxySetting::None,
    );

    knows_an_agent(&named.gitlab).await.unwrap();
}

#[tokio::test]
async fn a_gitlab_with_an_unknown_authority_is_not_trusted() {
    let (double, _, _folder) = tls_double().await;
    let (_, others, _other_folder) = tls_double().await;
    let fixture = Fixture::with(
        double,
        FORGETFUL,
        |it| it.ca_certificate_file = Some(others.ca.clone()),
        ProxySetting::None,
    );

    let error = knows_an_agent(&fixture.gitlab).await.unwrap_err();

    assert_eq!(
        error,
        AuthError::Unavailable("GitLab cannot be reached".into())
    );
    assert_eq!(
        fixture.double.counters(),
        Default::default(),
        "nothing was sent"
    );
}

#[tokio::test]
async fn a_proxy_gets_whole_urls_for_http_and_tunnels_https() {
    for tls in [false, true] {
        let (double, certs, _folder) = if tls {
            tls_double().await
        } else {
            let (_, certs, folder) = tls_double().await;
            (
                GitLabDouble::start(Scenario::sample()).await.unwrap(),
                certs,
                folder,
            )
        };
        let proxy = Proxy::start(&double.url()).await;
        let setting = ProxySetting::Url(
            ProxyUrl::parse(&format!("http://us:pw@127.0.0.1:{}", proxy.port)).unwrap(),
        );
        let fixture = Fixture::with(
            double,
            FORGETFUL,
            |it| it.ca_certificate_file = Some(certs.ca.clone()),
            setting,
        );

        knows_an_agent(&fixture.gitlab).await.unwrap();

        assert!(proxy.used() > 0, "tls: {tls}");
    }
}

#[tokio::test]
async fn requests_wait_for_their_turn_and_not_for_ever() {
    let double = GitLabDouble::start(Scenario::sample()).await.unwrap();
    let slow = RateLimit {
        refill_rate_per_second: 0.01,
        bucket_size: 4,
    };
    let fixture = Fixture::with(
        double,
        FORGETFUL,
        |it| it.api_rate_limit = slow,
        ProxySetting::None,
    );

    let answers = join_all((0..5).map(|_| knows_an_agent(&fixture.gitlab))).await;

    let crowded = |it: &&Result<_, _>| matches!(it, Err(AuthError::Unavailable(why)) if why.contains("api_rate_limit"));
    // The last quarter is for tokens that were never good.
    assert_eq!(answers.iter().filter(|it| it.is_ok()).count(), 3);
    assert_eq!(answers.iter().filter(crowded).count(), 2);
}

#[tokio::test]
async fn a_turn_that_comes_late_is_not_taken_for_a_slow_gitlab() {
    let double = GitLabDouble::start(Scenario::sample()).await.unwrap();
    let few = RateLimit {
        refill_rate_per_second: 10.0,
        bucket_size: 1,
    };
    let change = |it: &mut kas::config::GitLab| it.api_rate_limit = few;
    let fixture = Fixture::with(double, FORGETFUL, change, ProxySetting::None);
    let slow = Fault::everywhere(FaultKind::Slow(500));
    fixture.double.change(|it| it.faults = vec![slow]);

    let answers = join_all((0..120).map(|_| knows_an_agent(&fixture.gitlab))).await;

    let refused: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    assert!(refused.len() > 40, "{}", refused.len());
    for error in refused {
        assert!(error.to_string().contains("api_rate_limit"), "{error}");
    }
}

#[tokio::test]
async fn a_gitlab_that_asks_for_a_pause_gets_it() {
    let fixture = Fixture::start(FORGETFUL).await;
    fixture.fails(FaultKind::Busy(3600));
    knows_an_agent(&fixture.gitlab).await.unwrap_err();
    fixture.recovers();

    let error = knows_an_agent(&fixture.gitlab).await.unwrap_err();

    assert!(
        error.to_string().contains("asks to slow down (429)"),
        "{error}"
    );
}

#[tokio::test]
async fn what_cannot_be_used_is_named_at_the_start() {
    let double = GitLabDouble::start(Scenario::sample()).await.unwrap();
    let fixture = Fixture::with(double, FORGETFUL, |_| {}, ProxySetting::None);
    let settings = |secret: &str| {
        let file = fixture.folder.path().join("other");
        std::fs::write(&file, secret).unwrap();
        kas::config::GitLab {
            address: NonEmpty(fixture.double.url()),
            external_url: None,
            authentication_secret_file: FilePath(file),
            ca_certificate_file: None,
            api_rate_limit: RateLimit {
                refill_rate_per_second: 1.0,
                bucket_size: 1,
            },
            outage_grace: OutageGrace {
                agents: Seconds::new(0),
                callers: Seconds::new(0),
            },
        }
    };
    let policies = control_plane::gitlab::CachePolicies {
        agents: FORGETFUL,
        callers: FORGETFUL,
    };
    let error = |settings| {
        GitLab::new(
            &settings,
            policies,
            reading(POLL),
            ProxySetting::None,
            kas::version::server_header(),
        )
        .unwrap_err()
        .to_string()
    };

    assert!(error(settings("c2hvcnQ=")).contains("holds 5 bytes, but at least 32"));
    assert!(error(settings("not base64!")).contains("authentication_secret_file"));
    let ca = kas::config::GitLab {
        ca_certificate_file: Some("/nonexistent".into()),
        ..settings(&format!("{}=", "A".repeat(43)))
    };
    assert!(error(ca).contains("/nonexistent"));
}

/// A forward proxy that wants `us:pw`.
struct Proxy {
    port: u16,
    used: Arc<AtomicUsize>,
    _serving: AbortOnDropHandle<()>,
}

impl Proxy {
    async fn start(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let used = Arc::<AtomicUsize>::default();
        let (seen, url) = (used.clone(), url.to_owned());
        let serving = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                if pass(socket, &url).await {
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self {
            port,
            used,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// Serves one connection in its own task; says whether it asked as it should.
async fn pass(socket: TcpStream, url: &str) -> bool {
    let mut client = BufReader::new(socket);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if client.read_until(b'\n', &mut head).await.unwrap_or(0) == 0 {
            return false;
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let authorized = text
        .to_lowercase()
        .contains("proxy-authorization: basic dxm6chc=");
    let port = url.rsplit(':').next().unwrap();
    let mut server = TcpStream::connect(format!("127.0.0.1:{port}"))
        .await
        .unwrap();
    let right = if url.starts_with("https") {
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        text.starts_with(&format!("CONNECT localhost:{port} HTTP/1.1\r\n"))
    } else {
        let start = format!("GET {url}/api");
        server
            .write_all(text.replacen(&start, "GET /api", 1).as_bytes())
            .await
            .unwrap();
        text.starts_with(&start)
    };
    tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await.ok() });
    authorized && right
}

//! Pods of one agent: those that kas has not dialled reach it through the one it has.

use std::path::Path;

use agentk::{Peers, PrivateApi};
use futures_util::stream;
use proto::receptive::rpc::{Chunk, receptive_client::ReceptiveClient};
use runtime::{
    connect::{ConnectOptions, Target, connect},
    grpc::{self, Channel},
    jwt::{self, Secret},
};
use tests::ports;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};

use crate::{
    AGENT, OTHER,
    site::{Proof, Replica, Site, Waiting, until},
};

const PODS: &str = "gitlab-agent";
pub(crate) const SECRET: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

/// Two pods of an agent, which know each other, and the replica that dials one.
struct Pods {
    site: Site,
    token: String,
    private: std::path::PathBuf,
    public: std::path::PathBuf,
    ports: [u16; 2],
    replica: Replica,
}

impl Pods {
    fn new() -> Self {
        let site = Site::new();
        let token = site.agent(AGENT);
        let (private, public) = site.keys("keys");
        std::fs::write(site.path("secret"), SECRET).unwrap();
        Self {
            replica: site.replica("a"),
            token,
            private,
            public,
            ports: [ports::free(), ports::free()],
            site,
        }
    }

    /// Starts a pod that finds the other one; it listens on its own of the ports.
    fn start(&self, number: usize) -> Waiting {
        let [own, other] = [self.ports[number], self.ports[1 - number]];
        self.pod(&self.token, "secret", own, other)
    }

    fn pod(&self, token: &str, secret: &str, own: u16, other: u16) -> Waiting {
        let private_api = private_api(&self.site.path(secret), own, other);
        let (token, key) = (token.to_owned(), &self.public);
        self.site
            .pod(&token, key, false, Proof::Jwt, Some(private_api))
    }

    fn dial(&self, pod: &Waiting) {
        let url = format!("grpc://127.0.0.1:{}", pod.port);
        self.site.dial(AGENT, url, &self.private, Proof::Jwt);
    }

    fn tunnels(&self) -> usize {
        self.replica.registry.tunnels(AGENT).idle
    }

    /// What the private API of a pod says to this token.
    async fn ask(&self, number: usize, token: &str) -> Result<(), Status> {
        let url = format!("grpc://127.0.0.1:{}", self.ports[number]);
        let target = Target::parse(&url).unwrap();
        let connected = connect(&target, &ConnectOptions::default()).await.unwrap();
        let handshake = grpc::client_settings().handshake(connected.io);
        let (send, http2) = handshake.await.unwrap();
        let _driver = AbortOnDropHandle::new(tokio::spawn(http2));
        let bearer = format!("Bearer {token}").parse().unwrap();
        let metadata = [(http::header::AUTHORIZATION, bearer)]
            .into_iter()
            .collect();
        let mut client = ReceptiveClient::new(Channel::new(send, target.origin(), metadata));
        client.attach(stream::pending::<Chunk>()).await.map(drop)
    }
}

/// A pod's way to another.
pub(crate) fn private_api(secret: &Path, own: u16, other: u16) -> PrivateApi {
    PrivateApi {
        address: format!("127.0.0.1:{own}"),
        secret: secret.to_owned(),
        peers: Peers::Name(Target::parse(&format!("grpc://127.0.0.1:{other}")).unwrap()),
        tls: None,
        ca: None,
    }
}

fn token() -> String {
    jwt::sign(&secret(7), PODS, PODS).unwrap()
}

fn secret(byte: u8) -> Secret {
    Secret::new(vec![byte; 32])
}

#[tokio::test]
async fn pods_that_kas_has_not_dialled_reach_it_through_the_one_that_it_has() {
    let pods = Pods::new();
    let first = pods.start(0);
    pods.dial(&first);
    until("the first pod", || pods.replica.holds(AGENT)).await;
    let alone = pods.tunnels();

    let second = pods.start(1);
    until("the second pod", || pods.tunnels() > alone).await;
    drop(first);
    until("the end of both", || !pods.replica.holds(AGENT)).await;
    pods.dial(&second);
    until("the second pod alone", || pods.tunnels() == alone).await;
    let _first = pods.start(0);

    until("the first pod again", || pods.tunnels() > alone).await;
    assert!(pods.replica.shows(AGENT, "connected"));
}

#[tokio::test]
async fn who_is_no_pod_of_the_agent_is_told_why_it_may_not_use_its_connection() {
    let pods = Pods::new();
    let first = pods.start(0);
    let nobody = async || pods.ask(0, &token()).await;
    tests::wait::until(
        "the listener",
        std::time::Duration::from_secs(60),
        async || {
            tokio::net::TcpStream::connect(("127.0.0.1", pods.ports[0]))
                .await
                .ok()
        },
    )
    .await
    .unwrap();
    let unconnected = nobody().await.unwrap_err();
    assert_eq!(unconnected.code(), Code::Unavailable, "{unconnected:?}");
    pods.dial(&first);
    until("the first pod", || pods.replica.holds(AGENT)).await;

    let old = jwt::sign_at(&secret(7), PODS, PODS, 1_700_000_000).unwrap();
    for (token, said) in [
        (
            jwt::sign(&secret(8), PODS, PODS).unwrap(),
            "InvalidSignature",
        ),
        (old, "ExpiredSignature"),
        (
            jwt::sign(&secret(7), "gitlab-kas", PODS).unwrap(),
            "InvalidIssuer",
        ),
        (
            jwt::sign(&secret(7), PODS, "gitlab-kas").unwrap(),
            "InvalidAudience",
        ),
        ("nonsense".to_owned(), "InvalidToken"),
    ] {
        let refused = pods.ask(0, &token).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
        assert!(refused.message().contains(said), "{refused:?}");
    }

    // Its own pods may, and no other agent's, even if it has the secret.
    nobody().await.unwrap();
    let alone = pods.tunnels();
    let stranger = pods.site.agent(OTHER);
    let _stranger = pods.pod(&stranger, "secret", pods.ports[1], pods.ports[0]);
    let _second = pods.pod(&pods.token, "secret", ports::free(), pods.ports[0]);
    until("the second pod", || pods.tunnels() > alone).await;
    assert!(!pods.replica.holds(OTHER));
    assert!(pods.replica.shows(AGENT, "connected"));
}

#[tokio::test]
async fn a_pod_that_is_carried_itself_carries_no_other() {
    let pods = Pods::new();
    let first = pods.start(0);
    pods.dial(&first);
    until("the first pod", || pods.replica.holds(AGENT)).await;
    let alone = pods.tunnels();
    let _second = pods.start(1);
    until("the second pod", || pods.tunnels() > alone).await;

    let refused = tests::wait::until(
        "the refusal",
        std::time::Duration::from_secs(60),
        async || {
            // Until kas has accepted it, the second pod says that it is not connected.
            let refused = pods.ask(1, &token()).await.err()?;
            (refused.code() != Code::Unavailable).then_some(refused)
        },
    );

    assert_eq!(refused.await.unwrap().code(), Code::FailedPrecondition);
}

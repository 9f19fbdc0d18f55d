//! Everything of ours behind nginx with the locations of GitLab's Linux package, which passes agents on by path.

use std::{future::poll_fn, path::Path};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use proto::graph::rpc::{Known, Resource, WatchRequest, graph_client::GraphClient};
use runtime::{
    connect::{ConnectOptions, Target, connect},
    jwt,
    tls::{ClientTls, ClientTlsOptions},
};
use tests::{
    agentk::{Agentk, Links},
    certs::Certs,
    gitlab_double::Rails,
    http::{Socket, get},
    kas::{Kas, Options},
    kube::Cluster,
    nginx::{PackageNginx, Site},
    parts::{Part, skipped},
    ports,
    wait::until,
};

use super::{BOTH_APIS, Names, SOON, follow};

/// The way of each agent through nginx.
const AGENTS: [(&str, &str); 2] = [("grpc", "grpcs"), ("websocket", "wss")];

struct Front {
    kas: Kas,
    nginx: PackageNginx,
    certs: Certs,
}

impl Front {
    async fn start(folder: &Path) -> Result<Self> {
        let secret = folder.join("secret");
        std::fs::write(&secret, "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=")?;
        let api = ports::free();
        let options = Options {
            agent: "events: {log: true}",
            more: &format!(
                "api: {{listen: {{address: '127.0.0.1:{api}', authentication_secret_file: {}}}}}",
                secret.display()
            ),
            users_prefix: "/",
            ..Options::default()
        };
        let kas = Kas::start(options, folder).await?;
        let certs = Certs::create(&folder.join("certs"))?;
        let site = Site {
            agents: kas.agents,
            users: kas.users,
            api,
        };
        let nginx = PackageNginx::start(site, &certs, folder).await?;
        Ok(Self { kas, nginx, certs })
    }

    /// GitLab, by the internal endpoint.
    async fn rails(&self) -> Result<Rails> {
        let secret = jwt::Secret::new(vec![7; 32]);
        let token = jwt::sign(&secret, "gitlab.example.com", "gitlab-kas")?;
        Rails::connect(self.nginx.internal(), Some(&token)).await
    }

    fn agent(
        &self,
        name: &str,
        scheme: &str,
        token: &str,
        cluster: &Cluster,
        folder: &Path,
    ) -> Result<Agentk> {
        let path = match scheme {
            "wss" => "/-/kubernetes-agent/",
            _ => "",
        };
        let links = Links {
            kas: format!("{scheme}://localhost:{}{path}", self.nginx.port()),
            ca: Some(self.certs.ca.clone()),
            kubeconfig: cluster.agent_kubeconfig(),
        };
        Agentk::with_flags(&["--features=events,graph"], name, &links, token, folder)
    }

    fn tails(&self, agents: &[Agentk]) -> String {
        let agents = agents.iter().map(|agent| agent.process.tail());
        let all = [self.kas.process.tail(), self.nginx.tail()];
        all.into_iter().chain(agents).collect::<Vec<_>>().join("\n")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_of_an_agent_passes_the_locations_of_the_linux_package() -> Result<()> {
    let name = "everything_of_an_agent_passes_the_locations_of_the_linux_package";
    if skipped(name, &[Part::Cluster, Part::Nginx]) {
        return Ok(());
    }
    let cluster = Cluster::up().await?;

    let checked = check(&cluster).await;

    cluster.down().await?;
    checked
}

async fn check(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let front = Front::start(folder).await?;
    let user = front.kas.create_user("user", "*", &["agent"]).await?;
    let (mut agents, mut credentials, mut readers) = (Vec::new(), Vec::new(), Vec::new());
    for (name, scheme) in AGENTS {
        let token = front.kas.create_agent(name).await?;
        agents.push(front.agent(name, scheme, &token, cluster, folder)?);
        let id = front.kas.agent_id(name).await?;
        credentials.push(format!("pat:{id}:{user}"));
        readers.push(follow(front.rails().await?, vec![id.parse()?]).await?);
    }

    for bearer in &credentials {
        let checked = async {
            requests(&front, bearer).await?;
            graph(&front, bearer).await
        };
        checked.await.with_context(|| front.tails(&agents))?;
    }
    cluster.admin().patient(SOON).apply(BOTH_APIS).await?;
    let wanted: Names = ["core".to_owned(), "newer".to_owned()].into();
    let told = until("the events", SOON, async || {
        let all = readers
            .iter()
            .all(|(read, _)| read.borrow().is_superset(&wanted));
        all.then_some(())
    });
    told.await.with_context(|| front.tails(&agents))
}

/// The cluster answers through nginx, kas and a tunnel.
async fn requests(front: &Front, bearer: &str) -> Result<()> {
    let port = front.nginx.plain();
    let url =
        format!("http://127.0.0.1:{port}/-/kubernetes-agent/k8s-proxy/api/v1/namespaces/default");
    until("the agent", SOON, async || {
        get(&url, bearer)
            .await
            .ok()
            .filter(|answer| answer.status().is_success())
    })
    .await
    .map(drop)
}

/// GitLab watches the cluster's objects.
async fn graph(front: &Front, credentials: &str) -> Result<()> {
    let rails = front.rails().await?;
    let request = WatchRequest {
        credentials: credentials.to_owned(),
        resource: Some(Resource {
            version: "v1".into(),
            resource: "namespaces".into(),
            ..Resource::default()
        }),
        known: Some(Known::default()),
    };
    let mut updates = GraphClient::new(rails.caller())
        .watch(request)
        .await?
        .into_inner();
    let first = updates.message().await?.context("no update")?;
    ensure!(!first.changed.is_empty(), "{first:?}");
    Ok(())
}

/// The three requests by which GitLab's charts test a kas.
#[tokio::test(flavor = "multi_thread")]
async fn the_requests_by_which_gitlabs_charts_test_a_kas_are_answered_as_they_expect() -> Result<()>
{
    let name = "the_requests_by_which_gitlabs_charts_test_a_kas_are_answered_as_they_expect";
    if skipped(name, &[Part::Nginx]) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let front = Front::start(folder.path()).await?;

    register(&front).await.context("a call without a token")?;
    websocket(&front).await.context("a WebSocket")?;
    let plain = front.nginx.plain();
    let url = format!("http://127.0.0.1:{plain}/-/kubernetes-agent/k8s-proxy/api");
    let request = Request::get(url).body(Bytes::new())?;
    let answer = tests::http::send(request).await?;

    ensure!(answer.status() == 401, "{answer:?}");
    ensure!(
        answer.headers()["gitlab-unauthorized"] == "true",
        "{answer:?}"
    );
    Ok(())
}

/// gRPC through nginx: HTTP/2 all the way, refused in the headers.
async fn register(front: &Front) -> Result<()> {
    let target = Target::parse(&format!("grpcs://localhost:{}", front.nginx.port()))?;
    let tls = ClientTls::load(&ClientTlsOptions {
        ca_files: vec![front.certs.ca.clone()],
        ..ClientTlsOptions::default()
    })?;
    let options = ConnectOptions {
        tls: Some(tls),
        ..ConnectOptions::default()
    };
    let connected = connect(&target, &options).await?;
    let (mut send, connection) = h2::client::handshake(connected.io).await?;
    let driver = tokio::spawn(connection);
    let url = format!(
        "https://localhost:{}/gitlab.agent.agent_registrar.rpc.AgentRegistrar/Register",
        front.nginx.port()
    );
    let request = Request::post(url)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    poll_fn(|cx| send.poll_ready(cx)).await?;
    let (answer, mut body) = send.send_request(request, false)?;
    body.send_data(Bytes::from_static(&[0; 5]), true)?;
    let answer = answer.await?;
    driver.abort();
    ensure!(answer.status() == 200, "{answer:?}");
    let header = |name: &str| {
        answer
            .headers()
            .get(name)
            .map(|it| it.to_str().unwrap_or_default().to_owned())
    };
    let kind = header("content-type").unwrap_or_default();
    ensure!(kind.starts_with("application/grpc"), "{answer:?}");
    ensure!(header("grpc-status").as_deref() == Some("16"), "{answer:?}");
    Ok(())
}

/// The handshake without a subprotocol is answered before the connection is closed.
async fn websocket(front: &Front) -> Result<()> {
    let mut socket = Socket::open(front.nginx.plain()).await?;
    socket
        .write(
            b"GET /-/kubernetes-agent/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
            Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await?;
    let head = socket.read_until("\r\n\r\n", SOON).await?;
    ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
    ensure!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    Ok(())
}

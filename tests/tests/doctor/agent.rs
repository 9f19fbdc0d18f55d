//! `agentk doctor`, against ways to kas that are whole and broken.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Result, ensure};
use tests::{
    certs::Certs,
    haproxy::{Front, Haproxy},
    http2_meddler::{Meddler, Meddling},
    nginx::Nginx,
    parts::{Part, skipped},
    ports, programs,
    rig::Rig,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    process::Command,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{Examined, is_mended_at};

/// Long enough to see the timeouts of these tests.
const IDLE_LIMIT: &str = "9s";

/// kas, and an agent that is not started.
struct Patient {
    rig: Rig,
    token: PathBuf,
}

impl Patient {
    async fn new(tls: bool) -> Result<Self> {
        Self::of(Rig::start_with(tls).await?).await
    }

    async fn of(rig: Rig) -> Result<Self> {
        let token = rig.folder().join("patient.token");
        std::fs::write(&token, rig.kas.create_agent("patient").await?)?;
        Ok(Self { rig, token })
    }

    /// kas with a certificate of the agents' port.
    async fn with(make: impl Fn(&Path) -> Result<Certs>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let certs = make(&folder.path().join("certs"))?;
        let options = tests::kas::Options {
            agent_tls: Some(&certs),
            ..Default::default()
        };
        let kas = tests::kas::Kas::start(options, folder.path()).await?;
        Self::of(Rig::around(kas, certs, folder).await?).await
    }

    async fn examined(&self, address: &str) -> Result<Examined> {
        self.examined_with(address, &[]).await
    }

    async fn examined_with(&self, address: &str, flags: &[&str]) -> Result<Examined> {
        let ca = &self.rig.certs.ca;
        self.examined_trusting(address, ca, "2s", flags).await
    }

    async fn examined_silently(&self, address: &str) -> Result<Examined> {
        self.examined_trusting(address, &self.rig.certs.ca, IDLE_LIMIT, &[])
            .await
    }

    async fn examined_trusting(
        &self,
        address: &str,
        ca: &Path,
        idle_limit: &str,
        flags: &[&str],
    ) -> Result<Examined> {
        let mut command = Command::new(programs::own_agentk()?);
        command
            .args(["doctor", "-o", "json", "--idle-limit", idle_limit])
            .args(flags)
            .args(["--kas-address", address])
            .arg("--token-file")
            .arg(&self.token)
            .arg("--ca-cert-file")
            .arg(ca)
            .arg("--kubeconfig")
            .arg(self.rig.stub.kubeconfig(self.rig.folder())?)
            .env_remove("KUBECONFIG");
        Examined::by(command).await
    }
}

fn lacks(test: &str, parts: &[Part]) -> bool {
    skipped(test, parts)
}

#[tokio::test]
async fn ways_that_are_whole_have_no_finding_and_no_agent_is_connected_by_it() -> Result<()> {
    for tls in [false, true] {
        let patient = Patient::new(tls).await?;
        let port = patient.rig.kas.agents;
        let s = if tls { "s" } else { "" };
        for address in [
            format!("ws{s}://127.0.0.1:{port}/any/path"),
            format!("grpc{s}://localhost:{port}"),
        ] {
            let examined = patient.examined(&address).await?;

            examined.is_content(&address)?;
            let streams = examined
                .checks()
                .filter(|it| it["check"] == "silent stream");
            ensure!(streams.count() == 1, "{:#}", examined.report);
        }
        let log = patient.rig.kas.process.output();
        ensure!(!log.contains("agent connected"), "{log}");
    }
    Ok(())
}

#[tokio::test]
async fn the_load_balancers_of_our_documents_have_no_finding() -> Result<()> {
    let name = "the_load_balancers_of_our_documents_have_no_finding";
    if lacks(name, &[Part::Nginx, Part::Haproxy]) {
        return Ok(());
    }
    let patient = Patient::new(false).await?;
    let rig = &patient.rig;
    let nginx = Nginx::start(&[rig.kas.agents], &rig.certs, rig.folder()).await?;
    let haproxy = Haproxy::start(Front::Agents, rig.kas.agents, &rig.certs, rig.folder()).await?;
    for port in [nginx.port(), haproxy.port()] {
        for scheme in ["wss", "grpcs"] {
            let address = format!("{scheme}://localhost:{port}");

            patient.examined(&address).await?.is_content(&address)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_certificate_of_another_authority_and_one_for_another_name_are_named() -> Result<()> {
    let patient = Patient::new(true).await?;
    let other = Certs::create(&patient.rig.folder().join("other"))?;
    let port = patient.rig.kas.agents;

    let wrong_ca = patient
        .examined_trusting(&format!("wss://localhost:{port}"), &other.ca, "2s", &[])
        .await?;
    let other_name = ["--kas-tls-server-name", "kas.example.com"];
    let wrong_name = patient
        .examined_with(&format!("grpcs://localhost:{port}"), &other_name)
        .await?;

    let found = wrong_ca.fails_with("wrong_ca")?;
    ensure!(is_mended_at(found, "agentk"), "{found}");
    ensure!(
        found["seen"]
            .as_str()
            .is_some_and(|it| it.contains("kas tests")),
        "{found}"
    );
    wrong_name.fails_with("wrong_name")?;
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_has_ended_and_one_that_has_not_begun_are_told_apart() -> Result<()> {
    let expired = Patient::with(Certs::expired).await?;
    let early = Patient::with(Certs::not_yet_valid).await?;
    for scheme in ["wss", "grpcs"] {
        let at = |patient: &Patient| format!("{scheme}://localhost:{}", patient.rig.kas.agents);

        expired
            .examined(&at(&expired))
            .await?
            .fails_with("expired")?;
        let found = early.examined(&at(&early)).await?;
        let found = found.fails_with("not_yet_valid")?;
        ensure!(is_mended_at(found, "this machine"), "{found}");
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_port_a_wrong_door_and_a_wrong_token_are_named() -> Result<()> {
    let patient = Patient::new(false).await?;
    let kas = &patient.rig.kas;

    let closed = patient
        .examined(&format!("ws://127.0.0.1:{}", ports::free()))
        .await?;
    let users = patient
        .examined(&format!("ws://127.0.0.1:{}", kas.users))
        .await?;
    let no_tls = patient
        .examined(&format!("wss://127.0.0.1:{}", kas.agents))
        .await?;
    std::fs::write(
        &patient.token,
        "kasagent-that-nobody-made-000000000000000000",
    )?;
    let stranger = patient
        .examined(&format!("grpc://127.0.0.1:{}", kas.agents))
        .await?;

    closed.fails_with("nothing_listens")?;
    users.fails_with("not_kas")?;
    no_tls.fails_with("not_tls")?;
    stranger.fails_with("token_refused")?;
    Ok(())
}

#[tokio::test]
async fn a_clock_that_is_off_is_named() -> Result<()> {
    let patient = Patient::new(false).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("ws://{}", listener.local_addr()?);
    // It lives a day ago, and knows no WebSocket.
    let date = SystemTime::now() - Duration::from_secs(24 * 3600);
    let date = httpdate::fmt_http_date(date);
    let answer = format!(
        "HTTP/1.1 426 Upgrade Required\r\nDate: {date}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    );
    let serving = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut head = [0; 1024];
            // Who leaves before it is answered is no concern of this test.
            let _ = client.read(&mut head).await;
            let _ = client.write_all(answer.as_bytes()).await;
        }
    });
    let _serving = AbortOnDropHandle::new(serving);

    let examined = patient.examined(&address).await?;

    let found = examined.fails_with("clock_off")?;
    let seen = found["seen"].as_str().unwrap_or_default();
    ensure!(seen.contains("behind this machine's"), "{found}");
    examined.fails_with("no_upgrade")?;
    Ok(())
}

/// An nginx that ends TLS and does this with what it passes on.
async fn nginx(patient: &Patient, listen: &str, server: &str, location: &str) -> Result<Nginx> {
    let port = ports::free();
    let (certs, target) = (&patient.rig.certs, patient.rig.kas.agents);
    let (certificate, key) = (certs.certificate.display(), certs.key.display());
    let location = location.replace("TARGET", &format!("127.0.0.1:{target}"));
    let servers = format!(
        "server {{ listen 127.0.0.1:{port} ssl {listen}; ssl_certificate {certificate}; ssl_certificate_key {key}; \
         {server} location / {{ {location} }} }}"
    );
    Nginx::serving(port, &servers, patient.rig.folder()).await
}

/// WebSocket is passed on, and gRPC is not.
const WEBSOCKET: &str = "proxy_pass http://TARGET; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; \
                         proxy_set_header Connection $connection_upgrade;";

#[tokio::test]
async fn a_proxy_without_http2_and_one_without_upgrades_are_named() -> Result<()> {
    let name = "a_proxy_without_http2_and_one_without_upgrades_are_named";
    if lacks(name, &[Part::Nginx]) {
        return Ok(());
    }
    let patient = Patient::new(false).await?;
    let http1 = nginx(&patient, "", "", WEBSOCKET).await?;
    let plain = nginx(
        &patient,
        "",
        "",
        "proxy_pass http://TARGET; proxy_http_version 1.1;",
    )
    .await?;

    let no_http2 = patient
        .examined(&format!("grpcs://localhost:{}", http1.port()))
        .await?;
    let no_upgrade = patient
        .examined(&format!("wss://localhost:{}", plain.port()))
        .await?;

    let found = no_http2.fails_with("no_http2")?;
    let seen = found["seen"].as_str().unwrap_or_default();
    ensure!(
        seen.contains("WebSocket works at wss://localhost"),
        "{found}"
    );
    let found = no_upgrade.fails_with("no_upgrade")?;
    ensure!(is_mended_at(found, "nginx"), "{found}");
    ensure!(
        found["hop"]
            .as_str()
            .is_some_and(|hop| hop.starts_with("nginx")),
        "{found}"
    );
    Ok(())
}

#[tokio::test]
async fn limits_of_headers_and_of_bodies_are_named() -> Result<()> {
    let name = "limits_of_headers_and_of_bodies_are_named";
    if lacks(name, &[Part::Nginx]) {
        return Ok(());
    }
    let patient = Patient::new(false).await?;
    let grpc = "grpc_pass grpc://TARGET;";
    let small = "large_client_header_buffers 4 2k;";
    let heads = nginx(&patient, "http2", small, grpc).await?;
    let bodies = nginx(&patient, "http2", "client_max_body_size 1m;", grpc).await?;

    let of_heads = patient
        .examined(&format!("grpcs://localhost:{}", heads.port()))
        .await?;
    let of_bodies = patient
        .examined(&format!("grpcs://localhost:{}", bodies.port()))
        .await?;

    of_heads.fails_with("header_limit")?;
    let found = of_bodies.fails_with("body_limit")?;
    ensure!(is_mended_at(found, "nginx"), "{found}");
    Ok(())
}

#[tokio::test]
async fn who_cuts_silence_is_named_and_whether_pings_count() -> Result<()> {
    let name = "who_cuts_silence_is_named_and_whether_pings_count";
    if lacks(name, &[Part::Nginx, Part::Haproxy]) {
        return Ok(());
    }
    let patient = Patient::new(false).await?;
    let rig = &patient.rig;
    let front = Front::ImpatientTcp;
    let tcp = Haproxy::start(front, rig.kas.agents, &rig.certs, rig.folder()).await?;
    let grpc = "grpc_pass grpc://TARGET; grpc_read_timeout 7s;";
    let streams = nginx(&patient, "http2", "client_max_body_size 0;", grpc).await?;

    let mut of_tcp = Vec::new();
    for scheme in ["grpc", "ws"] {
        let address = format!("{scheme}://127.0.0.1:{}", tcp.port());
        of_tcp.push(patient.examined_silently(&address).await?);
    }
    let of_streams = format!("grpcs://localhost:{}", streams.port());
    let of_streams = patient.examined_silently(&of_streams).await?;

    for examined in of_tcp {
        let found = examined.fails_with("connection_timeout")?;
        let seen = found["seen"].as_str().unwrap_or_default();
        ensure!(seen.contains("pings keep it open"), "{found}");
        ensure!(is_mended_at(found, "HAProxy"), "{found}");
    }
    let found = of_streams.fails_with("stream_timeout")?;
    ensure!(is_mended_at(found, "ALB"), "{found}");
    Ok(())
}

#[tokio::test]
async fn who_swallows_pings_and_who_keeps_requests_back_are_named() -> Result<()> {
    let patient = Patient::new(false).await?;
    let port = patient.rig.kas.agents;
    let swallows = Meddler::start(port, Meddling::SwallowPings).await?;
    let keeps = Meddler::start(port, Meddling::BufferRequests).await?;

    let of_pings = patient
        .examined(&format!("grpc://127.0.0.1:{}", swallows.port()))
        .await?;
    let of_requests = patient
        .examined(&format!("grpc://127.0.0.1:{}", keeps.port()))
        .await?;

    of_pings.fails_with("pings_swallowed")?;
    let found = of_requests.fails_with("buffered")?;
    ensure!(is_mended_at(found, "nginx"), "{found}");
    Ok(())
}

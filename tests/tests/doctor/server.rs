//! `kas doctor`: the server's own parts, and the load balancer in front of it.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;
use tempfile::TempDir;
use tests::{
    certs::Certs,
    haproxy::{Front, Haproxy},
    nginx::Nginx,
    parts::{Part, skipped},
    ports, programs,
    replicas::Replicas,
    rig::Rig,
    wait::until,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Command,
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{Examined, is_mended_at};

const SOON: Duration = Duration::from_secs(60);
/// The hash of the leases in the store.
const LEASES: &str = "gitlab-kas:kas2:replicas";

async fn examined(configuration: &Path, flags: &[&str], own: u16) -> Result<Examined> {
    let mut command = Command::new(programs::kas()?);
    command
        .arg("doctor")
        .arg(configuration)
        .args(["-o", "json", "--idle-limit", "2s"])
        .args(flags)
        .env("OWN_PRIVATE_API_URL", format!("grpc://127.0.0.1:{own}"))
        .env("OWN_PRIVATE_API_HOST", "127.0.0.1");
    Examined::by(command).await
}

/// Two replicas with a Redis.
async fn replicas(test: &str) -> Result<Option<(TempDir, Replicas)>> {
    if skipped(test, &[Part::Redis]) {
        return Ok(None);
    }
    let folder = tempfile::tempdir()?;
    let mut replicas = Replicas::start(2, folder.path()).await?;
    // They are ready a moment before the store has their leases.
    let leases = async || {
        let store = replicas.store.single().ok()?;
        let count = store.cli(&["HLEN", LEASES]).await.ok()?;
        (count.trim() == "2").then_some(())
    };
    until("the leases of both", SOON, leases).await?;
    Ok(Some((folder, replicas)))
}

async fn keys(replicas: &mut Replicas) -> Result<BTreeSet<String>> {
    let all = replicas.store.single()?.cli(&["--scan"]).await?;
    Ok(all.lines().map(str::to_owned).collect())
}

#[tokio::test]
async fn a_set_that_is_whole_has_no_finding_and_its_store_stays_as_it_was() -> Result<()> {
    let name = "a_set_that_is_whole_has_no_finding_and_its_store_stays_as_it_was";
    let Some((_folder, mut replicas)) = replicas(name).await? else {
        return Ok(());
    };
    let before = keys(&mut replicas).await?;
    let member = &replicas.members[0];
    let agents = format!("--agents-url=ws://127.0.0.1:{}", member.agents);
    let users = format!("--users-url=http://127.0.0.1:{}/k8s-proxy/", member.users);
    let own = member.from_peers.port();

    // Who has just started learns of the other one within seconds.
    let known = async || {
        let flags = [agents.as_str(), users.as_str()];
        let examined = examined(&replicas.configuration(0), &flags, own)
            .await
            .ok()?;
        let unknown = examined.checks().any(|it| {
            let seen = it["seen"].as_str().unwrap_or_default();
            seen.contains("does not know of replica")
        });
        (!unknown).then_some(examined)
    };
    let examined = until("the replicas to know each other", SOON, known).await?;

    examined.is_content("a whole set")?;
    let peers = examined.checks().filter(|it| it["check"] == "private API");
    ensure!(peers.count() == 2, "{:#}", examined.report);
    let both_ways = examined.checks().filter(|it| {
        let seen = it["seen"].as_str().unwrap_or_default();
        it["check"] == "reaches the others" && seen.contains("it reaches the other replica")
    });
    ensure!(both_ways.count() == 2, "{:#}", examined.report);
    let upgraded = examined
        .checks()
        .find(|it| it["check"] == "upgraded connections");
    let upgraded = upgraded.is_some_and(|it| it["outcome"] == "ok");
    ensure!(upgraded, "{:#}", examined.report);
    let after = keys(&mut replicas).await?;
    ensure!(before == after, "{before:?} {after:?}");
    Ok(())
}

#[tokio::test]
async fn a_peer_whose_port_is_closed_is_named() -> Result<()> {
    let Some((_folder, mut replicas)) = replicas("a_peer_whose_port_is_closed_is_named").await?
    else {
        return Ok(());
    };
    let own = replicas.members[0].from_peers.port();
    // Nobody is left who would remove their leases.
    for member in &mut replicas.members {
        member.kill().await?;
        member.process.ended(SOON).await?;
    }

    let examined = examined(&replicas.configuration(0), &[], own).await?;

    let found = examined.fails_with("peer_unreachable")?;
    ensure!(
        found["hop"]
            .as_str()
            .is_some_and(|hop| hop.starts_with("replica kas-")),
        "{found}"
    );
    Ok(())
}

#[tokio::test]
async fn a_way_between_replicas_that_leads_one_way_only_is_named() -> Result<()> {
    let name = "a_way_between_replicas_that_leads_one_way_only_is_named";
    let Some((folder, mut replicas)) = replicas(name).await? else {
        return Ok(());
    };
    let certs = Certs::create(&folder.path().join("certs"))?;
    let other = Certs::create(&folder.path().join("other"))?;
    // Both have one certificate, and the second one trusts another authority.
    for (number, ca) in [(0, &certs.ca), (1, &other.ca)] {
        replicas.configure(number, |it| {
            let listen = &mut it["private_api"]["listen"];
            listen["certificate_file"] = json!(certs.certificate);
            listen["key_file"] = json!(certs.key);
            listen["ca_certificate_file"] = json!(ca);
        })?;
        replicas.members[number].process.signal("TERM").await?;
        let port = replicas.members[number].from_peers.port();
        let url = format!("grpcs://127.0.0.1:{port}");
        let env = [
            ("OWN_PRIVATE_API_URL", url.as_str()),
            ("OWN_PRIVATE_API_HOST", "127.0.0.1"),
        ];
        replicas.restart_with(number, &env).await?;
    }
    let own = replicas.members[0].from_peers.port();
    let named = async || {
        let examined = examined(&replicas.configuration(0), &[], own).await.ok()?;
        let checks = examined.checks();
        let ways = checks.filter(|it| it["check"] == "reaches the others");
        // One that has just started may not know of the other yet.
        let is_named = examined.fails_with("peer_unreachable").is_ok();
        (ways.count() == 2 && is_named).then_some(examined)
    };

    let examined = until("both to be asked", SOON, named).await?;

    let found = examined.fails_with("peer_unreachable")?;
    let seen = found["seen"].as_str().unwrap_or_default();
    ensure!(found["check"] == "reaches the others", "{found}");
    ensure!(
        seen.contains("does not reach replica") && seen.contains(&own.to_string()),
        "{found}"
    );
    ensure!(is_mended_at(found, "Kubernetes"), "{found}");
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_of_redis_and_a_redis_that_is_away_are_told_apart() -> Result<()> {
    let name = "a_wrong_password_of_redis_and_a_redis_that_is_away_are_told_apart";
    let Some((folder, mut replicas)) = replicas(name).await? else {
        return Ok(());
    };
    let own = replicas.members[0].from_peers.port();
    let port = replicas.store.port();
    let configured = [
        "config",
        "set",
        "requirepass",
        "a secret that kas does not know",
    ];
    replicas.store.single()?.cli(&configured).await?;
    let password = folder.path().join("password");
    std::fs::write(&password, "another")?;
    let configuration = replicas.configuration(0);
    let text = std::fs::read_to_string(&configuration)?;
    let mut with_password: serde_json::Value = serde_json::from_str(&text)?;
    with_password["redis"]["password_file"] = json!(password);
    with_password["redis"]["server"]["address"] = json!(format!("127.0.0.1:{port}"));
    let other = folder.path().join("other.yaml");

    let without = examined(&configuration, &[], own).await?;
    std::fs::write(&other, with_password.to_string())?;
    let wrong = examined(&other, &[], own).await?;
    with_password["redis"]["server"]["address"] = json!(format!("127.0.0.1:{}", ports::free()));
    std::fs::write(&other, with_password.to_string())?;
    let away = examined(&other, &[], own).await?;

    for examined in [without, wrong] {
        let found = examined.fails_with("store_password")?;
        ensure!(is_mended_at(found, "Redis"), "{found}");
    }
    away.fails_with("store_unreachable")?;
    Ok(())
}

/// A configuration of a server that is not started.
fn alone(folder: &Path, more: &serde_json::Value) -> Result<std::path::PathBuf> {
    let agents = folder.join("agents.yaml");
    std::fs::write(&agents, "agents: []\n")?;
    let at = || json!({"address": format!("127.0.0.1:{}", ports::free())});
    let mut configuration = json!({
        "standalone": {"file": agents},
        "agent": {"listen": at()},
        "observability": {"listen": at()},
        "admin": {"enabled": false},
    });
    if let (Some(all), Some(more)) = (configuration.as_object_mut(), more.as_object()) {
        all.extend(more.clone());
    }
    let file = folder.join("kas.yaml");
    std::fs::write(&file, configuration.to_string())?;
    Ok(file)
}

#[tokio::test]
async fn a_port_that_another_program_has_and_a_certificate_that_has_ended_are_named() -> Result<()>
{
    let folder = tempfile::tempdir()?;
    let certs = Certs::expired(&folder.path().join("certs"))?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let listen = json!({
        "address": taken.local_addr()?.to_string(),
        "certificate_file": certs.certificate, "key_file": certs.key,
    });
    let configuration = alone(folder.path(), &json!({"agent": {"listen": listen}}))?;
    let missing = json!({"agent": {"kubernetes_api": {"listen": {
        "certificate_file": folder.path().join("no-such.crt"), "key_file": certs.key,
    }}}});

    let broken = examined(&configuration, &[], ports::free()).await?;
    let without_file = alone(folder.path(), &missing)?;
    let without_file = examined(&without_file, &[], ports::free()).await?;

    let found = broken.fails_with("port_taken")?;
    ensure!(found["check"] == "agent.listen", "{found}");
    broken.fails_with("expired")?;
    without_file.fails_with("configuration")?;
    let found = without_file.fails_with("file")?;
    ensure!(
        found["check"] == "agent.kubernetes_api.listen.certificate_file",
        "{found}"
    );
    Ok(())
}

#[tokio::test]
async fn a_gitlab_that_does_not_answer_is_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")?;
    let gitlab = json!({"gitlab": {
        "address": format!("http://127.0.0.1:{}", ports::free()), "authentication_secret_file": secret,
    }, "standalone": null});
    let configuration = alone(folder.path(), &gitlab)?;

    let examined = examined(&configuration, &[], ports::free()).await?;

    let found = examined.fails_with("gitlab")?;
    ensure!(is_mended_at(found, "kas"), "{found}");
    Ok(())
}

/// Passes on a request and the head of its answer, and nothing of what follows an upgrade.
async fn pass_until_upgraded(mut user: TcpStream, to: u16) -> Result<()> {
    let mut kas = TcpStream::connect(("127.0.0.1", to)).await?;
    let (mut asked, mut told) = ([0; 4 << 10], [0; 4 << 10]);
    loop {
        tokio::select! {
            read = user.read(&mut asked) => match read? {
                0 => return Ok(()),
                length => kas.write_all(&asked[..length]).await?,
            },
            read = kas.read(&mut told) => {
                let length = read?;
                user.write_all(&told[..length]).await?;
                if length == 0 || told.starts_with(b"HTTP/1.1 101") {
                    break;
                }
            }
        }
    }
    while user.read(&mut asked).await? > 0 {}
    Ok(())
}

/// Where that is done with whoever comes.
async fn deaf(to: u16) -> Result<(u16, AbortOnDropHandle<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let serving = tokio::spawn(async move {
        let mut users = JoinSet::new();
        while let Ok((user, _)) = listener.accept().await {
            users.spawn(pass_until_upgraded(user, to));
        }
    });
    Ok((port, AbortOnDropHandle::new(serving)))
}

#[tokio::test]
async fn an_upgraded_connection_through_which_nothing_comes_is_named() -> Result<()> {
    let rig = Rig::start().await?;
    let (port, _serving) = deaf(rig.kas.users).await?;
    let configuration = alone(rig.folder(), &json!({}))?;
    let users = format!("--users-url=http://127.0.0.1:{port}/k8s-proxy/");

    let examined = examined(&configuration, &[&users], ports::free()).await?;

    let found = examined.fails_with("buffered")?;
    ensure!(found["check"] == "upgraded connections", "{found}");
    Ok(())
}

/// A configuration beside the rig's own, and the flags for its users' address.
fn for_users(rig: &Rig, port: u16) -> Result<(std::path::PathBuf, [String; 2])> {
    let configuration = alone(rig.folder(), &json!({}))?;
    let flags = [
        format!("--users-url=https://localhost:{port}/k8s-proxy/"),
        format!("--ca-file={}", rig.certs.ca.display()),
    ];
    Ok((configuration, flags))
}

#[tokio::test]
async fn the_users_way_through_the_load_balancer_is_looked_at_too() -> Result<()> {
    let name = "the_users_way_through_the_load_balancer_is_looked_at_too";
    if skipped(name, &[Part::Nginx, Part::Haproxy]) {
        return Ok(());
    }
    let rig = Rig::start().await?;
    let (users, certs) = (rig.kas.users, &rig.certs);
    let haproxy = Haproxy::start(Front::Users, users, certs, rig.folder()).await?;
    let port = ports::free();
    let (certificate, key) = (certs.certificate.display(), certs.key.display());
    let server = |options: &str| {
        format!(
            "server {{ listen 127.0.0.1:{port} ssl http2; ssl_certificate {certificate}; ssl_certificate_key {key}; \
             location / {{ proxy_pass http://127.0.0.1:{users}; proxy_http_version 1.1; {options} }} }}"
        )
    };
    let nginx = Nginx::serving(port, &server("client_max_body_size 1m;"), rig.folder()).await?;

    let (configuration, flags) = for_users(&rig, haproxy.port())?;
    let flags = flags.each_ref().map(String::as_str);
    let whole = examined(&configuration, &flags, ports::free()).await?;
    let (configuration, flags) = for_users(&rig, nginx.port())?;
    let flags = flags.each_ref().map(String::as_str);
    let broken = examined(&configuration, &flags, ports::free()).await?;

    whole.is_content("users behind HAProxy")?;
    broken.fails_with("no_upgrade")?;
    broken.fails_with("buffered")?;
    broken.fails_with("body_limit")?;
    Ok(())
}

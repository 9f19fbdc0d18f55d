//! `deploy/compose`, as far as that can be seen without Docker: what it names is there, and kas starts with its file.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{
    parts::{Part, skipped},
    programs,
};
use tokio::process::Command;

const COMPOSE: &str = include_str!("../../deploy/compose/compose.yaml");
const HAPROXY: &str = include_str!("../../deploy/load-balancers/haproxy.cfg");

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/compose"))
}

#[test]
fn haproxy_names_the_services_and_every_mounted_file_is_there_or_is_made_by_prepare() -> Result<()>
{
    let compose: Value = serde_saphyr::from_str(COMPOSE)?;
    let services = compose["services"].as_object().context("services")?;
    let replicas: BTreeSet<_> = services
        .keys()
        .filter(|it| it.starts_with("kas-"))
        .cloned()
        .collect();
    let servers = HAPROXY
        .lines()
        .filter_map(|line| line.trim().strip_prefix("server "));
    let servers = servers.map(|line| {
        let mut words = line.split(' ');
        let (name, address) = (
            words.next(),
            words.next().and_then(|it| it.split(':').next()),
        );
        ensure!(name == address, "{line}");
        Ok(name.context("a name")?.to_owned())
    });
    let servers = servers.collect::<Result<BTreeSet<_>>>()?;
    ensure!(
        replicas == servers && replicas.len() == 3,
        "{replicas:?}, {servers:?}"
    );

    let prepare = std::fs::read_to_string(folder().join("prepare"))?;
    for (name, service) in services {
        // Whatever `<<: *kas` brings is merged by the reader.
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let from = volume
                .as_str()
                .and_then(|it| it.split(':').next())
                .context("a volume")?;
            let made = from.trim_start_matches("./");
            let is_made = prepare.contains(made);
            ensure!(folder().join(from).is_file() || is_made, "{name}: {from}");
        }
        if name.starts_with("kas-") {
            let url = service["environment"]["OWN_PRIVATE_API_URL"].as_str();
            ensure!(
                url == Some(&format!("grpc://{name}:8155")),
                "{name}: {url:?}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn kas_would_start_with_what_prepare_makes() -> Result<()> {
    let name = "kas_would_start_with_what_prepare_makes";
    if skipped(name, &[Part::Openssl]) {
        return Ok(());
    }
    let made = tempfile::tempdir()?;
    // Twice: what is there is kept.
    let mut secrets = Vec::new();
    for _ in 0..2 {
        let mut prepare = Command::new(folder().join("prepare"));
        prepare
            .arg("kas.example.com")
            .env("COMPOSE_FOLDER", made.path());
        let output = prepare.kill_on_drop(true).output().await?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        secrets.push(std::fs::read(made.path().join("secrets/private-api"))?);
    }
    ensure!(secrets[0] == secrets[1]);
    for file in [
        ".env",
        "secrets/redis",
        "secrets/kas.crt",
        "secrets/kas.pem",
        "data/agents.yaml",
    ] {
        ensure!(made.path().join(file).is_file(), "{file}");
    }

    let place = made.path().display().to_string();
    let text = std::fs::read_to_string(folder().join("kas.yaml"))?;
    let text = text.replace("/etc/kas", &place);
    let file = made.path().join("kas.yaml");
    std::fs::write(&file, text)?;
    let mut check = Command::new(programs::kas()?);
    check.arg("check-config").arg(&file).kill_on_drop(true);
    let output = check.output().await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}");
    let effective = String::from_utf8(output.stdout)?;
    for port in [":8150", ":8154", ":8151", ":8155"] {
        ensure!(effective.contains(port), "{effective}");
    }
    ensure!(!effective.contains("# Ignored"), "{effective}");
    Ok(())
}

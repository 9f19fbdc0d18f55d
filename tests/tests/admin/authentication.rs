//! From other machines nobody is told anything without a token or a certificate.

use std::path::Path;

use admin::{Client, ClientOptions, v1};
use anyhow::{Context, Result, ensure};
use tests::{
    certs::Certs,
    kas::{Kas, Options, run_cli},
    ports,
    process::Process,
    programs,
};
use tokio::process::Command;

use super::{LIMIT, TOKEN};

/// A kas whose admin API has TLS and tokens, or certificates.
pub(super) async fn secured(folder: &Path, certs: &Certs, more: &str) -> Result<(Kas, u16)> {
    let port = ports::free();
    let section = format!(
        "admin: {{listen: {{address: '0.0.0.0:{port}', certificate_file: {}, key_file: {}, {more}}}}}",
        certs.certificate.display(),
        certs.key.display()
    );
    let options = Options {
        more: &section,
        ..Options::default()
    };
    Ok((Kas::start(options, folder).await?, port))
}

async fn status(options: &ClientOptions) -> Result<v1::FleetStatus> {
    let mut client = Client::connect(options).await?;
    let answer = client.grpc().get_status(v1::GetStatusRequest {});
    Ok(answer.await?.into_inner())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_other_machines_a_token_or_a_certificate_is_needed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let certs = Certs::create(&folder.path().join("certs"))?;
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, format!("# people\nana {TOKEN}\n"))?;
    let more = format!("tokens_file: {}", tokens.display());
    let (kas, port) = secured(folder.path(), &certs, &more).await?;
    let options = ClientOptions {
        server: format!("https://localhost:{port}"),
        token_file: Some(tokens),
        ca_files: vec![certs.ca.clone()],
        ..ClientOptions::default()
    };

    let known = status(&options).await.with_context(|| kas.process.tail())?;
    ensure!(known.agents == 1, "{known:?}");
    let file = certs.certificate.display().to_string();
    let certificate = known.certificates.iter().find(|it| it.file == file);
    let certificate = certificate.with_context(|| format!("{known:?}"))?;
    ensure!(!certificate.replica.is_empty(), "{certificate:?}");
    let asked = known.coverage.context("a coverage")?.as_of;
    ensure!(certificate.not_after > asked, "{certificate:?} at {asked}");
    let nobody = ClientOptions {
        token_file: None,
        ..options
    };
    let refused = status(&nobody).await.expect_err("there is no token");
    let status = refused.downcast_ref::<tonic::Status>();
    let code = status.map(tonic::Status::code);
    ensure!(code == Some(tonic::Code::Unauthenticated), "{refused:#}");
    ensure!(!kas.process.output().contains(TOKEN));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_reached_from_other_machines_unprotected_does_not_start() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("agents.yaml");
    run_cli(&file, &["agent", "create", "first"]).await?;
    let configuration = folder.path().join("kas.yaml");
    let text = format!(
        "standalone: {{file: {}}}\nadmin: {{listen: {{address: ':0'}}}}\n",
        file.display()
    );
    std::fs::write(&configuration, text)?;
    let mut command = Command::new(programs::kas()?);
    command.arg("--configuration-file").arg(&configuration);
    let mut process = Process::spawn("kas", &mut command, folder.path())?;

    let status = process.ended(LIMIT).await?;

    let said = process.output();
    ensure!(!status.success(), "{said}");
    ensure!(said.contains("reached from other machines"), "{said}");
    ensure!(said.contains("tokens_file"), "{said}");
    Ok(())
}

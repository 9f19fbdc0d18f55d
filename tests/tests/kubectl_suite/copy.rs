//! Files: copied into a container and back, the same bytes.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::{kubectl::Streams, payload};

use crate::site::Site;

pub(crate) async fn both_ways(site: &Site, over: Streams, size: usize) -> Result<()> {
    let kubectl = site.kubectl.over(over).patient(Duration::from_secs(300));
    let name = format!("{size}-{over:?}");
    let (sent, returned) = (
        site.folder.join(&name),
        site.folder.join(format!("{name}-back")),
    );
    std::fs::write(&sent, payload::bytes(2, size))?;
    let digest = payload::sha256_of_file(&sent)?;
    let (local, remote) = (sent.display().to_string(), format!("box:/data/{name}"));

    kubectl.ok(&["cp", &local, &remote]).await?;
    let inside = kubectl
        .ok(&["exec", "box", "--", "sha256sum", &format!("/data/{name}")])
        .await?;
    kubectl
        .ok(&["cp", &remote, &returned.display().to_string()])
        .await?;
    let after = payload::sha256_of_file(&returned)?;
    kubectl
        .ok(&["exec", "box", "--", "rm", &format!("/data/{name}")])
        .await?;
    for file in [sent, returned] {
        std::fs::remove_file(file)?;
    }

    ensure!(
        inside.starts_with(&digest),
        "sent {digest}, inside is {inside}"
    );
    ensure!(after == digest, "sent {digest}, back came {after}");
    Ok(())
}

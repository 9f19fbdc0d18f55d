//! Forwarded ports.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use tests::{http, kubectl::Streams, payload};

use crate::site::Site;

const SOON: Duration = Duration::from_secs(60);
const LARGE: usize = 4 << 20;

pub(crate) async fn forwards(site: &Site, over: Streams) -> Result<()> {
    let kubectl = site.kubectl.over(over);
    let large = payload::bytes(3, LARGE);
    let file = format!("/www/large-{over:?}");
    let write = format!("cat > {file}; sync");
    kubectl
        .ok_with(&["exec", "-i", "box", "--", "sh", "-c", &write], &large)
        .await?;
    let name = format!("forward-{over:?}");
    let mut forward = kubectl.start(&name, &["port-forward", "pod/box", ":8080"], &site.folder)?;
    let port = port(&forward.wait_for("Forwarding from 127.0.0.1:", SOON).await?)?;
    let get = async |path: &str| http::get(&format!("http://127.0.0.1:{port}{path}"), "none").await;

    let small = try_join_all((0..10).map(|_| get("/index.html"))).await;
    let small = small.with_context(|| forward.tail())?;
    let body = get(file.trim_start_matches("/www")).await;
    let body = body.with_context(|| forward.tail())?.into_body();

    ensure!(
        small
            .iter()
            .all(|answer| answer.body() == "hello-from-pod\n"),
        "{small:?}"
    );
    ensure!(body == large, "{} of {LARGE} bytes", body.len());
    ensure!(forward.is_running(), "{}", forward.tail());
    Ok(())
}

/// From `Forwarding from 127.0.0.1:41234 -> 8080`.
fn port(line: &str) -> Result<u16> {
    let after = line.split("127.0.0.1:").nth(1).context("no address")?;
    let digits = after.split(' ').next().unwrap_or_default();
    digits.parse().with_context(|| line.to_owned())
}

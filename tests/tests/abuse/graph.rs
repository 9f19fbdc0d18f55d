//! Names that would become paths, and watchers who take more than their share.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::{http::Socket, rig::Rig};

use crate::memory::{given_back, peak_kib, resident_kib};

const HANDSHAKE: &[u8] = b"GET /k8s-proxy/-/graph HTTP/1.1\r\nHost: kas\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SOON: Duration = Duration::from_secs(20);

/// A frame with a text, masked with zeros, which changes nothing.
fn frame(text: &str) -> Result<Vec<u8>> {
    let length = u16::try_from(text.len())?.to_be_bytes();
    Ok([&[0x81, 0xFE], &length[..], &[0; 4], text.as_bytes()].concat())
}

/// A namespace that goes on as another path is refused before anybody is asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_no_way_to_other_resources() -> Result<()> {
    let rig = Rig::start().await?;
    let agent = rig.agent("bystander").await?;
    let credentials = rig.bearer_for(&agent);
    for resource in [
        r#"{"version":"v1","resource":"configmaps","namespace":"kube-system/secrets?x=","whole":true}"#,
        r#"{"version":"v1?x=1","resource":"configmaps"}"#,
        r#"{"version":"v1","resource":"pods/exec"}"#,
    ] {
        let mut socket = Socket::open(rig.kas.users).await?;
        socket.write(HANDSHAKE).await?;
        socket.read_until("\r\n\r\n", SOON).await?;
        let wanted = format!(r#"{{"credentials":"{credentials}","resource":{resource}}}"#);
        socket.write(&frame(&wanted)?).await?;
        socket
            .read_until("\"code\":\"InvalidArgument\"", SOON)
            .await?;
    }
    rig.check_serves(&agent).await
}

/// Strangers announce 4 MiB each, and send nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_announced_frame_takes_no_memory() -> Result<()> {
    let rig = Rig::start().await?;
    let agent = rig.agent("bystander").await?;
    let before = resident_kib(&rig.kas.process)?;
    let mut sockets = Vec::new();
    for _ in 0..100 {
        let mut socket = Socket::open(rig.kas.users).await?;
        socket.write(HANDSHAKE).await?;
        socket.read_until("\r\n\r\n", SOON).await?;
        let length = (4_u64 << 20).to_be_bytes();
        let header = [&[0x81, 0xFF], &length[..], &[0; 4]].concat();
        socket.write(&header).await?;
        sockets.push(socket);
    }
    rig.check_serves(&agent).await?;
    let peak = peak_kib(&rig.kas.process)?;
    ensure!(
        peak < before + (64 << 10),
        "{before} KiB before, {peak} KiB then"
    );
    drop(sockets);
    given_back(&rig.kas.process, before).await?;
    Ok(())
}

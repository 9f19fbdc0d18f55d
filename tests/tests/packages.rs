//! What the packages of `deploy/packages` rely on: that kas tells systemd when it is ready and when it leaves, and that the
//! example configuration starts it.

use std::{os::unix::net::UnixDatagram, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use tests::{ports, process::Process, programs};
use tokio::process::Command;

const EXAMPLE: &str = include_str!("../../deploy/packages/kas.yaml");
const UNIT: &str = include_str!("../../deploy/packages/kas.service");
const LIMIT: Duration = Duration::from_secs(60);

/// The next message to the service manager.
fn told(socket: &UnixDatagram) -> Result<String> {
    let mut message = [0; 256];
    let length = socket
        .recv(&mut message)
        .context("no message to the service manager")?;
    Ok(String::from_utf8_lossy(&message[..length])
        .trim()
        .to_owned())
}

/// The example with the paths and ports of a test.
fn example(folder: &Path) -> Result<String> {
    let mut text = EXAMPLE.replace("/var/lib/kas", &folder.display().to_string());
    for port in [":8150", ":8151", ":8154"] {
        ensure!(text.contains(port), "the example has no {port}");
        text = text.replace(port, &format!(":{}", ports::free()));
    }
    Ok(text
        + &format!(
            "admin: {{listen: {{address: \"127.0.0.1:{}\"}}}}\n",
            ports::free()
        ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_packages_example_starts_kas_which_tells_systemd_so() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // As the package's script leaves it.
    std::fs::write(folder.path().join("agents.yaml"), "agents: []\n")?;
    let file = folder.path().join("kas.yaml");
    std::fs::write(&file, example(folder.path())?)?;
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(LIMIT))?;
    let mut command = Command::new(programs::kas()?);
    command
        .arg("--configuration-file")
        .arg(&file)
        .env("NOTIFY_SOCKET", &path);

    let mut kas = Process::spawn("kas", &mut command, folder.path())?;
    let ready = tokio::task::block_in_place(|| told(&socket));
    ensure!(ready.with_context(|| kas.tail())? == "READY=1");
    let status = kas.end_by("TERM", LIMIT).await?;
    ensure!(status.success(), "{}", kas.tail());
    ensure!(told(&socket)? == "STOPPING=1");
    Ok(())
}

#[test]
fn the_unit_waits_for_what_kas_tells_and_for_requests_in_progress() {
    for line in [
        "Type=notify",
        "ExecStart=/usr/bin/kas --configuration-file /etc/kas/kas.yaml",
        "ExecReload=/bin/sh -c \"kill -HUP $MAINPID\"",
        "TimeoutStopSec=65min",
    ] {
        assert!(UNIT.lines().any(|it| it == line), "{line}");
    }
}

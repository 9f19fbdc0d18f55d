//! Go programs of the tests, built once into the cache.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::parts;

/// grpc-go takes a while to compile the first time.
const LIMIT: Duration = Duration::from_secs(600);

/// Builds the module in `tests/NAME` and gives the program.
///
/// # Errors
/// When it does not compile.
pub async fn build(name: &str) -> Result<PathBuf> {
    let program = parts::cache().join("bin").join(format!("kas-{name}"));
    let mut command = Command::new(parts::program("go").context("no go")?);
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(name))
        .args(["build", "-mod=readonly", "-o"])
        .arg(&program)
        .arg(".")
        .env("CGO_ENABLED", "0")
        .kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output())
        .await
        .context("go build hangs")??;
    if !output.status.success() {
        bail!(
            "go build of {name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(program)
}

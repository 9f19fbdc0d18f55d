//! The registry of the images that `tests/setup/conformance` has made.

use std::path::Path;

use anyhow::Result;
use tests::{parts, process::Process};
use tokio::process::Command;

/// A running registry.
#[derive(Debug)]
pub(crate) struct Registry {
    _process: Process,
}

impl Registry {
    pub(crate) async fn start(port: u16, folder: &Path) -> Result<Self> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("setup/registry");
        let images = parts::cache().join("conformance");
        let mut command = Command::new(program);
        command
            .arg(port.to_string())
            .arg(images.join(parts::kubernetes_version()));
        let process = Process::listening("registry", &mut command, port, folder).await?;
        Ok(Self { _process: process })
    }
}

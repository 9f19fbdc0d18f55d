//! The registry of the images that `tests/setup/conformance` has made.

use std::path::Path;

use anyhow::Result;
use tests::{parts, ports, process::Process};
use tokio::process::Command;

/// A running registry.
#[derive(Debug)]
pub(crate) struct Registry {
    port: u16,
    _process: Process,
}

impl Registry {
    pub(crate) async fn start(folder: &Path) -> Result<Self> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("setup/registry");
        let images = parts::cache().join("conformance");
        let port = ports::free();
        let mut command = Command::new(program);
        command
            .arg(port.to_string())
            .arg(images.join(parts::kubernetes_version()));
        let process = Process::listening("registry", &mut command, port, folder).await?;
        Ok(Self {
            port,
            _process: process,
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

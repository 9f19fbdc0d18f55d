//! The programs under test, as `make build` leaves them beside the test, or in the folder
//! that `KAS_BIN_DIR` names.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The server.
///
/// # Errors
/// When it is not built.
pub fn kas() -> Result<PathBuf> {
    built("kas")
}

/// The agent: ours, or the one that `AGENTK_BIN` names.
///
/// # Errors
/// When it is not built or not there.
pub fn agentk() -> Result<PathBuf> {
    let Some(other) = other_agentk() else {
        return built("agentk");
    };
    if !other.is_file() {
        bail!("AGENTK_BIN={}: no such file", other.display());
    }
    Ok(other)
}

/// Our agent, whatever `AGENTK_BIN` names.
///
/// # Errors
/// When it is not built.
pub fn own_agentk() -> Result<PathBuf> {
    built("agentk")
}

/// The load generator.
///
/// # Errors
/// When it is not built.
pub fn loadtest() -> Result<PathBuf> {
    built("loadtest")
}

/// The agent that `AGENTK_BIN` puts in place of ours.
#[must_use]
pub fn other_agentk() -> Option<PathBuf> {
    std::env::var_os("AGENTK_BIN")
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
}

/// A program beside the test: `target/PROFILE/deps/test` -> `target/PROFILE/name`.
fn built(name: &str) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("KAS_BIN_DIR").filter(|name| !name.is_empty()) {
        let program = PathBuf::from(folder).join(name);
        if !program.is_file() {
            bail!("KAS_BIN_DIR has no {name}: {}", program.display());
        }
        return Ok(program);
    }
    let test = std::env::current_exe().context("where the test program is")?;
    let folder = test
        .parent()
        .and_then(|deps| deps.parent())
        .context("target folder")?;
    let program = folder.join(name);
    if !program.is_file() {
        bail!("{} is not built; run `make build` first", program.display());
    }
    Ok(program)
}

//! The programs under test, as `make build` leaves them beside the test, or in the folder
//! that `KAS_BIN_DIR` names.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::parts;

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
    named_by("AGENTK_BIN")
}

/// What a test needs from elsewhere, by the path in a variable. Where that is not set, says aloud that the test is
/// skipped.
///
/// # Errors
/// When there is no such file.
pub fn given(variable: &str, test: &str) -> Result<Option<PathBuf>> {
    let Some(file) = named_by(variable) else {
        parts::say(&format!("SKIPPED: {test} needs {variable}=path"));
        return Ok(None);
    };
    if !file.is_file() {
        bail!("{variable}={}: no such file", file.display());
    }
    Ok(Some(file))
}

fn named_by(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable)
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
}

/// GitLab's kas, which `GO_KAS` names; `None` where it names nothing.
///
/// # Errors
/// When it names what is not there.
pub fn go_kas() -> Result<Option<PathBuf>> {
    let named = std::env::var_os("GO_KAS").filter(|name| !name.is_empty());
    let Some(program) = named.map(PathBuf::from) else {
        return Ok(None);
    };
    if !program.is_file() {
        bail!("GO_KAS={}: no such file", program.display());
    }
    Ok(Some(program))
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

//! What is measured: replicas, what they share, and who tells them who is who.

mod configuration;
pub(crate) mod control;
pub(crate) mod gitlab;
pub(crate) mod product;
pub(crate) mod replica;
mod setup;
pub(crate) mod store;

use std::path::{Path, PathBuf};

use anyhow::Context;

pub(crate) use control::ControlPlane;
pub(crate) use gitlab::GitLab;
pub(crate) use product::Product;
pub(crate) use replica::Replica;
pub(crate) use setup::Setup;
pub(crate) use store::Store;

/// The program that was given, or the one of this name beside this program.
pub(crate) fn beside(given: Option<&Path>, name: &str) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let own = std::env::current_exe().context("this program's own path is unknown")?;
    Ok(own.with_file_name(name))
}

//! Key pairs of agents that are dialled.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::CommandError;
use crate::control_plane::standalone::{
    names::AgentName,
    receptive::{JwtEntry, ReceptiveEntry},
};

/// Where the two keys of an agent are.
pub(super) struct Pair {
    /// For kas alone.
    pub(super) private: PathBuf,
    /// For the agent.
    pub(super) public: PathBuf,
}

impl Pair {
    /// Beside the file of agents.
    pub(super) fn of(file: &Path, agent: &AgentName) -> Self {
        let agent = agent.as_str();
        let beside = |end: &str| {
            let path = file.with_file_name(format!("{agent}-receptive.{end}"));
            std::path::absolute(&path).unwrap_or(path)
        };
        Self {
            private: beside("key"),
            public: beside("pub"),
        }
    }

    /// Makes new keys; gives the public one.
    pub(super) fn create(&self) -> Result<String, CommandError> {
        let keys = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)
            .map_err(|error| CommandError::Usage(format!("no key can be made: {error}")))?;
        let public = STANDARD.encode(keys.public_key_raw());
        write(&self.private, 0o600, &keys.serialize_pem())?;
        write(&self.public, 0o644, &format!("{public}\n"))?;
        Ok(public)
    }

    /// Takes keys away that nobody uses.
    pub(super) fn remove(&self) {
        for path in [&self.private, &self.public] {
            // What stays does no harm.
            let _ = std::fs::remove_file(path);
        }
    }

    /// What the file of agents says of it.
    pub(super) fn entry(&self, url: &str) -> ReceptiveEntry {
        ReceptiveEntry {
            url: url.to_owned(),
            jwt: Some(JwtEntry {
                private_key_file: self.private.clone(),
            }),
            mtls: None,
            ca_certificate_file: None,
            tls_server_name: None,
        }
    }
}

/// Never writes over a key that may be in use.
fn write(path: &Path, mode: u32, text: &str) -> Result<(), CommandError> {
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(mode);
    folder
        .and_then(|()| options.open(path))
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| CommandError::Usage(format!("cannot write {}: {error}", path.display())))
}

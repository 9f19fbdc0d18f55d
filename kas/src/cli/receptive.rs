//! Key pair files of receptive agents.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use control_plane::standalone::{
    names::AgentName,
    receptive::{JwtEntry, ReceptiveEntry},
};

use super::CommandError;

/// The paths of an agent's two keys.
pub(super) struct KeyPairFiles {
    /// For kas alone.
    pub(super) private: PathBuf,
    /// For the agent.
    pub(super) public: PathBuf,
}

impl KeyPairFiles {
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

    /// Generates new keys and returns the public one.
    pub(super) fn create(&self) -> Result<String, CommandError> {
        let keys = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(CommandError::Key)?;
        let public = STANDARD.encode(keys.public_key_raw());
        write(&self.private, 0o600, &keys.serialize_pem())?;
        write(&self.public, 0o644, &format!("{public}\n"))?;
        Ok(public)
    }

    /// Removes keys that are not in use.
    pub(super) fn remove(&self) {
        for path in [&self.private, &self.public] {
            // A file that stays is harmless.
            let _ = std::fs::remove_file(path);
        }
    }

    /// The agent's entry in the control plane's file.
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

/// Never overwrites a key that may be in use.
fn write(path: &Path, mode: u32, text: &str) -> Result<(), CommandError> {
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(mode);
    folder
        .and_then(|()| options.open(path))
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| CommandError::Io {
            attempt: format!("cannot write {}", path.display()),
            error,
        })
}

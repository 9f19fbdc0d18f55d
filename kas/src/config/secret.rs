//! Secrets: those that stand in the configuration, and those in files of their own.

use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};

/// A secret text whose `Debug` shows nothing of it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret itself; never to be logged.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "…" })
    }
}

/// Why an `authentication_secret_file` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It cannot be read.
    #[error("cannot read the secret file {}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not base64.
    #[error("the secret file {} must hold standard base64 with padding", file.display())]
    NotBase64 {
        /// The file.
        file: PathBuf,
    },
    /// It decodes to nothing.
    #[error("the secret file {} is empty", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
}

/// The bytes of an `authentication_secret_file`: base64, line ends ignored.
pub fn read_secret_file(file: &Path) -> Result<Vec<u8>, SecretFileError> {
    let mut text = std::fs::read(file).map_err(|source| SecretFileError::Unreadable {
        file: file.to_owned(),
        source,
    })?;
    text.retain(|byte| !matches!(byte, b'\r' | b'\n'));
    let bytes = STANDARD
        .decode(text)
        .map_err(|_| SecretFileError::NotBase64 {
            file: file.to_owned(),
        })?;
    if bytes.is_empty() {
        return Err(SecretFileError::Empty {
            file: file.to_owned(),
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<u8>, SecretFileError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read_secret_file(file.path())
    }

    #[test]
    fn a_secret_file_is_base64_with_line_ends_anywhere() {
        assert_eq!(read("c2Vj\r\ncmV0\n").unwrap(), b"secret");
        assert!(matches!(
            read("c2Vj cmV0"),
            Err(SecretFileError::NotBase64 { .. })
        ));
        assert!(matches!(read("\n"), Err(SecretFileError::Empty { .. })));
        assert!(matches!(
            read_secret_file(Path::new("/nonexistent/secret")),
            Err(SecretFileError::Unreadable { .. })
        ));
    }
}

//! The agent's token, which may live in a file that changes.

use std::{fmt, path::PathBuf, time::Duration};

use http::HeaderValue;
use zeroize::ZeroizeOnDrop;

use runtime::telemetry::Causes;

use crate::last_failure::LastFailure;

/// How often the file is read.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// Text whose `Debug` shows nothing, and whose memory is zeroed when it goes.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// The text; to be sent or kept, never to be logged.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self(secret)
    }
}

/// Where the token is.
#[derive(Debug, Clone)]
pub enum Token {
    /// Here.
    Fixed(Secret),
    /// In a file; one newline at its end does not belong to it.
    File(PathBuf),
    /// In a file that may appear later; until then here.
    Kept {
        /// The token.
        secret: Secret,
        /// The file.
        file: PathBuf,
    },
}

/// A token that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the token file {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is empty, or cannot be sent.
    #[error("the token {0} is empty or has characters that no token has")]
    Unusable(String),
}

/// Keeps the token that was read last.
#[derive(Debug, Clone)]
pub(crate) struct TokenReader {
    token: Token,
    last: Secret,
    failure: LastFailure,
}

impl TokenReader {
    /// Reads the token for the first time.
    pub(crate) async fn open(token: Token) -> Result<Self, TokenError> {
        let last = read(&token).await?;
        Ok(Self {
            token,
            last,
            failure: LastFailure::default(),
        })
    }

    /// Reads it again; returns whether it has changed. If that fails, the last one is kept.
    pub(crate) async fn refresh(&mut self) -> bool {
        match read(&self.token).await {
            Ok(token) => {
                self.failure.clear();
                let changed = token != self.last;
                self.last = token;
                changed
            }
            Err(error) => {
                let error = Causes(&error).to_string();
                if self.failure.is_new(&error) {
                    tracing::error!(error, "cannot read the agent's token; using the last one");
                }
                false
            }
        }
    }

    /// Waits until it has changed. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        if matches!(self.token, Token::Fixed(_)) {
            std::future::pending::<()>().await;
        }
        loop {
            tokio::time::sleep(RELOAD_INTERVAL).await;
            if self.refresh().await {
                return;
            }
        }
    }

    /// `Bearer …`, as metadata of calls.
    pub(crate) fn bearer(&self) -> HeaderValue {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.last.0))
            .expect("checked when it was read");
        value.set_sensitive(true);
        value
    }
}

async fn read(token: &Token) -> Result<Secret, TokenError> {
    let (secret, from) = match token {
        Token::Fixed(secret) => (secret.0.clone(), String::new()),
        Token::Kept { secret, file } => {
            let mounted = tokio::fs::read_to_string(file).await.unwrap_or_default();
            let mounted = mounted.trim();
            let token = match mounted.is_empty() {
                true => secret.0.clone(),
                false => mounted.to_owned(),
            };
            (token, format!("in {}", file.display()))
        }
        Token::File(path) => {
            let shown = path.display().to_string();
            let mut text =
                tokio::fs::read_to_string(path)
                    .await
                    .map_err(|source| TokenError::Read {
                        path: shown.clone(),
                        source,
                    })?;
            if text.ends_with('\n') {
                text.pop();
            }
            (text, format!("in {shown}"))
        }
    };
    if secret.trim().is_empty() || HeaderValue::from_str(&secret).is_err() {
        return Err(TokenError::Unusable(from));
    }
    Ok(Secret(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(reader: &TokenReader) -> String {
        reader.bearer().to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn one_newline_at_the_end_is_cut() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "secret\n").unwrap();

        let reader = TokenReader::open(Token::File(file.path().into()))
            .await
            .unwrap();

        assert_eq!(shown(&reader), "Bearer secret");
        assert!(!format!("{reader:?}").contains("secret\""));
    }

    #[tokio::test]
    async fn a_file_that_vanishes_leaves_the_last_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "first").unwrap();
        let mut reader = TokenReader::open(Token::File(path.clone())).await.unwrap();

        std::fs::remove_file(&path).unwrap();
        assert!(!reader.refresh().await);
        assert_eq!(shown(&reader), "Bearer first");

        std::fs::write(&path, "second").unwrap();
        assert!(reader.refresh().await);
        assert_eq!(shown(&reader), "Bearer second");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_noticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "first").unwrap();
        let mut reader = TokenReader::open(Token::File(file.path().into()))
            .await
            .unwrap();
        std::fs::write(file.path(), "second").unwrap();

        reader.changed().await;

        assert_eq!(shown(&reader), "Bearer second");
    }

    #[tokio::test]
    async fn empty_and_broken_tokens_are_refused() {
        for wrong in ["", "\n", "a\nb"] {
            let token = Token::Fixed(Secret(wrong.to_owned()));
            assert!(TokenReader::open(token).await.is_err(), "{wrong:?}");
        }
        let missing = Token::File("/nonexistent/token".into());
        let error = TokenReader::open(missing).await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent/token"));
    }
}

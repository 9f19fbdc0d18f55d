//! The tokens of those who may ask, from a file that is read again when it changes.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use runtime::jwt::SECRET_BYTES;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

use crate::{Role, RoleError};

/// Tokens in a file, at most: each one that is shown is compared with all.
pub const MAX_TOKENS: usize = 100;
/// Bytes of the file, at most.
const MAX_FILE_BYTES: u64 = 256 << 10;
/// How often, at most, the file is looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Why a file of tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It cannot be read.
    #[error("cannot read the file of admin tokens {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is longer than it may be.
    #[error("the file of admin tokens {} has more than {MAX_FILE_BYTES} bytes", .0.display())]
    Long(PathBuf),
    /// There are too many.
    #[error("the file of admin tokens {} has more than {MAX_TOKENS} tokens", .0.display())]
    Many(PathBuf),
    /// There are none.
    #[error("the file of admin tokens {} has no token: write one with: openssl rand -hex 32", .0.display())]
    None(PathBuf),
    /// One of them can be guessed.
    #[error(
        "the file of admin tokens {}, line {line}: a token must have at least {SECRET_BYTES} bytes; make a new one with: openssl rand -hex 32",
        path.display()
    )]
    Short {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// A line that is none.
    #[error(
        "the file of admin tokens {}, line {line}: it must be a token, perhaps behind a name and `role=ROLE`, with \
         spaces between",
        path.display()
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// A role that is none.
    #[error("the file of admin tokens {}, line {line}", path.display())]
    Role {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// Why.
        #[source]
        source: RoleError,
    },
}

/// What marks a role before a token.
const ROLE_MARK: &str = "role=";

/// The tokens of a file.
#[derive(Debug)]
pub(crate) struct Tokens {
    path: PathBuf,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    tokens: Arc<[Token]>,
    stamp: Stamp,
    checked_at: Instant,
}

/// What changes when the file does.
type Stamp = Option<(SystemTime, u64)>;

/// A token, of which only the hash is kept.
#[derive(Debug)]
struct Token {
    holder: Holder,
    hash: [u8; 32],
}

/// Whose a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    /// The name before it, or `token-LINE`.
    pub(crate) name: Arc<str>,
    /// The role before it; `None` where there is none.
    pub(crate) role: Option<Role>,
}

impl Tokens {
    /// Reads the file.
    ///
    /// # Errors
    /// [`TokensError`], naming the file and the line.
    pub(crate) fn read(path: &Path) -> Result<Self, TokensError> {
        let stamp = stamp(path);
        let current = Current {
            tokens: read(path)?,
            stamp,
            checked_at: Instant::now(),
        };
        Ok(Self {
            path: path.to_owned(),
            current: Mutex::new(current),
        })
    }

    /// Who shows this token; `None` if it is not in the file.
    pub(crate) fn holder(&self, shown: &str) -> Option<Holder> {
        let hash: [u8; 32] = Sha256::digest(shown.as_bytes()).into();
        let tokens = self.tokens();
        // All are compared, so that the time says nothing of which.
        let mut found = None;
        for token in tokens.iter() {
            if bool::from(token.hash.ct_eq(&hash)) {
                found = Some(&token.holder);
            }
        }
        found.cloned()
    }

    fn tokens(&self) -> Arc<[Token]> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.checked_at.elapsed() >= CHECK_INTERVAL {
            current.checked_at = Instant::now();
            let now = stamp(&self.path);
            if now != current.stamp {
                current.stamp = now;
                match read(&self.path) {
                    Ok(tokens) => {
                        tracing::info!(file = %self.path.display(), tokens = tokens.len(), "admin tokens reloaded");
                        current.tokens = tokens;
                    }
                    Err(error) => {
                        let error = runtime::telemetry::Causes(&error);
                        tracing::error!(%error, "the changed file of admin tokens is not valid; keeping the previous tokens");
                    }
                }
            }
        }
        current.tokens.clone()
    }
}

/// Whether a file of tokens can be used.
///
/// # Errors
/// [`TokensError`], naming the file and the line.
pub fn check(path: &Path) -> Result<(), TokensError> {
    read(path).map(drop)
}

fn stamp(path: &Path) -> Stamp {
    let data = std::fs::metadata(path).ok()?;
    Some((data.modified().ok()?, data.len()))
}

fn read(path: &Path) -> Result<Arc<[Token]>, TokensError> {
    let unreadable = |source| TokensError::Read {
        path: path.to_owned(),
        source,
    };
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > MAX_FILE_BYTES {
        return Err(TokensError::Long(path.to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let mut tokens = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if tokens.len() == MAX_TOKENS {
            return Err(TokensError::Many(path.to_owned()));
        }
        tokens.push(token(path, line, text)?);
    }
    if tokens.is_empty() {
        return Err(TokensError::None(path.to_owned()));
    }
    Ok(tokens.into())
}

fn token(path: &Path, line: usize, text: &str) -> Result<Token, TokensError> {
    let words: Vec<_> = text.split_whitespace().collect();
    let marked = |word: &str| word.starts_with(ROLE_MARK);
    let (name, role, token) = match words[..] {
        [token] => (None, None, token),
        [role, token] if marked(role) => (None, Some(role), token),
        [name, token] => (Some(name), None, token),
        [name, role, token] if marked(role) && !marked(name) => (Some(name), Some(role), token),
        _ => {
            return Err(TokensError::Line {
                path: path.to_owned(),
                line,
            });
        }
    };
    let role = role.map(|mark| mark[ROLE_MARK.len()..].parse()).transpose();
    let role = role.map_err(|source| TokensError::Role {
        path: path.to_owned(),
        line,
        source,
    })?;
    if token.len() < SECRET_BYTES {
        return Err(TokensError::Short {
            path: path.to_owned(),
            line,
        });
    }
    if let Some(name) = name
        && role.is_none()
        && name.parse::<Role>().is_ok()
    {
        tracing::warn!(
            file = %path.display(),
            line,
            name,
            "an admin token has a role's name, but not the role: write `role=` before a role"
        );
    }
    let name = name.map_or_else(|| format!("token-{line}"), str::to_owned);
    Ok(Token {
        holder: Holder {
            name: name.into(),
            role,
        },
        hash: Sha256::digest(token.as_bytes()).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &str = "0123456789abcdef0123456789abcdef";

    fn with(text: &str) -> Result<Tokens, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        std::fs::write(&file, text).unwrap();
        Tokens::read(&file).map_err(|error| runtime::telemetry::Causes(&error).to_string())
    }

    #[test]
    fn a_token_is_known_by_its_name_or_its_line_and_may_have_a_role() {
        let tokens = with(&format!(
            "# people\n\nana {LONG}a\n{LONG}b\neve role=administrator {LONG}c\nrole=viewer {LONG}d\nviewer {LONG}e\n"
        ));
        let tokens = tokens.unwrap();
        let holder = |end: &str| {
            let holder = tokens.holder(&format!("{LONG}{end}"))?;
            Some((holder.name.to_string(), holder.role))
        };
        let known = |name: &str, role| Some((name.to_owned(), role));

        assert_eq!(holder("a"), known("ana", None), "{tokens:?}");
        assert_eq!(holder("b"), known("token-4", None));
        assert_eq!(holder("c"), known("eve", Some(Role::Administrator)));
        assert_eq!(holder("d"), known("token-6", Some(Role::Viewer)));
        // A name gives nobody a role.
        assert_eq!(holder("e"), known("viewer", None));
        assert_eq!(holder(""), None);
        assert!(!format!("{tokens:?}").contains(LONG));
    }

    #[test]
    fn what_can_be_guessed_or_is_no_token_is_refused_with_its_line() {
        let why = |text: &str| with(text).unwrap_err();

        assert!(why("ana short").contains("line 1: a token must have at least 32 bytes"));
        assert!(why(&format!("\na b {LONG}")).contains("line 2"));
        assert!(why("# nothing\n").contains("has no token"));
        let typo = why(&format!("ana role=adminstrator {LONG}"));
        assert!(
            typo.contains("line 1") && typo.contains("did you mean administrator?"),
            "{typo}"
        );
        for wrong in [
            "role=viewer role=operator",
            "role=viewer ana",
            "a b role=viewer",
        ] {
            assert!(
                why(&format!("{wrong} {LONG}")).contains("perhaps behind a name"),
                "{wrong}"
            );
        }
        let many = format!("{LONG}\n").repeat(MAX_TOKENS + 1);
        assert!(why(&many).contains("more than 100 tokens"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_counts_and_a_broken_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        std::fs::write(&file, LONG).unwrap();
        let tokens = Tokens::read(&file).unwrap();

        std::fs::write(&file, format!("ana {LONG}a")).unwrap();
        tokio::time::advance(CHECK_INTERVAL).await;
        assert_eq!(tokens.holder(LONG), None);
        assert!(tokens.holder(&format!("{LONG}a")).is_some());

        std::fs::write(&file, "short").unwrap();
        tokio::time::advance(CHECK_INTERVAL).await;
        assert!(tokens.holder(&format!("{LONG}a")).is_some());
    }
}

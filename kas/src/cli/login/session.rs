//! A login that is kept: one file a server, which only its owner can read.

use std::{
    fs::DirBuilder,
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use control_plane::Token;
use jiff::Timestamp;
use runtime::lock_file::{LockError, LockFile};
use serde::{Deserialize, Serialize};

use super::{
    LoginError,
    provider::{Client, Provider, Tokens, claims},
};

/// Tokens with less time left are refreshed first.
const MARGIN: Duration = Duration::from_secs(30);
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// A login. Its `Debug` shows no token.
#[derive(Clone, Serialize, Deserialize)]
pub(in super::super) struct Session {
    server: String,
    certificate_authority: Option<PathBuf>,
    #[serde(flatten)]
    client: Client,
    id_token: String,
    refresh_token: Option<String>,
    expires_at: Timestamp,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("server", &self.server)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// What a login gave.
    ///
    /// # Errors
    /// When the ID token does not say when it ends.
    pub(super) fn new(
        server: &str,
        certificate_authority: Option<PathBuf>,
        client: Client,
        tokens: Tokens,
    ) -> Result<Self, LoginError> {
        let expires_at = end(&tokens.id_token)?;
        let absolute =
            |file: Option<PathBuf>| file.map(|file| std::path::absolute(&file).unwrap_or(file));
        Ok(Self {
            server: normal(server).to_owned(),
            certificate_authority: absolute(certificate_authority),
            client: Client {
                secret_file: absolute(client.secret_file),
                ca_file: absolute(client.ca_file),
                ..client
            },
            id_token: tokens.id_token,
            refresh_token: tokens.refresh_token,
            expires_at,
        })
    }

    /// A login at a server whose ID token is good for a while: it is refreshed where it is not.
    ///
    /// # Errors
    /// When nobody is logged in there, or not any more.
    pub(in super::super) async fn fresh(server: &str) -> Result<Self, LoginError> {
        let session = Self::load(server)?;
        if session.is_good_for(MARGIN) {
            return Ok(session);
        }
        let _lock = lock(&file(server)?).await?;
        // Another command may have refreshed it meanwhile.
        let session = Self::load(server)?;
        if session.is_good_for(MARGIN) {
            return Ok(session);
        }
        match session.refreshed().await {
            Ok(session) => {
                session.save()?;
                Ok(session)
            }
            Err(LoginError::Refused { words, .. }) => Err(session.over(words)),
            // Better than nothing while the issuer is away.
            Err(_) if session.is_good_for(Duration::ZERO) => Ok(session),
            Err(error) => Err(error),
        }
    }

    async fn refreshed(&self) -> Result<Self, LoginError> {
        let Some(refresh_token) = &self.refresh_token else {
            return Err(self.over("the issuer gave no refresh token".to_owned()));
        };
        let provider = Provider::discover(self.client.clone()).await?;
        let tokens = provider.refresh(refresh_token).await?;
        let mut session = self.clone();
        session.expires_at = end(&tokens.id_token)?;
        session.id_token = tokens.id_token;
        // An issuer that gives no other one lets the old one go on.
        session.refresh_token = tokens.refresh_token.or(session.refresh_token);
        Ok(session)
    }

    fn over(&self, why: String) -> LoginError {
        LoginError::Over {
            server: self.server.clone(),
            why,
        }
    }

    fn is_good_for(&self, time: Duration) -> bool {
        let until = Timestamp::now().checked_add(time);
        until.is_ok_and(|until| until < self.expires_at)
    }

    /// What is shown to kas for an agent.
    pub(in super::super) fn bearer(&self, agent: i64) -> String {
        format!("oidc:{agent}:{}", self.id_token)
    }

    /// When the ID token ends.
    pub(in super::super) fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// The CA of the server, if one was named.
    pub(in super::super) fn certificate_authority(&self) -> Option<&Path> {
        self.certificate_authority.as_deref()
    }

    fn load(server: &str) -> Result<Self, LoginError> {
        let file = file(server)?;
        let text = match std::fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let server = normal(server).to_owned();
                return Err(LoginError::NoSession { server });
            }
            Err(error) => return Err(failed("read", &file)(error)),
        };
        serde_json::from_slice(&text).map_err(|error| failed("read", &file)(error.into()))
    }

    /// Keeps it, in place of an older one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn save(&self) -> Result<(), LoginError> {
        let file = file(&self.server)?;
        let folder = file.parent().unwrap_or(Path::new("."));
        let mut builder = DirBuilder::new();
        let created = builder.recursive(true).mode(0o700).create(folder);
        created.map_err(failed("create", folder))?;
        // Such a file is its owner's only.
        let mut new =
            tempfile::NamedTempFile::new_in(folder).map_err(failed("write in", folder))?;
        let text = serde_json::to_vec_pretty(self);
        let text = text.map_err(|error| failed("write", &file)(error.into()))?;
        new.write_all(&text).map_err(failed("write", &file))?;
        let kept = new.persist(&file);
        kept.map_err(|error| failed("write", &file)(error.error))?;
        Ok(())
    }

    /// Forgets it, if there is one.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(super) fn forget(server: &str) -> Result<(), LoginError> {
        let file = file(server)?;
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &file)(error))
            }
            _ => Ok(()),
        }
    }
}

/// One text for one server.
fn normal(server: &str) -> &str {
    server.trim_end_matches('/')
}

fn end(id_token: &str) -> Result<Timestamp, LoginError> {
    #[derive(Deserialize)]
    struct End {
        exp: i64,
    }
    let End { exp } = claims(id_token)?;
    Ok(Timestamp::from_second(exp).unwrap_or(Timestamp::MAX))
}

/// Where a login is kept.
fn file(server: &str) -> Result<PathBuf, LoginError> {
    let folder = |name: &str| {
        let value = std::env::var_os(name).filter(|it| !it.is_empty());
        value.map(PathBuf::from)
    };
    let logins = folder("KAS_LOGINS")
        .or_else(|| folder("XDG_STATE_HOME").map(|it| it.join("kas/logins")))
        .or_else(|| folder("HOME").map(|it| it.join(".local/state/kas/logins")))
        .ok_or(LoginError::NoFolder)?;
    let name = Token::new(normal(server)).hash().fingerprint();
    Ok(logins.join(format!("{name}.json")))
}

/// Held until dropped.
async fn lock(file: &Path) -> Result<LockFile, LoginError> {
    let path = file.with_extension("lock");
    let taken = {
        let path = path.clone();
        tokio::task::spawn_blocking(move || LockFile::take(&path, LOCK_TIMEOUT)).await
    };
    let taken = taken.map_err(|error| failed("lock", &path)(error.into()))?;
    taken.map_err(|error| match error {
        LockError::Open(error) => failed("open", &path)(error),
        LockError::Lock(error) => failed("lock", &path)(error),
        LockError::Held => LoginError::Locked,
    })
}

fn failed(step: &str, file: &Path) -> impl Fn(io::Error) -> LoginError {
    let attempt = format!("{step} {}", file.display());
    move |error| LoginError::Io {
        attempt: attempt.clone(),
        error,
    }
}

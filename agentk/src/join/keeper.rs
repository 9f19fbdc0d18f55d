//! Where an agent that joins keeps its token: a file, or a Secret in its own namespace.
//!
//! A token waits until kas knows it: then it is the agent's. Whoever finds one that waits goes on with that one.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::{
    ByteString, api::core::v1::Secret as SecretObject,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, api::PostParams};

use crate::{
    cluster::Cluster,
    config::Join,
    pod::Pod,
    token::{Secret, Token},
};

/// The key of the agent's token in the Secret, and of one that waits.
const TOKEN: &str = "token";
const WAITING: &str = "joining";
/// What the file of a token that waits ends with.
const WAITING_SUFFIX: &str = ".joining";
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts to write a Secret that others write at the same time.
const ATTEMPTS_MAX: usize = 10;

/// A token that cannot be kept, or read.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// A file cannot be used.
    #[error("cannot {step} {}", file.display())]
    File {
        /// What was tried.
        step: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The Secret cannot be used.
    #[error(
        "cannot {step} the Secret {name} (--token-secret): the agent's service account needs get and update on it, \
         and create if it is not there"
    )]
    Secret {
        /// What was tried.
        step: &'static str,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        error: Box<kube::Error>,
    },
    /// The API server does not answer.
    #[error("the Kubernetes API did not answer in time about the Secret {0} (--token-secret)")]
    Late(String),
    /// Others write it all the time.
    #[error("the Secret {0} (--token-secret) is changed by others all the time")]
    Conflict(String),
    /// What was written is gone.
    #[error("the token that was written down is gone again")]
    Lost,
    /// A Secret is in a namespace.
    #[error("--token-secret needs the environment variable POD_NAMESPACE")]
    NoPod,
}

/// What is kept.
#[derive(Debug)]
pub(super) enum Kept {
    Nothing,
    /// One that kas may not know yet.
    Waiting(Secret),
    Token(Secret),
}

/// Keeps the agent's token.
#[derive(Debug)]
pub(super) struct Keeper {
    /// The file of the token; where there is a Secret it appears there in a while.
    file: PathBuf,
    secret: Option<SecretKeeper>,
}

struct SecretKeeper {
    api: Api<SecretObject>,
    name: String,
}

impl std::fmt::Debug for SecretKeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SecretKeeper").field(&self.name).finish()
    }
}

impl Keeper {
    pub(super) fn open(
        join: &Join,
        pod: Option<&Pod>,
        cluster: &Cluster,
    ) -> Result<Self, KeeperError> {
        let secret = join.secret.as_ref().map(|name| {
            let pod = pod.ok_or(KeeperError::NoPod)?;
            let client = cluster.typed().map_err(|error| KeeperError::Secret {
                step: "reach",
                name: name.clone(),
                error: Box::new(error),
            })?;
            Ok::<_, KeeperError>(SecretKeeper {
                api: Api::namespaced(client, &pod.namespace),
                name: name.clone(),
            })
        });
        Ok(Self {
            file: join.own_token_file.clone(),
            secret: secret.transpose()?,
        })
    }

    /// Where the agent finds it from now on.
    pub(super) fn token(&self, own: Secret) -> Token {
        match self.secret {
            None => Token::File(self.file.clone()),
            Some(_) => Token::Kept {
                secret: own,
                file: self.file.clone(),
            },
        }
    }

    pub(super) async fn read(&self) -> Result<Kept, KeeperError> {
        // With a Secret it is there from the second start on.
        if let Some(own) = read_file(&self.file).await? {
            return Ok(Kept::Token(own));
        }
        if let Some(secret) = &self.secret {
            return Ok(secret.read().await?.map_or(Kept::Nothing, |it| kept(&it)));
        }
        let waiting = read_file(&self.waiting_file()).await?;
        Ok(waiting.map_or(Kept::Nothing, Kept::Waiting))
    }

    /// Writes one down that waits, unless there is one; returns what is there.
    pub(super) async fn write_waiting(&self, own: Secret) -> Result<Kept, KeeperError> {
        if let Some(secret) = &self.secret {
            return secret.write(WAITING, own).await;
        }
        let (file, text) = (self.waiting_file(), own.expose().to_owned());
        blocking(file, "write", move |file| write_new(file, &text)).await?;
        self.read().await
    }

    /// Writes down that the agent has it; returns what is there.
    pub(super) async fn write_token(&self, own: Secret) -> Result<Secret, KeeperError> {
        if let Some(secret) = &self.secret {
            return match secret.write(TOKEN, own).await? {
                Kept::Token(own) => Ok(own),
                Kept::Waiting(_) | Kept::Nothing => Err(KeeperError::Lost),
            };
        }
        let text = own.expose().to_owned();
        blocking(self.file.clone(), "write", move |file| {
            write_over(file, &text)
        })
        .await?;
        blocking(
            self.waiting_file(),
            "remove",
            |file| match std::fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        )
        .await?;
        Ok(own)
    }

    fn waiting_file(&self) -> PathBuf {
        let mut name = self.file.as_os_str().to_owned();
        name.push(WAITING_SUFFIX);
        name.into()
    }
}

impl SecretKeeper {
    async fn read(&self) -> Result<Option<SecretObject>, KeeperError> {
        let read = self.in_time(self.api.get_opt(&self.name)).await?;
        read.map_err(|error| self.failed("read", error))
    }

    /// Writes a token under a key, unless there is one that counts more; returns what is there. The resource
    /// version has pods that write at the same time exclude each other.
    async fn write(&self, key: &str, own: Secret) -> Result<Kept, KeeperError> {
        for _ in 0..ATTEMPTS_MAX {
            let read = self.read().await?;
            let present = read.as_ref().map_or(Kept::Nothing, kept);
            match present {
                Kept::Token(_) => return Ok(present),
                Kept::Waiting(_) if key == WAITING => return Ok(present),
                Kept::Waiting(_) | Kept::Nothing => {}
            }
            let params = PostParams::default();
            let is_new = read.is_none();
            let mut object = read.unwrap_or_else(|| SecretObject {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                ..SecretObject::default()
            });
            let data = object.data.get_or_insert_with(BTreeMap::new);
            data.remove(WAITING);
            data.insert(key.to_owned(), ByteString(own.expose().into()));
            let written = match is_new {
                true => self.in_time(self.api.create(&params, &object)).await?,
                false => {
                    let replacing = self.api.replace(&self.name, &params, &object);
                    self.in_time(replacing).await?
                }
            };
            match written {
                Ok(written) => return Ok(kept(&written)),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(self.failed("write", error)),
            }
        }
        Err(KeeperError::Conflict(self.name.clone()))
    }

    async fn in_time<T>(&self, asked: impl Future<Output = T>) -> Result<T, KeeperError> {
        let answered = tokio::time::timeout(REQUEST_TIMEOUT, asked).await;
        answered.map_err(|_| KeeperError::Late(self.name.clone()))
    }

    fn failed(&self, step: &'static str, error: kube::Error) -> KeeperError {
        KeeperError::Secret {
            step,
            name: self.name.clone(),
            error: Box::new(error),
        }
    }
}

fn kept(object: &SecretObject) -> Kept {
    let value = |key: &str| {
        let bytes = &object.data.as_ref()?.get(key)?.0;
        usable(std::str::from_utf8(bytes).ok()?)
    };
    value(TOKEN)
        .map(Kept::Token)
        .or_else(|| value(WAITING).map(Kept::Waiting))
        .unwrap_or(Kept::Nothing)
}

fn usable(text: &str) -> Option<Secret> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned().into())
}

async fn read_file(file: &Path) -> Result<Option<Secret>, KeeperError> {
    match tokio::fs::read_to_string(file).await {
        Ok(text) => Ok(usable(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KeeperError::File {
            step: "read",
            file: file.to_owned(),
            source,
        }),
    }
}

async fn blocking(
    file: PathBuf,
    step: &'static str,
    work: impl FnOnce(&Path) -> io::Result<()> + Send + 'static,
) -> Result<(), KeeperError> {
    let path = file.clone();
    let done = tokio::task::spawn_blocking(move || work(&path)).await;
    let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|source| KeeperError::File { step, file, source })
}

/// As a whole, for its owner only; one that is there stays.
fn write_new(file: &Path, text: &str) -> io::Result<()> {
    match written_beside(file, text)?.persist_noclobber(file) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(error.error),
        _ => sync_folder(file),
    }
}

/// As a whole, for its owner only, in the place of one that is there.
fn write_over(file: &Path, text: &str) -> io::Result<()> {
    let written = written_beside(file, text)?.persist(file);
    written.map_err(|error| error.error)?;
    sync_folder(file)
}

fn written_beside(file: &Path, text: &str) -> io::Result<tempfile::NamedTempFile> {
    let mut new = tempfile::Builder::new()
        .prefix(".agentk-")
        .tempfile_in(folder(file))?;
    new.write_all(text.as_bytes())?;
    new.as_file().sync_all()?;
    Ok(new)
}

fn sync_folder(file: &Path) -> io::Result<()> {
    std::fs::File::open(folder(file))?.sync_all()
}

fn folder(file: &Path) -> &Path {
    let folder = file.parent();
    folder
        .filter(|it| !it.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn keeper(folder: &tempfile::TempDir) -> Keeper {
        Keeper {
            file: folder.path().join("token"),
            secret: None,
        }
    }

    fn secret(text: &str) -> Secret {
        text.to_owned().into()
    }

    #[tokio::test]
    async fn whoever_comes_second_goes_on_with_the_token_that_waits() {
        let folder = tempfile::tempdir().unwrap();
        let keeper = keeper(&folder);

        let first = keeper.write_waiting(secret("one")).await.unwrap();
        let second = keeper.write_waiting(secret("two")).await.unwrap();

        for kept in [first, second, keeper.read().await.unwrap()] {
            assert!(matches!(kept, Kept::Waiting(own) if own.expose() == "one"));
        }
    }

    #[tokio::test]
    async fn a_token_that_kas_knows_is_the_agents_and_nobody_elses_to_read() {
        let folder = tempfile::tempdir().unwrap();
        let keeper = keeper(&folder);
        keeper.write_waiting(secret("one")).await.unwrap();

        keeper.write_token(secret("one")).await.unwrap();

        let kept = keeper.read().await.unwrap();
        assert!(matches!(kept, Kept::Token(own) if own.expose() == "one"));
        let mode = std::fs::metadata(&keeper.file)
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!keeper.waiting_file().exists());
    }
}

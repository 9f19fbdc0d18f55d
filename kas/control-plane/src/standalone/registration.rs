//! Registers agents, and makes and takes away their tokens: what the command line and the admin API change in the
//! file.

use std::{io, path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    Standalone,
    change::ChangeError,
    edit::{self, EditError, Editable, edit},
    join_tokens::JoinTokenEntry,
    tokens::{TokenEntry, TokenKind},
};
use crate::Token;

/// How long a join token is good if nobody says.
pub const JOIN_TOKEN_LIFETIME: Duration = Duration::from_secs(30 * 60);
/// The longest time for which one is good.
const JOIN_TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long an old token stays good beside a new one if nobody says.
pub const ROTATION_GRACE: Duration = Duration::from_secs(24 * 3600);

/// Why an agent or a token is not made or taken away.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// The file does not allow it, or cannot be changed.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// It would be good for longer than makes sense.
    #[error("a join token is good for at most 168h: it is to be used soon")]
    Lifetime,
    /// No random numbers.
    #[error("cannot generate a token: the operating system gives no random numbers")]
    Random(#[source] io::Error),
    /// The change did not run to its end.
    #[error("changing the file of agents was interrupted: look whether it was changed")]
    Interrupted(#[source] tokio::task::JoinError),
}

/// A join token that was made, to be shown once.
#[derive(Debug)]
pub struct Invitation {
    /// The agent's number.
    pub agent: i64,
    /// Its name.
    pub name: String,
    /// The join token.
    pub token: Token,
    /// Until when it is good.
    pub expires_at: Timestamp,
    /// How many earlier ones it has ended.
    pub ended: usize,
}

/// A token of an agent that was made, to be shown once.
#[derive(Debug)]
pub struct Rotation {
    /// The token.
    pub token: Token,
    /// How many older ones it has ended at once.
    pub ended: usize,
}

/// Registers an agent, with this number or one above all others, and makes a join token for it.
///
/// # Errors
/// [`RegistrationError`]. Not for async code, as all here: another writer is waited for.
pub fn add_agent(
    file: &Path,
    name: &str,
    id: Option<i64>,
    lifetime: Duration,
    now: Timestamp,
) -> Result<Invitation, RegistrationError> {
    let create = |document: &mut Editable| document.create_agent(name, id, None::<TokenEntry>);
    invite_by(file, name, lifetime, now, create)
}

/// Makes a join token for an agent that there is.
///
/// # Errors
/// [`RegistrationError`].
pub fn invite(
    file: &Path,
    name: &str,
    lifetime: Duration,
    now: Timestamp,
) -> Result<Invitation, RegistrationError> {
    invite_by(file, name, lifetime, now, |document| {
        Ok(document.agent(name)?.id)
    })
}

fn invite_by(
    file: &Path,
    name: &str,
    lifetime: Duration,
    now: Timestamp,
    agent: impl FnOnce(&mut Editable) -> Result<i64, ChangeError>,
) -> Result<Invitation, RegistrationError> {
    if lifetime > JOIN_TOKEN_LIFETIME_MAX {
        return Err(RegistrationError::Lifetime);
    }
    let end = now.checked_add(lifetime);
    let expires_at = end.map_err(|_| RegistrationError::Lifetime)?;
    let token = TokenKind::Join
        .generate()
        .map_err(RegistrationError::Random)?;
    let entry = JoinTokenEntry::new(&token, now, expires_at);
    let (agent, ended) = edit(file, |document: &mut Editable| {
        let agent = agent(document)?;
        let ended = document.add_join_token(name, entry, now)?;
        Ok::<_, ChangeError>((agent, ended))
    })?;
    Ok(Invitation {
        agent,
        name: name.to_owned(),
        token,
        expires_at,
        ended,
    })
}

/// Gives an agent a new token; older ones end after `grace`.
///
/// # Errors
/// [`RegistrationError`].
pub fn rotate_token(
    file: &Path,
    name: &str,
    grace: Duration,
    now: Timestamp,
) -> Result<Rotation, RegistrationError> {
    let token = TokenKind::Agent
        .generate()
        .map_err(RegistrationError::Random)?;
    let entry = TokenEntry::new(&token, now);
    let ended = edit(file, |document: &mut Editable| {
        document.rotate_agent(name, entry, grace, now)
    })?;
    Ok(Rotation { token, ended })
}

/// Takes all tokens from an agent, and all join tokens; returns how many tokens.
///
/// # Errors
/// [`RegistrationError`].
pub fn revoke(file: &Path, name: &str) -> Result<usize, RegistrationError> {
    let revoked = edit(file, |document: &mut Editable| document.revoke_agent(name))?;
    Ok(revoked)
}

impl Standalone {
    /// Changes the file, and has what is in it then in force here before it returns, however long the file is. Whoever
    /// does not wait for it takes nothing of that back.
    ///
    /// # Errors
    /// [`RegistrationError`].
    pub async fn register<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce(&Path) -> Result<T, RegistrationError> + Send + 'static,
    ) -> Result<T, RegistrationError> {
        let standalone = self.clone();
        let changing = move || {
            let changed = change(&standalone.file)?;
            // Here, where a long file is in nobody's way while it is read.
            standalone.look(Timestamp::now());
            Ok(changed)
        };
        let changed = tokio::task::spawn_blocking(changing).await;
        changed.map_err(RegistrationError::Interrupted)?
    }

    /// Whether this process could change the file.
    ///
    /// # Errors
    /// Why not.
    pub async fn check_writable(&self) -> Result<(), RegistrationError> {
        let file = self.file.clone();
        let checked = tokio::task::spawn_blocking(move || edit::check_writable(&file)).await;
        let checked = checked.map_err(RegistrationError::Interrupted)?;
        checked.map_err(|error: EditError| RegistrationError::Change(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::installation::Installation, *};

    #[tokio::test]
    async fn what_is_made_is_in_force_at_once_and_shown_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agents.yaml");
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
        add_agent(&file, "first", None, JOIN_TOKEN_LIFETIME, now).unwrap();
        let standalone = Arc::new(Standalone::open(&file).unwrap());
        standalone.check_writable().await.unwrap();

        let made = standalone
            .register(move |file| add_agent(file, "edge", None, JOIN_TOKEN_LIFETIME, now));
        let made = made.await.unwrap();

        assert_eq!((made.agent, &*made.name), (2, "edge"));
        let owner = standalone
            .directory()
            .join_token(&made.token.hash())
            .map(|it| it.0.0);
        assert_eq!(owner, Some(2));
        assert!(!format!("{made:?}").contains(made.token.expose()));
        let line = Installation::default().helm(&made);
        assert!(
            line.contains(&format!("config.joinToken={}", made.token.expose())),
            "{line}"
        );
        let again = standalone
            .register(move |file| add_agent(file, "edge", None, JOIN_TOKEN_LIFETIME, now))
            .await;
        assert!(matches!(
            again,
            Err(RegistrationError::Change(ChangeError::Exists { .. }))
        ));
        let long = standalone
            .register(move |file| invite(file, "edge", JOIN_TOKEN_LIFETIME_MAX * 2, now))
            .await;
        assert!(matches!(long, Err(RegistrationError::Lifetime)));
    }
    #[tokio::test]
    async fn in_a_file_that_is_long_too_it_is_in_force_at_once() {
        use std::fmt::Write as _;

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agents.yaml");
        // Few entries with long groups: quick to read.
        let mut text = "agents: [{id: 1, name: first}]\nusers:\n".to_owned();
        for user in 0..300 {
            let groups: Vec<_> = (0..20).map(|group| format!("{group:0>200}")).collect();
            writeln!(
                text,
                "- {{name: user-{user}, groups: ['{}']}}",
                groups.join("', '")
            )
            .unwrap();
        }
        assert!(text.len() > 1 << 20, "{} bytes", text.len());
        std::fs::write(&file, text).unwrap();
        let standalone = Arc::new(Standalone::open(&file).unwrap());
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();

        let made = standalone
            .register(move |file| add_agent(file, "edge", None, JOIN_TOKEN_LIFETIME, now))
            .await
            .unwrap();

        // Nobody follows the file.
        let directory = standalone.directory();
        let owner = directory.join_token(&made.token.hash());
        assert_eq!(owner.map(|it| it.0.0), Some(2));
    }
}

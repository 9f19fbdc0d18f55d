//! The embedded control plane: one declarative YAML file, read again when it changes.
//!
//! [`mod@file`] shows the form, [`access_as`] the names that callers get in the
//! cluster. A file that cannot be used leaves what was read last in force, as a
//! whole: nothing is ever half-applied.

pub mod access_as;
pub mod caller;
pub mod change;
mod changes;
mod check;
mod directory;
mod edit;
pub mod explain;
pub mod file;
pub mod installation;
pub mod issuers;
pub mod join;
pub mod join_tokens;
pub mod names;
mod oidc;
pub mod receptive;
mod record;
pub mod registration;
mod reload;
pub mod schema;
mod shadow;
pub mod tokens;
pub mod words;

pub use directory::{Directory, RuleVerdict};
pub use edit::{EditError, Editable, edit, view};
pub use shadow::{Shadowed, shadowed};

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use arc_swap::ArcSwap;
use audit::Audit;
use cluster_state::AgentId;
use futures_util::future::{BoxFuture, FutureExt, ready};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Access, AgentInfo, AuthError, Configuration, ControlPlane, Credentials, DenyReason,
    IdTokenRefusal, IdentityKind, JoinError, LoginIssuer, Permitted, ReceptiveAgent, Token,
    TokenHash, agent_file::AgentFile,
};
use caller::Caller;
use changes::Changes;
use file::Document;
use issuers::IssuerEntry;
use oidc::Issuers;
use runtime::{
    reloads,
    yaml::{self, YamlError},
};

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StandaloneError {
    /// There is none.
    #[error("{} does not exist: create it with `kas agent create NAME --file {}`", .0.display(), .0.display())]
    Missing(PathBuf),
    /// There is nothing in it, which is never meant: half-written files look so.
    #[error("{} is empty: create an agent with `kas agent create NAME --file {}`", .0.display(), .0.display())]
    Empty(PathBuf),
    /// It cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is longer than what is read.
    #[error(
        "{} has more than {} MiB, the limit of such files: divide the agents among several installations, or have GitLab \
         as the control plane", .0.display(), MAX_FILE_BYTES >> 20
    )]
    TooLong(PathBuf),
    /// It says something wrong.
    #[error(transparent)]
    Yaml(#[from] YamlError),
}

/// Bytes of the file, at most. An agent with a token takes about 150.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// Tokens that were removed from the file, whose agents are remembered.
const MAX_FORMER_TOKENS: usize = 10_000;

const NO_SESSIONS: DenyReason = DenyReason::Unsupported {
    kind: "session cookies",
};

type Configurations = HashMap<AgentId, watch::Sender<Configuration>>;

/// The control plane of a file.
#[derive(Debug)]
pub struct Standalone {
    file: PathBuf,
    directory: ArcSwap<Directory>,
    configurations: Mutex<Configurations>,
    /// Whose they were; while this process lives.
    former_tokens: Mutex<HashMap<TokenHash, AgentId>>,
    receptive: watch::Sender<Arc<[ReceptiveAgent]>>,
    issuers: watch::Sender<Issuers>,
    revision: watch::Sender<u64>,
    file_state: Mutex<reload::FileState>,
    /// Set where changes are recorded.
    changes: OnceLock<Changes>,
}

impl Standalone {
    /// Reads the file. It is followed only while [`follow`](Self::follow) runs.
    pub fn open(file: impl Into<PathBuf>) -> Result<Self, StandaloneError> {
        let file = file.into();
        let now = Timestamp::now();
        let file_state = reload::FileState::new(&file, now);
        let directory = read(&file, now)?;
        let standalone = Self {
            file,
            directory: ArcSwap::default(),
            configurations: Mutex::default(),
            former_tokens: Mutex::default(),
            receptive: watch::Sender::new(Arc::from([])),
            issuers: watch::Sender::default(),
            revision: watch::Sender::new(0),
            file_state: Mutex::new(file_state),
            changes: OnceLock::new(),
        };
        standalone.apply(directory);
        reloads::succeeded(&standalone.file);
        Ok(standalone)
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What is in force now.
    #[must_use]
    pub fn directory(&self) -> Arc<Directory> {
        self.directory.load_full()
    }

    /// Records what is in the file now, and what changes in it from now on. To be called once.
    pub fn record_changes(&self, audit: Audit) {
        if !audit.is_on() {
            return;
        }
        // A change meanwhile is read by the next look, and differs from this.
        let text = text_of(&self.file).unwrap_or_default();
        let _ = self.changes.set(Changes::new(audit, &self.file, &text));
    }

    /// Puts a new state in force: answers first, then configurations, then the revision.
    fn apply(&self, directory: Directory) {
        let directory = Arc::new(directory);
        let before = self.directory.swap(directory.clone());
        self.remember_former(&before, &directory);
        publish(&mut lock(&self.configurations), &directory);
        self.receptive.send_if_modified(|known| {
            let changed = **known != *directory.receptive();
            if changed {
                *known = directory.receptive().into();
            }
            changed
        });
        self.issuers
            .send_if_modified(|known| known.update(directory.issuers()));
        self.revision.send_modify(|revision| *revision += 1);
    }

    /// Keeps the keys of the issuers that the file names up to date, until told to stop.
    pub async fn follow_issuers(self: Arc<Self>, stop: CancellationToken) {
        Issuers::follow(self.issuers.subscribe(), stop).await;
    }

    fn remember_former(&self, before: &Directory, now: &Directory) {
        let mut former = lock(&self.former_tokens);
        for (token, agent) in before.tokens_missing_in(now) {
            if former.len() >= MAX_FORMER_TOKENS {
                former.clear();
            }
            former.insert(token, agent);
        }
    }

    fn authorize_now(
        &self,
        credentials: &Credentials,
        agent: AgentId,
    ) -> Result<Access, DenyReason> {
        let (kind, token) = match credentials {
            Credentials::Pat { token } => (IdentityKind::User, token),
            Credentials::Ci { token } => (IdentityKind::CiJob, token),
            Credentials::Oidc { .. } | Credentials::Session { .. } => {
                return Err(NO_SESSIONS);
            }
        };
        let directory = self.directory.load();
        directory.authorize(kind, &token.hash(), agent, Timestamp::now())
    }

    async fn authorize_id_token(
        &self,
        token: &Token,
        agent: AgentId,
    ) -> Result<Access, DenyReason> {
        let decide = async || {
            let caller = self.caller_of_id_token(token).await?;
            let directory = self.directory.load();
            directory.permit(&caller, agent, Timestamp::now())
        };
        match decide().await {
            // The file may say more by now.
            Err(
                DenyReason::IdToken(IdTokenRefusal::UnknownIssuer)
                | DenyReason::NotAllowed { .. }
                | DenyReason::UnknownAgent { .. },
            ) => {
                self.reload_now();
                decide().await
            }
            answer => answer,
        }
    }

    /// With the groups that the file gives who has this name.
    async fn caller_of_id_token(&self, token: &Token) -> Result<Caller, DenyReason> {
        let issuers = self.issuers.borrow().clone();
        let caller = issuers.caller(token).await?;
        Ok(self.directory.load().with_own_groups(caller))
    }

    async fn caller_of(&self, credentials: &Credentials) -> Result<Caller, DenyReason> {
        let (kind, token) = match credentials {
            Credentials::Pat { token } => (IdentityKind::User, token),
            Credentials::Ci { token } => (IdentityKind::CiJob, token),
            Credentials::Oidc { token } => return self.caller_of_id_token(token).await,
            Credentials::Session { .. } => return Err(NO_SESSIONS),
        };
        let directory = self.directory.load();
        let caller = directory.caller(kind, &token.hash(), Timestamp::now())?;
        Ok(caller.clone())
    }
}

impl ControlPlane for Standalone {
    fn token_owner(&self, token: &Token) -> Option<AgentId> {
        let token = token.hash();
        let present = self.directory.load().token_owner(&token);
        present.or_else(|| lock(&self.former_tokens).get(&token).copied())
    }

    fn agent_by_token<'a>(
        &'a self,
        token: &'a Token,
    ) -> BoxFuture<'a, Result<Arc<AgentInfo>, AuthError>> {
        let ask = || {
            let directory = self.directory.load();
            directory.agent_by_token(&token.hash(), Timestamp::now())
        };
        let answer = match ask() {
            // Asked again in any case: somebody else may have read it just now.
            Err(AuthError::UnknownToken) => {
                self.reload_now();
                ask()
            }
            answer => answer,
        };
        ready(answer).boxed()
    }

    fn join_token_owner(&self, token: &TokenHash) -> Option<AgentId> {
        let directory = self.directory.load();
        directory.join_token(token).map(|(agent, _)| *agent)
    }

    fn find_join_token(&self, token: &TokenHash) -> Result<AgentId, JoinError> {
        self.find_join_token_now(token)
    }

    fn join(
        &self,
        token: TokenHash,
        own: TokenHash,
        from: IpAddr,
    ) -> BoxFuture<'_, Result<Arc<AgentInfo>, JoinError>> {
        self.join_now(token, own, from).boxed()
    }

    fn agent(&self, id: AgentId) -> BoxFuture<'_, Option<Arc<AgentInfo>>> {
        ready(self.directory.load().agent(id)).boxed()
    }

    fn authorize<'a>(
        &'a self,
        credentials: &'a Credentials,
        agent: AgentId,
    ) -> BoxFuture<'a, Result<Access, DenyReason>> {
        if let Credentials::Oidc { token } = credentials {
            return self.authorize_id_token(token, agent).boxed();
        }
        let answer = match self.authorize_now(credentials, agent) {
            Err(_) => {
                self.reload_now();
                self.authorize_now(credentials, agent)
            }
            answer => answer,
        };
        ready(answer).boxed()
    }

    fn permitted<'a>(
        &'a self,
        credentials: &'a Credentials,
    ) -> BoxFuture<'a, Result<Permitted, DenyReason>> {
        let answer = async {
            let caller = self.caller_of(credentials).await?;
            let agents = self.directory.load().permitted(&caller, Timestamp::now());
            Ok(Permitted {
                identity: caller.identity,
                groups: caller.groups,
                agents,
            })
        };
        answer.boxed()
    }

    fn login_issuers(&self) -> Vec<LoginIssuer> {
        let known = || -> Vec<_> {
            let directory = self.directory.load();
            let issuers = directory.issuers().iter();
            issuers.filter_map(IssuerEntry::for_login).collect()
        };
        match known() {
            none if none.is_empty() => {
                self.reload_now();
                known()
            }
            issuers => issuers,
        }
    }

    fn configuration(&self, agent: AgentId, _: &str) -> Option<watch::Receiver<Configuration>> {
        let configurations = lock(&self.configurations);
        configurations.get(&agent).map(watch::Sender::subscribe)
    }

    fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    fn known_agents(&self) -> Vec<Arc<AgentInfo>> {
        self.directory.load().agents().cloned().collect()
    }

    fn knows_all_agents(&self) -> bool {
        true
    }

    fn receptive_agents(&self) -> watch::Receiver<Arc<[ReceptiveAgent]>> {
        self.receptive.subscribe()
    }
}

/// Reads and checks the file as a whole.
pub fn read(file: &Path, now: Timestamp) -> Result<Directory, StandaloneError> {
    let text = text_of(file)?;
    if text.trim().is_empty() {
        return Err(StandaloneError::Empty(file.to_owned()));
    }
    Ok(parse(file, &text, now)?)
}

/// The text of the file, if it is not too long.
fn text_of(file: &Path) -> Result<String, StandaloneError> {
    let text = text_within(file, MAX_FILE_BYTES).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => StandaloneError::Missing(file.to_owned()),
        _ => StandaloneError::Unreadable {
            file: file.to_owned(),
            source,
        },
    })?;
    text.ok_or_else(|| StandaloneError::TooLong(file.to_owned()))
}

/// The text of a file; nothing where it is longer than this. What a file's length says is not relied on.
fn text_within(file: &Path, limit: u64) -> io::Result<Option<String>> {
    let file = File::open(file)?;
    let mut text = String::new();
    // Grown as bytes come, but not again and again.
    let announced = file.metadata()?.len().min(limit);
    text.reserve(usize::try_from(announced).unwrap_or_default());
    file.take(limit + 1).read_to_string(&mut text)?;
    Ok((text.len() as u64 <= limit).then_some(text))
}

/// Reads and checks the text of a file, whose name is for messages only.
pub fn parse(file: &Path, text: &str, now: Timestamp) -> Result<Directory, YamlError> {
    let document: Document<AgentFile> = yaml::read_long(file, text)?;
    check::check(file, &document, now)?;
    Ok(Directory::new(&document))
}

/// Tells the watchers of each agent what is new; those of agents that are gone see the end.
fn publish(configurations: &mut Configurations, directory: &Directory) {
    configurations.retain(|id, _| directory.agent(*id).is_some());
    for (id, version) in directory.configurations() {
        let sender = configurations.entry(id).or_default();
        sender.send_if_modified(|current| {
            let known = current.version.as_ref().map(|it| &it.commit_id);
            let changed = known != Some(&version.commit_id);
            if changed {
                *current = Configuration::good(version.clone());
            }
            changed
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

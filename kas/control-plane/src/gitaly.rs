//! A client of Gitaly, which holds GitLab's repositories: which commit a branch
//! is at, what a file says there, which files there are.
//!
//! GitLab says with each repository where its server is. Calls take turns by
//! the configured rates; each has a deadline and a limit of size, and none is
//! repeated here: whoever polls comes again.

mod address;
mod credentials;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod listing;
mod metrics;
mod refs;
mod server;
mod turns;

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use proto::{
    agent::entity::{GitalyInfo, GitalyRepository},
    gitaly::{
        GetTreeEntriesRequest, InfoRefsRequest, Repository, TreeEntryRequest,
        commit_service_client::CommitServiceClient,
        smart_http_service_client::SmartHttpServiceClient, tree_entry::EntryType,
        tree_entry_response::ObjectType,
    },
};
use runtime::{grpc::Channel, metrics::limiters::Limiter};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use error::{ErrorKind, GitalyError};
pub use listing::AgentFileName;
pub use metrics::GitalyMetrics;
pub use refs::Head;

use crate::config;
use error::Rpc;
use refs::{Advertisement, Progress};
use server::Servers;
use turns::Turns;

/// From the turn to the last message.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Largest message that is taken.
const MESSAGE_MAX_BYTES: usize = 4 << 20;
/// Most of an advertisement that is looked at for a branch.
const ADVERTISEMENT_MAX_BYTES: usize = 64 << 20;
/// Most entries of a listing.
const LISTING_ENTRIES_MAX: usize = 100_000;

/// What a client needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How often Gitaly may be called.
    pub limits: config::Gitaly,
    /// Roots that are trusted besides the system's.
    pub ca_files: Vec<PathBuf>,
    /// How this server names itself.
    pub user_agent: HeaderValue,
}

/// A repository and its server.
#[derive(Debug, Clone, Copy)]
pub struct RepositoryLocation<'a> {
    /// The server; holds a secret.
    pub server: &'a GitalyInfo,
    /// The repository there.
    pub repository: &'a GitalyRepository,
}

/// A file of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFile {
    /// Its path.
    pub path: Bytes,
    /// Names its content.
    pub blob: String,
}

/// Calls Gitaly servers. Clones share connections.
#[derive(Debug, Clone)]
pub struct Gitaly(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    servers: Servers,
    turns: Turns,
    metrics: GitalyMetrics,
    _stops: DropGuard,
}

impl Gitaly {
    /// A client. Nothing is connected yet; connections end with its last clone.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let stop = CancellationToken::new();
        let limits = settings.limits;
        let rate = limits.global_api_rate_limit.refill_rate_per_second;
        let metrics = Limiter::new("gitaly_client_global", "{refill/s}", rate);
        Self(Arc::new(Inner {
            servers: Servers::new(
                limits.per_server_api_rate_limit,
                settings.ca_files,
                settings.user_agent,
                stop.clone(),
            ),
            turns: Turns::new(limits.global_api_rate_limit, metrics),
            metrics: GitalyMetrics::default(),
            _stops: stop.drop_guard(),
        }))
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> &GitalyMetrics {
        &self.0.metrics
    }

    /// Which commit a branch is at.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there are branches, but not this one.
    pub async fn head(
        &self,
        location: RepositoryLocation<'_>,
        branch: &str,
    ) -> Result<Head, GitalyError> {
        let rpc = Rpc::new("InfoRefsUploadPack", branch);
        self.call(location, &rpc, async |channel| {
            let mut client =
                SmartHttpServiceClient::new(channel).max_decoding_message_size(MESSAGE_MAX_BYTES);
            // Options would make Gitaly pass by its cache.
            let request = InfoRefsRequest {
                repository: Some(repository(location)),
                ..InfoRefsRequest::default()
            };
            let answer = client.info_refs_upload_pack(request).await;
            let mut stream = answer.map_err(|status| rpc.failed(&status))?.into_inner();
            let (mut advertisement, mut size) = (Advertisement::new(branch), 0);
            while let Some(part) = stream.message().await.map_err(|s| rpc.failed(&s))? {
                size += part.data.len();
                let progress = advertisement.push(&part.data);
                match progress.map_err(|error| rpc.invalid(&error.to_string()))? {
                    Progress::Found(head) => return Ok(head),
                    Progress::Missing => return Err(rpc.not_found("")),
                    Progress::More if size > ADVERTISEMENT_MAX_BYTES => {
                        return Err(rpc.invalid("the list of refs is too long"));
                    }
                    Progress::More => {}
                }
            }
            Err(rpc.invalid("the list of refs has no end"))
        })
        .await
    }

    /// A file of at most so many bytes as of a commit.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such file.
    pub async fn file(
        &self,
        location: RepositoryLocation<'_>,
        commit: &str,
        path: &str,
        most: u32,
    ) -> Result<Bytes, GitalyError> {
        let rpc = Rpc::new("TreeEntry", path);
        self.call(location, &rpc, async |channel| {
            let mut client =
                CommitServiceClient::new(channel).max_decoding_message_size(MESSAGE_MAX_BYTES);
            let request = TreeEntryRequest {
                repository: Some(repository(location)),
                revision: Bytes::copy_from_slice(commit.as_bytes()),
                path: Bytes::copy_from_slice(path.as_bytes()),
                limit: 0,
                max_size: i64::from(most),
            };
            let answer = client.tree_entry(request).await;
            let mut stream = answer.map_err(|s| rpc.tree_entry(&s))?.into_inner();
            let mut content = BytesMut::new();
            let mut first = true;
            while let Some(part) = stream.message().await.map_err(|s| rpc.tree_entry(&s))? {
                if std::mem::take(&mut first) && part.r#type() != ObjectType::Blob {
                    return Err(rpc.no_file());
                }
                content.extend_from_slice(&part.data);
                if content.len() > most as usize {
                    return Err(rpc.too_big(""));
                }
            }
            match first {
                true => Err(rpc.not_found("")),
                false => Ok(content.freeze()),
            }
        })
        .await
    }

    /// All files in and below a directory as of a revision.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such directory or revision.
    pub async fn files(
        &self,
        location: RepositoryLocation<'_>,
        revision: &str,
        directory: &str,
    ) -> Result<Vec<ListedFile>, GitalyError> {
        let rpc = Rpc::new("GetTreeEntries", directory);
        self.call(location, &rpc, async |channel| {
            let mut client =
                CommitServiceClient::new(channel).max_decoding_message_size(MESSAGE_MAX_BYTES);
            let request = GetTreeEntriesRequest {
                repository: Some(repository(location)),
                revision: Bytes::copy_from_slice(revision.as_bytes()),
                path: Bytes::copy_from_slice(directory.as_bytes()),
                recursive: true,
            };
            let answer = client.get_tree_entries(request).await;
            let mut stream = answer.map_err(|s| rpc.tree_entries(&s))?.into_inner();
            let (mut listed, mut seen) = (Vec::new(), 0);
            while let Some(part) = stream.message().await.map_err(|s| rpc.tree_entries(&s))? {
                seen += part.entries.len();
                if seen > LISTING_ENTRIES_MAX {
                    return Err(rpc.invalid("the directory has too many files"));
                }
                let files = part.entries.into_iter();
                let files = files.filter(|entry| entry.r#type() == EntryType::Blob);
                listed.extend(files.map(|entry| ListedFile {
                    path: entry.path,
                    blob: entry.oid,
                }));
            }
            Ok(listed)
        })
        .await
    }

    /// One call in its turn, within its deadline.
    async fn call<T>(
        &self,
        location: RepositoryLocation<'_>,
        rpc: &Rpc<'_>,
        run: impl AsyncFnOnce(Channel) -> Result<T, GitalyError>,
    ) -> Result<T, GitalyError> {
        let result = async {
            self.turn(rpc).await?;
            let server = self.0.servers.at(location.server, rpc)?;
            server.turn(rpc).await?;
            let called = async { run(server.channel(location.server, rpc).await?).await };
            let ended = tokio::time::timeout(CALL_TIMEOUT, called).await;
            ended.unwrap_or_else(|_| Err(rpc.unavailable("it did not answer in time")))
        };
        let result = result.await;
        self.0.metrics.count(rpc.name(), &result);
        result
    }

    async fn turn(&self, rpc: &Rpc<'_>) -> Result<(), GitalyError> {
        self.0.turns.wait(rpc).await
    }
}

fn repository(location: RepositoryLocation<'_>) -> Repository {
    let it = location.repository;
    Repository {
        storage_name: it.storage_name.clone(),
        relative_path: it.relative_path.clone(),
        git_object_directory: it.git_object_directory.clone(),
        git_alternate_object_directories: it.git_alternate_object_directories.clone(),
        gl_repository: it.gl_repository.clone(),
        gl_project_path: it.gl_project_path.clone(),
    }
}

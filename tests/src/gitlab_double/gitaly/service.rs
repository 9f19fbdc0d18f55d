//! Gitaly's services, as far as kas calls them.

use std::{pin::Pin, sync::Arc};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{Stream, stream};
use http::Response;
use http_body_util::Full;
use prost::Message as _;
use proto::{
    gitaly::{
        GetTreeEntriesError, GetTreeEntriesRequest, GetTreeEntriesResponse, InfoRefsRequest,
        InfoRefsResponse, Repository as Named, ResolveRevisionError, TreeEntryRequest,
        TreeEntryResponse, commit_service_server::CommitService, get_tree_entries_error,
        smart_http_service_server::SmartHttpService, tree_entry_response::ObjectType,
    },
    google::rpc,
};
use tonic::{Code, Request, Status, body::Body, metadata::MetadataMap};

use super::{credentials, folder, repository};
use crate::{
    git::Repository,
    gitlab_double::{Endpoint, FaultKind, Shared, lock},
};

/// How much content a message carries.
const PIECE: usize = 32 << 10;
/// Far more than any file may have.
const LARGE: usize = 3 << 20;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Reply<T> = Result<tonic::Response<Answers<T>>, Status>;

/// The services of one connection.
#[derive(Debug, Clone)]
pub(super) struct Gitaly(pub(super) Arc<Shared>);

impl Gitaly {
    fn admit(&self, metadata: &MetadataMap) -> Result<(), Status> {
        credentials::check(metadata, &lock(&self.0.scenario).gitaly.token)?;
        let features = lock(&self.0.scenario).gitaly.features.clone();
        for (name, value) in features {
            let given = metadata.get(&name).map(|it| it.as_bytes());
            if given != Some(value.as_bytes()) {
                return Err(Status::internal(format!("the feature {name} did not come")));
            }
        }
        Ok(())
    }

    async fn repository(&self, named: Option<Named>) -> Result<Repository, Status> {
        let named = named.ok_or_else(|| Status::invalid_argument("empty Repository"))?;
        let path = named.relative_path;
        let folder = folder(&self.0, &path);
        if path.contains("..") || !folder.join("HEAD").exists() {
            return Err(Status::not_found(format!("repository not found: {path:?}")));
        }
        Repository::open(&folder).await.map_err(internal)
    }
}

#[tonic::async_trait]
impl SmartHttpService for Gitaly {
    type InfoRefsUploadPackStream = Answers<InfoRefsResponse>;

    async fn info_refs_upload_pack(
        &self,
        request: Request<InfoRefsRequest>,
    ) -> Reply<InfoRefsResponse> {
        self.admit(request.metadata())?;
        let asked = request.into_inner();
        if !asked.git_protocol.is_empty() || !asked.git_config_options.is_empty() {
            return Err(Status::internal("this passes by the cache"));
        }
        let repository = self.repository(asked.repository).await?;
        let refs = repository::advertisement(&repository).await;
        let refs = refs.map_err(internal)?;
        Ok(pieces(&refs, |data, _| InfoRefsResponse { data }))
    }
}

#[tonic::async_trait]
impl CommitService for Gitaly {
    type TreeEntryStream = Answers<TreeEntryResponse>;
    type GetTreeEntriesStream = Answers<GetTreeEntriesResponse>;

    async fn tree_entry(&self, request: Request<TreeEntryRequest>) -> Reply<TreeEntryResponse> {
        self.admit(request.metadata())?;
        let asked = request.into_inner();
        let repository = self.repository(asked.repository).await?;
        let (revision, path) = (text(&asked.revision)?, text(&asked.path)?);
        let object = repository::object(&repository, revision, path).await;
        let object = object.map_err(internal)?;
        let object =
            object.ok_or_else(|| Status::not_found(format!("tree entry not found: {path:?}")))?;
        let size = i64::try_from(object.content.len()).unwrap_or(i64::MAX);
        let kind = match object.kind.as_str() {
            "blob" => ObjectType::Blob,
            "tree" => ObjectType::Tree,
            _ => ObjectType::Commit,
        };
        if kind == ObjectType::Blob && asked.max_size > 0 && size > asked.max_size {
            let why = format!(
                "object size ({size}) is bigger than the maximum allowed size ({})",
                asked.max_size
            );
            return Err(Status::failed_precondition(why));
        }
        let content = match kind {
            ObjectType::Blob => object.content,
            ObjectType::Commit | ObjectType::Tree | ObjectType::Tag => Vec::new(),
        };
        Ok(pieces(&content, move |data, first| match first {
            true => TreeEntryResponse {
                r#type: kind.into(),
                oid: object.id.clone(),
                size,
                mode: 0o100_644,
                data,
            },
            false => TreeEntryResponse {
                data,
                ..TreeEntryResponse::default()
            },
        }))
    }

    async fn get_tree_entries(
        &self,
        request: Request<GetTreeEntriesRequest>,
    ) -> Reply<GetTreeEntriesResponse> {
        self.admit(request.metadata())?;
        let asked = request.into_inner();
        let repository = self.repository(asked.repository).await?;
        let (revision, path) = (text(&asked.revision)?, text(&asked.path)?);
        if !repository::exists(&repository, revision).await {
            return Err(no_tree(&asked.revision));
        }
        let entries = repository::entries(&repository, revision, path, asked.recursive).await;
        let entries = entries.map_err(internal)?;
        if entries.is_empty() {
            return Err(no_tree(&asked.revision));
        }
        let parts: Vec<_> = entries
            .chunks(100)
            .map(|part| {
                Ok(GetTreeEntriesResponse {
                    entries: part.to_vec(),
                })
            })
            .collect();
        Ok(tonic::Response::new(Box::pin(stream::iter(parts))))
    }
}

/// An answer that is wrong in this way.
pub(super) fn broken(endpoint: Endpoint, fault: &FaultKind) -> Response<Body> {
    match fault {
        FaultKind::Status(404) => refusal(&Status::not_found("not found")),
        FaultKind::Status(code) | FaultKind::Page(code) => {
            refusal(&Status::unavailable(format!("status {code}")))
        }
        FaultKind::Garbage | FaultKind::Html => good(&message(endpoint, b"<html>: [\xff".to_vec())),
        FaultKind::Flood => good(&message(endpoint, vec![b'0'; LARGE])),
        FaultKind::Busy(_) | FaultKind::Down | FaultKind::Hang | FaultKind::Slow(_) => {
            refusal(&Status::resource_exhausted("too many requests"))
        }
    }
}

fn message(endpoint: Endpoint, data: Vec<u8>) -> Vec<u8> {
    let data = Bytes::from(data);
    if endpoint == Endpoint::TreeEntry {
        let kind = ObjectType::Blob.into();
        let answer = TreeEntryResponse {
            r#type: kind,
            data,
            ..TreeEntryResponse::default()
        };
        return answer.encode_to_vec();
    }
    InfoRefsResponse { data }.encode_to_vec()
}

fn refusal(status: &Status) -> Response<Body> {
    status.clone().into_http()
}

/// One message, and the end without any status, which counts as success here.
fn good(message: &[u8]) -> Response<Body> {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(message);
    let body = Body::new(Full::new(frame.freeze()));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(
        "content-type",
        http::HeaderValue::from_static("application/grpc"),
    );
    response
}

/// At least one message.
fn pieces<T: Send + 'static>(
    data: &[u8],
    make: impl Fn(Bytes, bool) -> T,
) -> tonic::Response<Answers<T>> {
    let mut parts: Vec<_> = data.chunks(PIECE).map(Bytes::copy_from_slice).collect();
    if parts.is_empty() {
        parts.push(Bytes::new());
    }
    let parts = parts.into_iter().enumerate();
    let messages: Vec<_> = parts.map(|(at, part)| Ok(make(part, at == 0))).collect();
    tonic::Response::new(Box::pin(stream::iter(messages)))
}

fn no_tree(revision: &Bytes) -> Status {
    let error = GetTreeEntriesError {
        error: Some(get_tree_entries_error::Error::ResolveTree(
            ResolveRevisionError {
                revision: revision.clone(),
            },
        )),
    };
    let told = rpc::Status {
        code: Code::InvalidArgument.into(),
        message: "invalid revision or path".to_owned(),
        details: vec![prost_types::Any {
            type_url: "type.googleapis.com/gitaly.GetTreeEntriesError".to_owned(),
            value: error.encode_to_vec(),
        }],
    };
    let details = told.encode_to_vec().into();
    Status::with_details(Code::InvalidArgument, told.message, details)
}

fn text(bytes: &Bytes) -> Result<&str, Status> {
    std::str::from_utf8(bytes).map_err(|_| Status::invalid_argument("no text"))
}

#[expect(clippy::needless_pass_by_value, reason = "it maps errors")]
fn internal(error: anyhow::Error) -> Status {
    Status::internal(format!("{error:#}"))
}

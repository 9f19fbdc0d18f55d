//! Why Gitaly gave no answer, in the words of GitLab's kas.

use prost::Message as _;
use proto::{
    gitaly::{GetTreeEntriesError, get_tree_entries_error},
    google::rpc,
};
use tonic::{Code, Status};

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such file, directory or branch.
    NotFound,
    /// The file has more bytes than allowed.
    FileTooBig,
    /// What is there is no file.
    UnexpectedTreeEntryType,
    /// Gitaly does not accept the question.
    InvalidArgument,
    /// The answer makes no sense.
    ProtocolError,
    /// There was no answer.
    RpcError,
}

impl ErrorKind {
    fn words(self) -> &'static str {
        match self {
            Self::NotFound => "NotFound",
            Self::FileTooBig => "FileTooBig",
            Self::UnexpectedTreeEntryType => "UnexpectedTreeEntryType",
            Self::InvalidArgument => "InvalidArgument",
            Self::ProtocolError => "ProtocolError",
            Self::RpcError => "RpcError",
        }
    }
}

/// Why Gitaly gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {rpc}: {message}{}{}", kind.words(), part(path), part(cause))]
pub struct GitalyError {
    /// What kind of failure it is.
    pub kind: ErrorKind,
    rpc: &'static str,
    message: &'static str,
    /// The file, directory or branch.
    path: String,
    cause: String,
}

fn part(text: &str) -> String {
    match text {
        "" => String::new(),
        text => format!(": {text}"),
    }
}

/// A call that is being made: makes its errors.
#[derive(Debug)]
pub(super) struct Rpc<'a> {
    name: &'static str,
    path: &'a str,
}

impl<'a> Rpc<'a> {
    pub(super) fn new(name: &'static str, path: &'a str) -> Self {
        Self { name, path }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn not_found(&self, cause: &str) -> GitalyError {
        self.error(ErrorKind::NotFound, "file/directory/ref not found", cause)
    }

    pub(super) fn too_big(&self, cause: &str) -> GitalyError {
        self.error(ErrorKind::FileTooBig, "file is too big", cause)
    }

    pub(super) fn no_file(&self) -> GitalyError {
        let kind = ErrorKind::UnexpectedTreeEntryType;
        self.error(kind, "file is not a usual file", "")
    }

    pub(super) fn invalid(&self, why: &str) -> GitalyError {
        let message = "failed to parse reference discovery";
        self.error(ErrorKind::ProtocolError, message, why)
    }

    pub(super) fn unavailable(&self, why: &str) -> GitalyError {
        self.error(ErrorKind::RpcError, "RPC failed", why)
    }

    pub(super) fn failed(&self, status: &Status) -> GitalyError {
        let cause = format!("{:?}: {}", status.code(), status.message());
        self.unavailable(&cause)
    }

    pub(super) fn tree_entry(&self, status: &Status) -> GitalyError {
        match status.code() {
            Code::FailedPrecondition => self.too_big(status.message()),
            Code::NotFound => self.not_found(status.message()),
            _ => self.failed(status),
        }
    }

    pub(super) fn tree_entries(&self, status: &Status) -> GitalyError {
        if status.code() != Code::InvalidArgument {
            return self.failed(status);
        }
        if names_no_tree(status) {
            return self.not_found(status.message());
        }
        let message = "invalid argument";
        self.error(ErrorKind::InvalidArgument, message, status.message())
    }

    fn error(&self, kind: ErrorKind, message: &'static str, cause: &str) -> GitalyError {
        GitalyError {
            kind,
            rpc: self.name,
            message,
            path: self.path.to_owned(),
            cause: cause.to_owned(),
        }
    }
}

/// Whether the details say that the revision or the directory is not there.
fn names_no_tree(status: &Status) -> bool {
    let Ok(told) = rpc::Status::decode(status.details()) else {
        return false;
    };
    let details = told.details.iter();
    let mut details = details.filter(|it| it.type_url.ends_with("/gitaly.GetTreeEntriesError"));
    details.any(|any| {
        let error = GetTreeEntriesError::decode(any.value.as_slice());
        let error = error.ok().and_then(|it| it.error);
        matches!(error, Some(get_tree_entries_error::Error::ResolveTree(_)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_gitlabs_kas_without_empty_parts() {
        let rpc = Rpc::new("TreeEntry", "a/b");

        assert_eq!(
            rpc.not_found("").to_string(),
            "NotFound: TreeEntry: file/directory/ref not found: a/b"
        );
        assert_eq!(
            rpc.failed(&Status::unavailable("gone")).to_string(),
            "RpcError: TreeEntry: RPC failed: a/b: Unavailable: gone"
        );
    }

    #[test]
    fn only_a_tree_that_is_not_there_is_not_found() {
        let rpc = Rpc::new("GetTreeEntries", "d");
        let with = |error: GetTreeEntriesError| {
            let told = rpc::Status {
                details: vec![prost_types::Any {
                    type_url: "type.googleapis.com/gitaly.GetTreeEntriesError".into(),
                    value: error.encode_to_vec(),
                }],
                ..rpc::Status::default()
            };
            let details = told.encode_to_vec().into();
            rpc.tree_entries(&Status::with_details(Code::InvalidArgument, "bad", details))
                .kind
        };
        let tree = get_tree_entries_error::Error::ResolveTree(Default::default());
        let path = get_tree_entries_error::Error::Path(Default::default());

        assert_eq!(
            with(GetTreeEntriesError { error: Some(tree) }),
            ErrorKind::NotFound
        );
        assert_eq!(
            with(GetTreeEntriesError { error: Some(path) }),
            ErrorKind::InvalidArgument
        );
        let bare = rpc.tree_entries(&Status::invalid_argument("bad"));
        assert_eq!(bare.kind, ErrorKind::InvalidArgument);
    }
}

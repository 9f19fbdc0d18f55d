//! The calls to Gitaly, over all its kinds of addresses, with its refusals.

use control_plane::{
    Token,
    gitaly::{ErrorKind, Gitaly, Head, RepositoryLocation, Settings},
};
use proto::agent::entity::{GitalyInfo, GitalyRepository};
use tests::{
    certs::Certs,
    git::Repository,
    gitlab_double::{Endpoint, Fault, FaultKind, GitLabDouble, Scenario},
};

use crate::fixture::{FORGETFUL, Fixture, limits};

const FILE: &str = ".gitlab/agents/production/config.yaml";

/// A double with a repository, and a client of its Gitaly.
struct Rig {
    fixture: Fixture,
    gitaly: Gitaly,
    server: GitalyInfo,
    repository: GitalyRepository,
    files: Repository,
}

impl Rig {
    async fn start() -> Self {
        Self::with(Fixture::start(FORGETFUL).await).await
    }

    async fn with(fixture: Fixture) -> Self {
        let token = Token::new("agent-5-a");
        let registered = fixture.gitlab.registered(&token).await.unwrap();
        Self {
            gitaly: client(),
            server: registered.gitaly.clone(),
            repository: registered.repository.clone(),
            files: fixture.double.repository(3).await.unwrap(),
            fixture,
        }
    }

    fn location(&self) -> RepositoryLocation<'_> {
        RepositoryLocation {
            server: &self.server,
            repository: &self.repository,
        }
    }

    async fn head(&self, branch: &str) -> Result<Head, ErrorKind> {
        let head = self.gitaly.head(self.location(), branch).await;
        head.map_err(|error| error.kind)
    }

    async fn file(&self, commit: &str, path: &str) -> Result<String, ErrorKind> {
        let file = self.gitaly.file(self.location(), commit, path, 100).await;
        file.map(|it| String::from_utf8_lossy(&it).into_owned())
            .map_err(|error| error.kind)
    }

    fn fails(&self, endpoint: Endpoint, kind: FaultKind) {
        self.fixture
            .double
            .change(|it| it.faults = vec![Fault::at(endpoint, kind, None)]);
    }
}

fn client() -> Gitaly {
    Gitaly::new(Settings {
        limits: limits(),
        ca_files: Vec::new(),
        user_agent: kas::version::server_header(),
    })
}

#[tokio::test]
async fn a_branch_is_at_its_last_commit() {
    let rig = Rig::start().await;
    let first = rig.files.commit("main", &[("a", Some("1"))]).await.unwrap();
    let other = rig.files.commit("dev", &[("a", Some("2"))]).await.unwrap();

    assert_eq!(rig.head("main").await, Ok(Head::Commit(first)));
    assert_eq!(rig.head("dev").await, Ok(Head::Commit(other)));
    let second = rig.files.commit("main", &[("a", Some("3"))]).await.unwrap();
    assert_eq!(rig.head("main").await, Ok(Head::Commit(second)));
    assert_eq!(rig.head("nowhere").await, Err(ErrorKind::NotFound));
}

#[tokio::test]
async fn an_empty_repository_is_no_error_and_one_that_is_not_there_is() {
    let mut rig = Rig::start().await;

    assert_eq!(rig.head("main").await, Ok(Head::Empty));
    rig.repository.relative_path = "@hashed/none.git".into();
    assert_eq!(rig.head("main").await, Err(ErrorKind::RpcError));
}

#[tokio::test]
async fn a_file_is_read_as_of_its_commit() {
    let rig = Rig::start().await;
    let old = rig
        .files
        .commit("main", &[(FILE, Some("old"))])
        .await
        .unwrap();
    let new = rig.files.commit("main", &[(FILE, Some(""))]).await.unwrap();
    let large = "x".repeat(101);
    let big = rig
        .files
        .commit("main", &[(FILE, Some(&large))])
        .await
        .unwrap();
    let none = rig
        .files
        .commit("main", &[(FILE, None), ("b", Some("b"))])
        .await
        .unwrap();

    assert_eq!(rig.file(&old, FILE).await.as_deref(), Ok("old"));
    assert_eq!(rig.file(&new, FILE).await.as_deref(), Ok(""));
    assert_eq!(rig.file(&big, FILE).await, Err(ErrorKind::FileTooBig));
    assert_eq!(rig.file(&none, FILE).await, Err(ErrorKind::NotFound));
    let folder = rig.file(&old, ".gitlab/agents").await;
    assert_eq!(folder, Err(ErrorKind::UnexpectedTreeEntryType));
}

#[tokio::test]
async fn the_files_of_a_directory_are_listed() {
    let rig = Rig::start().await;
    let other = ".gitlab/agents/staging/config.yaml";
    let files = [(FILE, Some("")), (other, Some("")), ("x", Some(""))];
    rig.files.commit("main", &files).await.unwrap();
    let list = async |revision: &str, directory: &str| {
        let listed = rig.gitaly.files(rig.location(), revision, directory).await;
        listed.map_err(|error| error.kind)
    };

    let listed = list("refs/heads/main", ".gitlab/agents").await.unwrap();

    let paths: Vec<_> = listed.into_iter().map(|it| it.path).collect();
    assert_eq!(paths, [FILE.as_bytes(), other.as_bytes()]);
    let nowhere = list("refs/heads/main", "nowhere").await;
    assert_eq!(nowhere, Err(ErrorKind::NotFound));
    let no_branch = list("refs/heads/none", ".gitlab/agents").await;
    assert_eq!(no_branch, Err(ErrorKind::NotFound));
}

#[tokio::test]
async fn a_wrong_token_is_refused_and_never_shown() {
    let mut rig = Rig::start().await;
    rig.server.token = "not the token".into();

    let error = rig.gitaly.head(rig.location(), "main").await.unwrap_err();

    assert_eq!(error.kind, ErrorKind::RpcError);
    let text = error.to_string();
    assert!(text.contains("PermissionDenied"), "{text}");
    assert!(!text.contains("not the token"), "{text}");
}

#[tokio::test]
async fn gitaly_is_reached_by_unix_socket_and_by_name() {
    let mut rig = Rig::start().await;
    let port = rig.server.address.rsplit_once(':').unwrap().1.to_owned();

    for address in [
        rig.fixture.double.gitaly_socket(),
        format!("tcp://localhost:{port}"),
        format!("dns:///localhost:{port}"),
    ] {
        rig.server.address.clone_from(&address);
        assert_eq!(rig.head("main").await, Ok(Head::Empty), "{address}");
    }
    for address in ["tcp://127.0.0.1:1", "gitaly:8075", "", "unix:/nowhere"] {
        rig.server.address = address.into();
        assert_eq!(
            rig.head("main").await,
            Err(ErrorKind::RpcError),
            "{address}"
        );
    }
}

#[tokio::test]
async fn with_tls_the_certificate_must_be_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::create(folder.path()).unwrap();
    let double = GitLabDouble::start_tls(Scenario::sample(), &certs);
    let ca = Some(certs.ca.clone());
    let fixture = Fixture::with(
        double.await.unwrap(),
        FORGETFUL,
        |it| it.ca_certificate_file = ca,
        runtime::connect::ProxySetting::None,
    );
    let mut rig = Rig::with(fixture).await;

    let error = rig.gitaly.head(rig.location(), "main").await.unwrap_err();
    rig.gitaly = Gitaly::new(Settings {
        limits: limits(),
        ca_files: vec![certs.ca.clone()],
        user_agent: kas::version::server_header(),
    });

    assert!(error.to_string().contains("trusted CA"), "{error}");
    assert_eq!(rig.head("main").await, Ok(Head::Empty));
}

#[tokio::test]
async fn a_gitaly_that_fails_is_an_error_and_is_asked_again_afterwards() {
    let rig = Rig::start().await;
    let commit = rig
        .files
        .commit("main", &[(FILE, Some("x"))])
        .await
        .unwrap();
    for (kind, expected) in [
        (FaultKind::Down, ErrorKind::RpcError),
        (FaultKind::Status(503), ErrorKind::RpcError),
        (FaultKind::Status(404), ErrorKind::RpcError),
        (FaultKind::Busy(1), ErrorKind::RpcError),
        (FaultKind::Garbage, ErrorKind::ProtocolError),
        (FaultKind::Flood, ErrorKind::ProtocolError),
    ] {
        rig.fails(Endpoint::InfoRefs, kind.clone());
        assert_eq!(rig.head("main").await, Err(expected), "{kind:?}");
    }
    rig.fails(Endpoint::TreeEntry, FaultKind::Flood);
    let flooded = rig.file(&commit, FILE).await;
    assert_eq!(flooded, Err(ErrorKind::FileTooBig));

    rig.fixture.recovers();

    assert_eq!(rig.head("main").await, Ok(Head::Commit(commit)));
}

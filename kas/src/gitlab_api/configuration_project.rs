//! `ConfigurationProject`: GitLab asks which agents a project has files for.

use control_plane::gitaly::{AgentFileName, ErrorKind, Gitaly, GitalyError, RepositoryLocation};
use proto::agent::configuration_project::rpc::{
    AgentConfigFile, ListAgentConfigFilesRequest, ListAgentConfigFilesResponse,
    configuration_project_server,
};
use tonic::{Request, Response, Status};

/// The service.
#[derive(Debug)]
pub(super) struct ConfigurationProject(pub(super) Gitaly);

#[tonic::async_trait]
impl configuration_project_server::ConfigurationProject for ConfigurationProject {
    async fn list_agent_config_files(
        &self,
        request: Request<ListAgentConfigFilesRequest>,
    ) -> Result<Response<ListAgentConfigFilesResponse>, Status> {
        let asked = request.into_inner();
        let invalid = |what: &str| Status::invalid_argument(format!("{what} is required"));
        let location = RepositoryLocation {
            server: asked
                .gitaly_info
                .as_ref()
                .ok_or_else(|| invalid("gitaly_info"))?,
            repository: asked
                .repository
                .as_ref()
                .ok_or_else(|| invalid("repository"))?,
        };
        let revision = revision(&asked.default_branch);
        let listed = self
            .0
            .files(location, &revision, AgentFileName::DIRECTORY)
            .await;
        let files = match listed {
            Ok(files) => files,
            Err(error) if error.kind == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(refusal(&error, location)),
        };
        let names = files.iter().filter_map(|it| AgentFileName::parse(&it.path));
        let files = names.map(|name| AgentConfigFile {
            name: name.path,
            agent_name: name.agent,
        });
        Ok(Response::new(ListAgentConfigFilesResponse {
            config_files: files.collect(),
        }))
    }
}

fn revision(branch: &str) -> String {
    match branch {
        "" => "HEAD".to_owned(),
        branch if branch.starts_with("refs/heads/") => branch.to_owned(),
        branch => format!("refs/heads/{branch}"),
    }
}

fn refusal(error: &GitalyError, location: RepositoryLocation<'_>) -> Status {
    let project = &location.repository.gl_project_path;
    tracing::warn!(%error, project, "could not list a configuration project's files for GitLab");
    let words = format!("PathFetcher: {error}");
    match error.kind {
        ErrorKind::InvalidArgument => Status::invalid_argument(words),
        ErrorKind::NotFound
        | ErrorKind::FileTooBig
        | ErrorKind::UnexpectedTreeEntryType
        | ErrorKind::ProtocolError
        | ErrorKind::RpcError => Status::unavailable(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_is_named_in_full_and_no_branch_is_the_default_one() {
        assert_eq!(revision(""), "HEAD");
        assert_eq!(revision("main"), "refs/heads/main");
        assert_eq!(revision("refs/heads/a/b"), "refs/heads/a/b");
    }
}

//! `Notifications`: GitLab tells of pushes, and every replica hears of them.

use control_plane::notifications::{GitPush, Notifications};
use proto::agent::notifications::rpc::{
    GitPushEventRequest, GitPushEventResponse, notifications_server,
};
use tonic::{Request, Response, Status};

/// The service.
#[derive(Debug)]
pub(super) struct Publisher(pub(super) Notifications);

#[tonic::async_trait]
impl notifications_server::Notifications for Publisher {
    async fn git_push_event(
        &self,
        request: Request<GitPushEventRequest>,
    ) -> Result<Response<GitPushEventResponse>, Status> {
        let push = push(request.into_inner())?;
        tracing::debug!(
            project = &*push.project_path,
            "received a push notification from GitLab"
        );
        self.0.publish(push).await.map_err(|error| {
            tracing::warn!(%error, "could not publish a push notification; the change is found by polling");
            Status::unavailable(format!(
                "Failed to publish received git push event: {error}"
            ))
        })?;
        Ok(Response::new(GitPushEventResponse {}))
    }
}

fn push(request: GitPushEventRequest) -> Result<GitPush, Status> {
    let invalid = |what: &str| Status::invalid_argument(format!("invalid GitPushEvent: {what}"));
    let event = request.event.ok_or_else(|| invalid("event is required"))?;
    let project = event
        .project
        .ok_or_else(|| invalid("project is required"))?;
    if project.id <= 0 {
        return Err(invalid("project.id must be greater than 0"));
    }
    if project.full_path.is_empty() {
        return Err(invalid("project.full_path must not be empty"));
    }
    Ok(GitPush {
        project_id: project.id,
        project_path: project.full_path.into(),
    })
}

#[cfg(test)]
mod tests {
    use proto::agent::event::{GitPushEvent, Project};

    use super::*;

    #[test]
    fn a_push_names_its_project_by_number_and_path() {
        let request = |id, path: &str| GitPushEventRequest {
            event: Some(GitPushEvent {
                project: Some(Project {
                    id,
                    full_path: path.to_owned(),
                }),
            }),
        };
        let empty = GitPushEventRequest {
            event: Some(GitPushEvent { project: None }),
        };

        assert_eq!(&*push(request(7, "g/p")).unwrap().project_path, "g/p");
        for bad in [
            request(0, "g/p"),
            request(-1, "g/p"),
            request(7, ""),
            empty,
            GitPushEventRequest { event: None },
        ] {
            let status = push(bad).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
        }
    }
}

//! `ServerInfo`: which version answers.

use proto::agent::{
    entity,
    server_info::rpc::{GetServerInfoRequest, GetServerInfoResponse, server_info_server},
};
use tonic::{Request, Response, Status};

use crate::version;

/// The service.
#[derive(Debug)]
pub(super) struct Version;

#[tonic::async_trait]
impl server_info_server::ServerInfo for Version {
    async fn get_server_info(
        &self,
        _: Request<GetServerInfoRequest>,
    ) -> Result<Response<GetServerInfoResponse>, Status> {
        Ok(Response::new(GetServerInfoResponse {
            current_server_info: Some(entity::ServerInfo {
                version: version::VERSION.to_owned(),
                git_ref: version::COMMIT.to_owned(),
            }),
        }))
    }
}

//! Why a call fails.

use runtime::tunnel::TunnelError;
use tonic::Status;

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum CallError {
    /// The service failed; kas receives the status.
    #[error("{:?}: {}", .0.code(), .0.message())]
    Failed(Status),
    /// The tunnel failed, so that kas cannot receive a status.
    #[error(transparent)]
    Tunnel(TunnelError),
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

impl From<TunnelError> for CallError {
    fn from(error: TunnelError) -> Self {
        Self::Tunnel(error)
    }
}

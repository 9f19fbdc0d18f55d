//! Why a call or its tunnel ends.

use tonic::Status;

/// Why nothing more comes through a tunnel.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum TunnelError {
    /// kas ended the tunnel with a status.
    #[error("kas ended the tunnel: {:?}: {}", .0.code(), .0.message())]
    Ended(Status),
    /// The stream or its connection broke.
    #[error("the tunnel broke: {:?}: {}", .0.code(), .0.message())]
    Broken(Status),
    /// kas sent what the protocol does not allow.
    #[error("kas violated the tunnel protocol: {}", .0.message())]
    Protocol(Status),
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
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

//! Why a tunnel ends.

use tonic::Status;

/// Why nothing more comes through a tunnel.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TunnelError {
    /// The server ended the tunnel with a status.
    #[error("the server ended the tunnel: {:?}: {}", .0.code(), .0.message())]
    Ended(Status),
    /// The stream or its connection broke.
    #[error("the tunnel broke: {:?}: {}", .0.code(), .0.message())]
    Broken(Status),
    /// The server sent what the protocol does not allow.
    #[error("the server violated the tunnel protocol: {}", .0.message())]
    Protocol(Status),
}

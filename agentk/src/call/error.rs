//! What ends a call other than well, and as which status kas hears of it.

use std::error::Error;

use tonic::Status;

use crate::tunnels::Lost;

/// Why a call did not end well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The call failed; kas is told.
    Call(Status),
    /// There is no tunnel to tell it through.
    Tunnel(Lost),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Call(status)
    }
}

impl From<Lost> for Failure {
    fn from(lost: Lost) -> Self {
        Self::Tunnel(lost)
    }
}

/// A request that could not be made of the API server, or whose answer broke.
pub(super) fn outgoing(error: &(dyn Error + 'static)) -> Status {
    let text = chain(error);
    tracing::error!(error = text, "a request to the Kubernetes API failed");
    Status::unavailable(format!("gRPC -> HTTP: {text}"))
}

/// An error with its causes, each said once.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn causes_are_told() {
        let error = Outer(std::io::Error::other("connection refused"));

        assert_eq!(
            outgoing(&error).message(),
            "gRPC -> HTTP: outer: connection refused"
        );
    }
}

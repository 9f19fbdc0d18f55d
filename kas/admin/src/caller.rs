//! Who asks, as the port has found it out.

use std::sync::Arc;

use crate::Failure;

/// Who makes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// As they are called in limits and logs.
    pub(crate) name: Arc<str>,
    /// Whether they have proved who they are: by a token, or by a client certificate. Whoever is on this machine has
    /// not.
    pub(crate) proven: bool,
}

impl Caller {
    /// Refuses who has not proved who they are: for what makes or takes away credentials.
    pub(crate) fn check_proven(&self) -> Result<(), Failure> {
        if self.proven {
            return Ok(());
        }
        Err(Failure::Forbidden(
            "clusters are added and tokens made or taken away only for who has proved who they are: set \
             admin.listen.tokens_file and give a token of it, or use `kas cluster` and `kas agent` on the file",
        ))
    }
}

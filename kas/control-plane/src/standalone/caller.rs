//! Who asks, as the rules know them.

use std::sync::Arc;

use crate::{Identity, IdentityKind};

/// A user or service, and its groups.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who it is.
    pub identity: Identity,
    /// The groups it is in.
    pub groups: Vec<String>,
    /// How it proved that, in the words of GitLab's kas where it has some; told to the cluster.
    pub access_type: &'static str,
    /// Who says so; `None` is the file.
    pub issuer: Option<Arc<str>>,
}

impl Caller {
    /// What a rule says a caller of this kind is called: `user` or `service`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.identity.kind {
            IdentityKind::User => "user",
            IdentityKind::CiJob => "service",
        }
    }
}

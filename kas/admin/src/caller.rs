//! Who asks, as the port has found it out.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use runtime::listen::RemoteAddr;

use crate::{Failure, Role};

/// How somebody has proved who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// By a token of the file.
    Token,
    /// By a client certificate.
    Certificate,
    /// Not at all: they are on this machine.
    None,
}

impl Proof {
    /// Its name in answers.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Certificate => "certificate",
            Self::None => "none",
        }
    }
}

/// Who makes a request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// As they are called in limits, logs and the audit trail.
    pub(crate) name: Arc<str>,
    /// What they may do.
    pub(crate) role: Role,
    /// How that is known.
    pub(crate) proof: Proof,
    /// What they have sent, for records.
    pub(crate) request: Arc<RequestFacts>,
}

/// What records say of a request.
#[derive(Debug)]
pub(crate) struct RequestFacts {
    /// Where it came from.
    pub(crate) remote_addr: RemoteAddr,
    /// Its method.
    pub(crate) method: http::Method,
    /// Its path, without the query.
    pub(crate) path: String,
    progress: AtomicU8,
}

/// Nothing that it asks for has been done.
const WAITING: u8 = 0;
/// It may have had an effect.
const BEGUN: u8 = 1;
/// Who waited was told that nothing was done, so that nothing is done any more.
const GIVEN_UP: u8 = 2;

impl RequestFacts {
    pub(crate) fn new<B>(request: &http::Request<B>, remote_addr: RemoteAddr) -> Self {
        Self {
            remote_addr,
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            progress: AtomicU8::new(WAITING),
        }
    }

    /// From now on it may have an effect; `false` if it was given up.
    pub(crate) fn begin(&self) -> bool {
        self.advance(BEGUN)
    }

    /// From now on it has no effect; `false` if it may have had one.
    pub(crate) fn give_up(&self) -> bool {
        self.advance(GIVEN_UP)
    }

    fn advance(&self, to: u8) -> bool {
        let order = Ordering::AcqRel;
        let before = self
            .progress
            .compare_exchange(WAITING, to, order, Ordering::Acquire);
        before.is_ok()
    }
}

impl Caller {
    /// Refuses who has a lesser role than `needed`, and says where another one is given.
    pub(crate) fn require(&self, needed: Role) -> Result<(), Failure> {
        if self.role >= needed {
            return Ok(());
        }
        let (name, role) = (&self.name, self.role);
        let words = match self.proof {
            Proof::Token => format!(
                "this needs the role {needed}, and the token `{name}` has {role}: write `role={needed}` before the token \
                 in admin.listen.tokens_file"
            ),
            Proof::Certificate => format!(
                "this needs the role {needed}, and the client certificate `{name}` has {role}: name its subject under \
                 admin.certificate_roles with `role: {needed}`"
            ),
            Proof::None => {
                let instead = match needed {
                    Role::Administrator => ", or use `kas cluster` and `kas agent` on the file",
                    Role::Operator | Role::Viewer => "",
                };
                format!(
                    "this needs the role {needed}, and whoever is on this machine has {role}: set \
                     admin.listen.tokens_file and show a token of it with `role={needed}`{instead}"
                )
            }
        };
        Err(Failure::Forbidden(words))
    }
}

//! Why a replica that holds an agent's tunnels does not serve a call by one of them, and how that travels to the
//! replica that asked: a user hears the same, whichever replica they ask.

use std::{borrow::Cow, time::Duration};

use tonic::{Code, Status, metadata::MetadataValue};

use crate::error::OpenError;

/// Marks the status by which an owner refuses; other kinds of kas ignore it.
const REFUSAL: &str = "kas-tunnel-refusal";
/// How the name of [`Refusal::ShareUsed`] begins; the limit follows.
const SHARE: &str = "share-";
/// How long an agent whose idle tunnels do not serve a call may take to offer one that does.
const FIT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a caller whose share is used up may wait for one of its own calls to end.
const SHARE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why no tunnel of an agent serves a call. The later ones come nearer to serving it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// Its tunnels do not offer the method.
    NotOffered,
    /// Its tunnels offer the method, but the agent would ignore on whose behalf it acts.
    CannotImpersonate,
    /// The agent would answer an upgrade and carry nothing.
    NoUpgrades,
    /// Those are in use that callers may use who use one already.
    ShareUsed {
        /// How many these are.
        limit: usize,
    },
    /// Too many wait for one already.
    TooManyWaiting,
}

impl Refusal {
    const NAMED: [Self; 4] = [
        Self::NotOffered,
        Self::CannotImpersonate,
        Self::NoUpgrades,
        Self::TooManyWaiting,
    ];

    /// For how long there must have been this reason before it is given.
    pub(crate) fn patience(self) -> Duration {
        match self {
            Self::NotOffered | Self::CannotImpersonate | Self::NoUpgrades => FIT_TIMEOUT,
            Self::ShareUsed { .. } => SHARE_TIMEOUT,
            Self::TooManyWaiting => Duration::ZERO,
        }
    }

    fn name(self) -> Cow<'static, str> {
        match self {
            Self::NotOffered => "method".into(),
            Self::CannotImpersonate => "impersonation".into(),
            Self::NoUpgrades => "upgrade".into(),
            Self::ShareUsed { limit } => format!("{SHARE}{limit}").into(),
            Self::TooManyWaiting => "queue".into(),
        }
    }

    /// What the replica that asked is told.
    pub(crate) fn for_peer(self) -> Status {
        let code = match self {
            Self::NotOffered | Self::CannotImpersonate | Self::NoUpgrades => {
                Code::FailedPrecondition
            }
            Self::ShareUsed { .. } | Self::TooManyWaiting => Code::ResourceExhausted,
        };
        let mut status = Status::new(code, OpenError::from(self).to_string());
        let name = MetadataValue::try_from(&*self.name());
        let name = name.expect("letters and digits are metadata");
        status.metadata_mut().insert(REFUSAL, name);
        status
    }

    /// What the replica that holds the tunnels said, if it refused for a reason of these.
    pub(crate) fn from_owner(status: &Status) -> Option<Self> {
        let name = status.metadata().get(REFUSAL)?.to_str().ok()?;
        if let Some(limit) = name.strip_prefix(SHARE) {
            let limit = limit.parse().ok()?;
            return Some(Self::ShareUsed { limit });
        }
        Self::NAMED.into_iter().find(|it| it.name() == name)
    }
}

impl From<Refusal> for OpenError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotOffered => Self::NotOffered,
            Refusal::CannotImpersonate => Self::CannotImpersonate,
            Refusal::NoUpgrades => Self::NoUpgrades,
            Refusal::ShareUsed { limit } => Self::ShareUsed { limit },
            Refusal::TooManyWaiting => Self::TooManyWaiting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_survives_the_way_from_the_owner() {
        let share = Refusal::ShareUsed { limit: 450 };
        for refusal in Refusal::NAMED.into_iter().chain([share]) {
            let trailers = runtime::grpc::trailers(&refusal.for_peer());
            let heard = Status::from_header_map(&trailers).unwrap();

            assert_eq!(Refusal::from_owner(&heard), Some(refusal));
            assert_eq!(heard.message(), OpenError::from(refusal).to_string());
        }
        assert_eq!(Refusal::from_owner(&Status::unavailable("gone")), None);
    }
}

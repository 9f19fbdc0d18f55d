//! Why an owner refuses a call, and how that travels to the peer: a user gets the same error from every replica.

use std::{borrow::Cow, time::Duration};

use tonic::{Code, Status, metadata::MetadataValue};

use crate::error::OpenError;

/// Metadata of a refusal; GitLab's kas ignores it.
const REFUSAL: &str = "kas-tunnel-refusal";
/// Prefix of the name of [`Refusal::ShareUsed`]; the limit follows.
const SHARE_PREFIX: &str = "share-";
/// How long an agent may take to open a tunnel with the capability that its idle ones lack.
const CAPABILITY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a caller whose share is used up may wait for one of its own calls to end.
const SHARE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why no tunnel of an agent can serve a call, in ascending order of how much of it they could serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The agent does not support the method.
    NotOffered,
    /// The agent does not support impersonation.
    CannotImpersonate,
    /// The agent does not support connection upgrades.
    NoUpgrades,
    /// The tunnels for callers that use one already are all in use.
    ShareUsed {
        /// Their number.
        limit: usize,
    },
    /// The agent's queue is full.
    TooManyWaiting,
}

impl Refusal {
    const NAMED: [Self; 4] = [
        Self::NotOffered,
        Self::CannotImpersonate,
        Self::NoUpgrades,
        Self::TooManyWaiting,
    ];

    /// How long this reason may pass by itself before the call is refused.
    pub(crate) fn hold_time(self) -> Duration {
        match self {
            Self::NotOffered | Self::CannotImpersonate | Self::NoUpgrades => CAPABILITY_TIMEOUT,
            Self::ShareUsed { .. } => SHARE_TIMEOUT,
            Self::TooManyWaiting => Duration::ZERO,
        }
    }

    fn name(self) -> Cow<'static, str> {
        match self {
            Self::NotOffered => "method".into(),
            Self::CannotImpersonate => "impersonation".into(),
            Self::NoUpgrades => "upgrade".into(),
            Self::ShareUsed { limit } => format!("{SHARE_PREFIX}{limit}").into(),
            Self::TooManyWaiting => "queue".into(),
        }
    }

    /// The status for the peer.
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

    /// The refusal in an owner's status, if it is one.
    pub(crate) fn from_owner(status: &Status) -> Option<Self> {
        let name = status.metadata().get(REFUSAL)?.to_str().ok()?;
        if let Some(limit) = name.strip_prefix(SHARE_PREFIX) {
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

//! Why a replica that holds an agent's tunnels does not serve a call by one of them, and how that travels to the
//! replica that asked: a user hears the same, whichever replica they ask.

use tonic::{Code, Status, metadata::MetadataValue};

use crate::error::OpenError;

/// Marks the status by which an owner refuses; other kinds of kas ignore it.
const REFUSAL: &str = "kas-tunnel-refusal";

/// Why no tunnel of an agent serves a call. The later ones come nearer to serving it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// Its tunnels do not offer the method.
    NotOffered,
    /// Its tunnels offer the method, but the agent would ignore on whose behalf it acts.
    CannotImpersonate,
    /// The agent would answer an upgrade and carry nothing.
    NoUpgrades,
    /// Too many wait for one already.
    TooManyWaiting,
}

impl Refusal {
    const ALL: [Self; 4] = [
        Self::NotOffered,
        Self::CannotImpersonate,
        Self::NoUpgrades,
        Self::TooManyWaiting,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::NotOffered => "method",
            Self::CannotImpersonate => "impersonation",
            Self::NoUpgrades => "upgrade",
            Self::TooManyWaiting => "queue",
        }
    }

    /// What the replica that asked is told.
    pub(crate) fn for_peer(self) -> Status {
        let code = match self {
            Self::NotOffered | Self::CannotImpersonate | Self::NoUpgrades => {
                Code::FailedPrecondition
            }
            Self::TooManyWaiting => Code::ResourceExhausted,
        };
        let mut status = Status::new(code, OpenError::from(self).to_string());
        let name = MetadataValue::from_static(self.name());
        status.metadata_mut().insert(REFUSAL, name);
        status
    }

    /// What the replica that holds the tunnels said, if it refused for a reason of these.
    pub(crate) fn from_owner(status: &Status) -> Option<Self> {
        let name = status.metadata().get(REFUSAL)?.to_str().ok()?;
        Self::ALL.into_iter().find(|it| it.name() == name)
    }
}

impl From<Refusal> for OpenError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotOffered => Self::NotOffered,
            Refusal::CannotImpersonate => Self::CannotImpersonate,
            Refusal::NoUpgrades => Self::NoUpgrades,
            Refusal::TooManyWaiting => Self::TooManyWaiting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_survives_the_way_from_the_owner() {
        for refusal in Refusal::ALL {
            let trailers = runtime::grpc::trailers(&refusal.for_peer());
            let heard = Status::from_header_map(&trailers).unwrap();

            assert_eq!(Refusal::from_owner(&heard), Some(refusal));
            assert_eq!(heard.message(), OpenError::from(refusal).to_string());
        }
        assert_eq!(Refusal::from_owner(&Status::unavailable("gone")), None);
    }
}

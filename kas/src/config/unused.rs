//! Keys that are accepted and have no effect, and why.

use runtime::{
    section,
    yaml::{At, PositiveSeconds, Reason, Setting, YamlError},
};
use serde::{Deserialize, Serialize, Serializer, de::IgnoredAny};

macro_rules! reasons {
    ($($name:ident = $why:literal;)*) => {$(
        #[doc = $why]
        #[derive(Debug, Clone, Copy)]
        pub enum $name {}

        impl Reason for $name {
            const WHY: &'static str = $why;
        }
    )*};
}

reasons! {
    NoManifests = "manifests are not delivered: GitLab removed gitops in 2025; agents use Flux";
    Leases = "replicas' leases take its place, which have times of their own";
    UpstreamToo = "accepted and without effect, as in GitLab's kas";
    NotBuilt = "this version does not have it";
    OneGrace = "agent.listen.listen_grace_period counts for this listener too";
    NoAge = "connections between replicas are not replaced by age";
    NoGrpcLog = "gRPC has no log of its own here; observability.logging.level counts";
    NoCommand = "no command is run to get more of the configuration";
}

/// A value that nobody looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anything;

impl<'de> Deserialize<'de> for Anything {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl Serialize for Anything {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl Setting for Anything {}

/// `workspaces`: only whether they are wanted; whatever else it says is not looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Workspaces {
    /// Whether they are.
    pub enabled: bool,
    /// Where they would be served.
    #[serde(skip_serializing)]
    pub listen: Option<Anything>,
}

impl Setting for Workspaces {
    fn check(&self, at: &At<'_>) -> Result<(), YamlError> {
        if self.enabled {
            at.note(NotBuilt::WHY);
        }
        Ok(())
    }
}

section! {
    /// `agent.remote_development`.
    pub struct RemoteDevelopment: Default {
        /// How often it would be polled.
        pub poll_period: Option<PositiveSeconds> = None,
    }
}

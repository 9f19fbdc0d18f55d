//! The wire between agents, kas and GitLab. No behaviour lives here.
//!
//! Package and service names are GitLab's own, so that an agent or a kas that
//! nobody changed understands this one; what GitLab's do not have is in packages
//! of ours, `gitlab.agent.kas_*`: load balancers that pass agents on by path know
//! `/gitlab.agent.` only.

pub mod bounds;
pub mod former_names;
pub mod frame;
pub mod metadata;
pub mod not_taken;
mod process_method;
pub mod segment;
pub mod sequence;

#[allow(
    missing_docs,
    clippy::all,
    missing_debug_implementations,
    unreachable_pub
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/proto.rs"));
}

pub use generated::{
    gitaly,
    gitlab::agent::{
        self, kas_clusters as clusters, kas_doctor as doctor, kas_events as events,
        kas_graph as graph, kas_join as join, kas_receptive as receptive,
    },
    google,
};

pub use process_method::ProcessMethod;

/// All definitions as an encoded `google.protobuf.FileDescriptorSet`, for
/// servers that tell what they serve.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

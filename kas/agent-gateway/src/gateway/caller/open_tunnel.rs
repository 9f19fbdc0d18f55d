//! A tunnel about which is to be decided.

use router::tunnel::{Offer, Stream};

use super::{Permit, Told};

/// A tunnel that an agent has opened, with what it says of the cluster that it leads to.
#[derive(Debug)]
pub(in crate::gateway) struct OpenTunnel {
    pub(in crate::gateway) offer: Offer,
    pub(in crate::gateway) stream: Stream,
    pub(in crate::gateway) permit: Permit,
    pub(in crate::gateway) told: Told,
}

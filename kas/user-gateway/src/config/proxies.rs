//! Proxies whose word about a client's address counts.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use runtime::yaml::Setting;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A network, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyNetwork(pub IpNet);

impl fmt::Display for ProxyNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for ProxyNetwork {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ProxyNetwork {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let network = text.parse::<IpNet>().ok();
        let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
        network.or_else(address).map(Self).ok_or_else(|| {
            D::Error::custom("give addresses and networks, such as 10.0.0.0/8 or 10.1.2.3")
        })
    }
}

impl Setting for ProxyNetwork {}

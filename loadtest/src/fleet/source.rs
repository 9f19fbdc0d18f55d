//! Local addresses to dial from, so that ports do not run out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::ensure;
use ipnet::{IpNet, Ipv4Net};

/// Between the addresses of two agents, so that they spread over their whole range. A prime, which
/// no power of two is a multiple of.
const STRIDE: u128 = 65_537;

/// Addresses taken in turns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sources(Option<IpNet>);

impl Sources {
    /// Those of `range`; without one, all of loopback where the target is there,
    /// else whatever the system chooses.
    ///
    /// # Errors
    /// When the range has no address.
    pub(super) fn new(range: Option<IpNet>, host: &str) -> anyhow::Result<Self> {
        let loopback = || IpNet::from(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));
        let range = range.or_else(|| is_loopback(host).then(loopback));
        if let Some(range) = &range {
            ensure!(hosts(range) > 0, "the range {range} has no address");
        }
        Ok(Self(range))
    }

    /// The address of the agent with this number.
    pub(super) fn of(&self, agent: usize) -> Option<IpAddr> {
        let range = self.0.as_ref()?;
        let (first, hosts) = (first(range), hosts(range));
        let place = match hosts > STRIDE {
            true => (agent as u128 + 1).wrapping_mul(STRIDE),
            false => agent as u128,
        };
        Some(nth(first, place % hosts))
    }

    /// How many addresses there are.
    pub(super) fn count(&self) -> usize {
        self.0.as_ref().map_or(1, |range| {
            usize::try_from(hosts(range)).unwrap_or(usize::MAX)
        })
    }
}

fn first(range: &IpNet) -> IpAddr {
    range.hosts().next().unwrap_or(range.network())
}

/// Addresses that a host may have: without those of the network and of broadcasts.
fn hosts(range: &IpNet) -> u128 {
    let bits = range.max_prefix_len() - range.prefix_len();
    match (range, bits) {
        (_, 0) => 1,
        (IpNet::V4(_), 1) => 2,
        (IpNet::V4(_), bits) => (1 << bits) - 2,
        (IpNet::V6(_), bits) => 1 << bits.min(64),
    }
}

fn nth(first: IpAddr, place: u128) -> IpAddr {
    match first {
        IpAddr::V4(first) => {
            let place = u32::try_from(place).unwrap_or_default();
            Ipv4Addr::from_bits(first.to_bits().wrapping_add(place)).into()
        }
        IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits().wrapping_add(place)).into(),
    }
}

fn is_loopback(host: &str) -> bool {
    host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn agents_on_loopback_each_have_an_address_of_their_own() {
        let sources = Sources::new(None, "127.0.0.1").unwrap();

        let addresses: HashSet<_> = (0..100_000).filter_map(|it| sources.of(it)).collect();

        assert_eq!(addresses.len(), 100_000);
        assert!(addresses.iter().all(IpAddr::is_loopback));
        assert!(
            addresses
                .iter()
                .any(|it| it.to_string().starts_with("127.200."))
        );
    }

    #[test]
    fn elsewhere_the_system_chooses_unless_a_range_is_given() {
        let free = Sources::new(None, "kas.example.com").unwrap();
        let given = |range: &str| Sources::new(Some(range.parse().unwrap()), "10.1.1.1").unwrap();

        assert_eq!((free.of(5), free.count()), (None, 1));
        assert_eq!(given("10.0.0.8/31").of(1), Some([10, 0, 0, 9].into()));
        assert_eq!(given("10.0.0.8/30").of(2), Some([10, 0, 0, 9].into()));
        assert_eq!(given("10.0.0.8/32").of(7), Some([10, 0, 0, 8].into()));
    }
}

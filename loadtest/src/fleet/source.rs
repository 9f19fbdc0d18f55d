//! Local addresses to dial from, so that ports do not run out.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::ensure;
use ipnet::{IpNet, Ipv4Net};

/// Addresses taken in turns.
#[derive(Debug, Clone)]
pub(super) struct Sources(Vec<IpAddr>);

impl Sources {
    /// Those of `range`; without one, many where the target is on loopback,
    /// else whatever the system chooses.
    ///
    /// # Errors
    /// When the range has no address.
    pub(super) fn new(range: Option<IpNet>, host: &str) -> anyhow::Result<Self> {
        let range = match range {
            Some(range) => range,
            None if is_loopback(host) => loopback(),
            None => return Ok(Self(Vec::new())),
        };
        let addresses: Vec<_> = range.hosts().take(1 << 16).collect();
        ensure!(!addresses.is_empty(), "the range {range} has no address");
        Ok(Self(addresses))
    }

    /// The address of the agent with this number.
    pub(super) fn of(&self, agent: usize) -> Option<IpAddr> {
        let index = agent.checked_rem(self.0.len())?;
        Some(self.0[index])
    }
}

fn loopback() -> IpNet {
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 1, 0), 24).into()
}

fn is_loopback(host: &str) -> bool {
    host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_on_loopback_dial_from_many_addresses() {
        let sources = Sources::new(None, "127.0.0.1").unwrap();

        assert_eq!(sources.of(0), Some([127, 0, 1, 1].into()));
        assert_eq!(sources.of(253), Some([127, 0, 1, 254].into()));
        assert_eq!(sources.of(254), sources.of(0));
    }

    #[test]
    fn elsewhere_the_system_chooses_unless_a_range_is_given() {
        let free = Sources::new(None, "kas.example.com").unwrap();
        let given = Sources::new(Some("10.0.0.8/31".parse().unwrap()), "10.1.1.1").unwrap();

        assert_eq!(free.of(5), None);
        assert_eq!(given.of(1), Some([10, 0, 0, 9].into()));
    }
}

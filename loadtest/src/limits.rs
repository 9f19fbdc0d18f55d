//! Open files and ports: as many as the system allows, and a clear word when too few.

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that a process needs beside its connections.
const SPARE_FILES: u64 = 64;

/// Raises the soft limit to the hard one and checks that `connections` fit.
///
/// # Errors
/// When they do not fit, saying what to set.
pub(crate) fn make_room(connections: usize) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )
    .context("cannot raise the limit of open files")?;
    check(connections as u64 + SPARE_FILES, limit.maximum)
}

fn check(needed: u64, hard: Option<u64>) -> anyhow::Result<()> {
    match hard {
        Some(hard) if hard < needed => bail!(
            "{needed} open files are needed, but the hard limit is {hard}: \
             raise it (`ulimit -Hn {needed}` as root) or ask for fewer connections"
        ),
        Some(_) | None => Ok(()),
    }
}

/// Checks that so many connections from one address to one port find a port each.
///
/// # Errors
/// When they do not, saying what to set.
pub(crate) fn check_ports(connections: usize) -> anyhow::Result<()> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let Some(ports) = range.ok().and_then(|range| ports(&range)) else {
        return Ok(());
    };
    fit(connections as u64, ports)
}

/// How many ports there are from the first to the second number.
fn ports(range: &str) -> Option<u64> {
    let mut ends = range.split_whitespace().map(str::parse::<u64>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    last.checked_sub(first).map(|more| more + 1)
}

fn fit(connections: u64, ports: u64) -> anyhow::Result<()> {
    if connections <= ports {
        return Ok(());
    }
    bail!(
        "{connections} connections from one address to one port are needed, but the system has {ports} ports for them: \
         widen them (`sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"`), dial from more addresses (--source-range), \
         or ask for fewer connections"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_ports_are_named_with_what_to_set() {
        assert_eq!(ports("32768\t60999\n"), Some(28_232));
        assert!(fit(28_232, 28_232).is_ok());

        let error = fit(30_000, 28_232).unwrap_err().to_string();

        assert!(error.contains("30000 connections"), "{error}");
        assert!(error.contains("ip_local_port_range") && error.contains("--source-range"));
    }

    #[test]
    fn too_few_files_are_named_with_what_to_set() {
        assert!(check(1000, Some(1000)).is_ok());
        assert!(check(1000, None).is_ok());

        let error = check(20_064, Some(20_000)).unwrap_err().to_string();

        assert!(error.contains("hard limit is 20000"), "{error}");
        assert!(error.contains("ulimit -Hn 20064"), "{error}");
    }
}

//! `NO_PROXY` as Go's net/http understands it. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

/// Hosts that are reached without a proxy.
#[derive(Debug, Clone, Default)]
pub(super) struct NoProxy(Vec<Rule>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Everything,
    Net(IpNet),
    Ip(IpAddr, Option<u16>),
    /// With a leading dot; also the bare domain, unless only what is below
    /// it was named.
    Domain {
        suffix: String,
        bare: bool,
        port: Option<u16>,
    },
}

impl NoProxy {
    /// Reads a comma-separated list of hosts, domains, addresses, networks
    /// and `*`. What cannot be understood matches nothing.
    pub(super) fn parse(list: &str) -> Self {
        Self(list.split(',').filter_map(rule).collect())
    }

    /// Whether `host` is reached without a proxy; localhost always is.
    pub(super) fn matches(&self, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let ip = host.parse::<IpAddr>().ok();
        let local = host == "localhost" || ip.is_some_and(|ip| ip.is_loopback());
        local || self.0.iter().any(|rule| rule.matches(&host, ip, port))
    }
}

fn rule(item: &str) -> Option<Rule> {
    let item = item.trim().to_ascii_lowercase();
    if item.is_empty() {
        return None;
    }
    if item == "*" {
        return Some(Rule::Everything);
    }
    if let Ok(net) = item.parse() {
        return Some(Rule::Net(net));
    }
    let (host, port) = split_port(&item);
    let host = host.trim_matches(['[', ']']);
    if let Ok(ip) = host.parse() {
        return Some(Rule::Ip(ip, port));
    }
    let name = host.strip_prefix('*').unwrap_or(host);
    let (suffix, bare) = match name.strip_prefix('.') {
        Some(rest) if !rest.is_empty() => (name.to_owned(), false),
        None if !name.is_empty() => (format!(".{name}"), true),
        Some(_) | None => return None,
    };
    Some(Rule::Domain { suffix, bare, port })
}

fn split_port(item: &str) -> (&str, Option<u16>) {
    match item.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            port.parse().map_or((item, None), |port| (host, Some(port)))
        }
        Some(_) | None => (item, None),
    }
}

impl Rule {
    fn matches(&self, host: &str, ip: Option<IpAddr>, to: u16) -> bool {
        match self {
            Self::Everything => true,
            Self::Net(net) => ip.is_some_and(|ip| net.contains(&ip)),
            Self::Ip(own, port) => ip == Some(*own) && port.is_none_or(|port| port == to),
            Self::Domain { suffix, bare, port } => {
                let named = host.ends_with(suffix) || (*bare && host == &suffix[1..]);
                named && port.is_none_or(|port| port == to)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_match_as_in_go() {
        let cases = [
            ("", "example.com", false),
            ("", "localhost", true),
            ("", "127.0.0.2", true),
            ("", "::1", true),
            ("*", "example.com", true),
            ("example.com", "example.com", true),
            ("example.com", "EXAMPLE.com.", true),
            ("example.com", "kas.example.com", true),
            ("example.com", "badexample.com", false),
            (".example.com", "example.com", false),
            (".example.com", "kas.example.com", true),
            ("*.example.com", "kas.example.com", true),
            ("a, example.com:443", "example.com", true),
            ("example.com:80", "example.com", false),
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3:80", "10.1.2.3", false),
            ("fd00::/8", "fd00::1", true),
            ("[fd00::1]:443", "fd00::1", true),
            ("fd00::1", "fd00::1", true),
        ];

        for (list, host, expected) in cases {
            let matches = NoProxy::parse(list).matches(host, 443);

            assert_eq!(matches, expected, "{list:?} {host:?}");
        }
    }
}

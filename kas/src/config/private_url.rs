//! Under which URL the other replicas reach this one.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::{ListenAddress, Network};

/// The `OWN_PRIVATE_API_*` variables of the environment; empty means unset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnAddressVariables {
    /// The whole URL, used as it is.
    pub url: String,
    /// The network that the own address is in.
    pub cidr: String,
    /// `grpc` or `grpcs`.
    pub scheme: String,
    /// The port, with `cidr` only.
    pub port: String,
    /// The name that the replicas' certificates are for.
    pub host: String,
    /// `POD_IP`: this pod's address, as Kubernetes tells it.
    pub pod_ip: String,
}

impl OwnAddressVariables {
    /// Reads them by name, for instance from the environment.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let get = |suffix: &str| variable(&format!("OWN_PRIVATE_API_{suffix}")).unwrap_or_default();
        Self {
            url: get("URL"),
            cidr: get("CIDR"),
            scheme: get("SCHEME"),
            port: get("PORT"),
            host: get("HOST"),
            pod_ip: variable("POD_IP").unwrap_or_default(),
        }
    }
}

/// How the other replicas reach this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnAddress {
    /// The URL that this replica publishes.
    pub url: String,
    /// The name in the replicas' certificates, if TLS is used.
    pub tls_server_name: Option<String>,
}

/// Why a replica cannot tell its own URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OwnAddressError {
    /// Two ways at once.
    #[error("OWN_PRIVATE_API_URL and OWN_PRIVATE_API_CIDR are both set: set only one")]
    Ambiguous,
    /// No such scheme.
    #[error("OWN_PRIVATE_API_SCHEME is `{0}`, it must be grpc or grpcs")]
    Scheme(String),
    /// Not a network.
    #[error("OWN_PRIVATE_API_CIDR is `{0}`, it must be a network such as 10.0.0.0/8")]
    Cidr(String),
    /// Not a port.
    #[error("OWN_PRIVATE_API_PORT is `{0}`, it must be a number from 1 to 65535")]
    Port(String),
    /// No own address, or several.
    #[error(
        "OWN_PRIVATE_API_CIDR {cidr} matches {count} of this machine's addresses, it must match exactly one"
    )]
    Matches {
        /// The network.
        cidr: String,
        /// How many addresses are in it.
        count: usize,
    },
    /// The listener's address does not tell.
    #[error(
        "private_api.listen.address {listen} is all interfaces, and this machine has {count} addresses \
         that it could be: set OWN_PRIVATE_API_URL, OWN_PRIVATE_API_CIDR or POD_IP"
    )]
    Wildcard {
        /// The listener's address.
        listen: String,
        /// How many addresses it could be.
        count: usize,
    },
    /// Not an address.
    #[error("POD_IP is `{0}`, it must be an IP address")]
    PodIp(String),
    /// A port cannot be told from the listener.
    #[error("private_api.listen.address {0} has no port: set OWN_PRIVATE_API_PORT")]
    NoPort(String),
    /// TLS without a name to check.
    #[error("OWN_PRIVATE_API_HOST must be set when private_api.listen has a certificate")]
    NoHost,
}

impl OwnAddress {
    /// Decides from the variables, else from the listener's address.
    ///
    /// `interfaces` are the addresses of this machine; `tls` says whether the
    /// listener has a certificate.
    pub fn decide(
        variables: &OwnAddressVariables,
        listen: &ListenAddress,
        tls: bool,
        interfaces: impl FnOnce() -> Vec<IpAddr>,
    ) -> Result<Self, OwnAddressError> {
        if tls && variables.host.is_empty() {
            return Err(OwnAddressError::NoHost);
        }
        Ok(Self {
            url: url(variables, listen, interfaces)?,
            tls_server_name: Some(variables.host.clone()).filter(|host| !host.is_empty()),
        })
    }
}

fn url(
    variables: &OwnAddressVariables,
    listen: &ListenAddress,
    interfaces: impl FnOnce() -> Vec<IpAddr>,
) -> Result<String, OwnAddressError> {
    match (variables.url.is_empty(), variables.cidr.is_empty()) {
        (false, false) => Err(OwnAddressError::Ambiguous),
        (false, true) => Ok(variables.url.clone()),
        (true, false) => {
            let ip = own_ip(&variables.cidr, interfaces())?;
            let address = SocketAddr::new(ip, port(variables, listen)?);
            Ok(format!("{}://{address}", scheme(variables)?))
        }
        (true, true) => from_listener(variables, listen, interfaces),
    }
}

fn scheme(variables: &OwnAddressVariables) -> Result<&str, OwnAddressError> {
    match variables.scheme.as_str() {
        "" | "grpc" => Ok("grpc"),
        "grpcs" => Ok("grpcs"),
        other => Err(OwnAddressError::Scheme(other.to_owned())),
    }
}

fn own_ip(cidr: &str, interfaces: Vec<IpAddr>) -> Result<IpAddr, OwnAddressError> {
    let net: IpNet = cidr
        .parse()
        .map_err(|_| OwnAddressError::Cidr(cidr.to_owned()))?;
    let inside: Vec<IpAddr> = interfaces
        .into_iter()
        .filter(|ip| net.contains(ip))
        .collect();
    match inside.as_slice() {
        [ip] => Ok(*ip),
        several => Err(OwnAddressError::Matches {
            cidr: cidr.to_owned(),
            count: several.len(),
        }),
    }
}

fn port(variables: &OwnAddressVariables, listen: &ListenAddress) -> Result<u16, OwnAddressError> {
    if !variables.port.is_empty() {
        let port = variables.port.parse().ok().filter(|port| *port != 0);
        return port.ok_or_else(|| OwnAddressError::Port(variables.port.clone()));
    }
    let port = match listen.network {
        Network::Tcp | Network::Tcp4 | Network::Tcp6 => listen.address.rsplit_once(':'),
        Network::Unix => None,
    };
    port.and_then(|(_, port)| port.parse().ok())
        .ok_or_else(|| OwnAddressError::NoPort(listen.address.clone()))
}

fn from_listener(
    variables: &OwnAddressVariables,
    listen: &ListenAddress,
    interfaces: impl FnOnce() -> Vec<IpAddr>,
) -> Result<String, OwnAddressError> {
    if listen.network == Network::Unix {
        return Ok(format!("unix://{}", listen.address));
    }
    let scheme = scheme(variables)?;
    let Some(wildcard) = wildcard(listen) else {
        return Ok(format!("{scheme}://{}", listen.address));
    };
    let ip = if variables.pod_ip.is_empty() {
        only_address(wildcard, interfaces()).map_err(|count| OwnAddressError::Wildcard {
            listen: listen.address.clone(),
            count,
        })?
    } else {
        let ip = variables.pod_ip.parse();
        ip.map_err(|_| OwnAddressError::PodIp(variables.pod_ip.clone()))?
    };
    let address = SocketAddr::new(ip, port(variables, listen)?);
    Ok(format!("{scheme}://{address}"))
}

/// The address that means all interfaces, if the listener has it.
fn wildcard(listen: &ListenAddress) -> Option<IpAddr> {
    let address: SocketAddr = listen.host_port().parse().ok()?;
    address.ip().is_unspecified().then(|| address.ip())
}

/// The only address under which others may reach a listener on `wildcard`,
/// IPv4 before IPv6; else how many there are.
fn only_address(wildcard: IpAddr, interfaces: Vec<IpAddr>) -> Result<IpAddr, usize> {
    let (v4, mut v6): (Vec<_>, Vec<_>) = interfaces
        .into_iter()
        .filter(is_reachable_from_elsewhere)
        .partition(IpAddr::is_ipv4);
    if wildcard.is_ipv4() {
        v6.clear();
    }
    match (&v4[..], &v6[..]) {
        ([ip], _) | ([], [ip]) => Ok(*ip),
        (v4, v6) => Err(v4.len() + v6.len()),
    }
}

fn is_reachable_from_elsewhere(ip: &IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !ip.is_loopback() && !link_local
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(pairs: &[(&str, &str)], address: &str) -> Result<String, OwnAddressError> {
        let variables = OwnAddressVariables::read(|name| {
            let (_, value) = pairs.iter().find(|(suffix, _)| {
                name == *suffix || name == format!("OWN_PRIVATE_API_{suffix}")
            })?;
            Some((*value).to_owned())
        });
        let network = if address.starts_with('/') {
            Network::Unix
        } else {
            Network::Tcp
        };
        let listen = ListenAddress {
            network,
            address: address.to_owned(),
        };
        let interfaces = || {
            [
                "127.0.0.1",
                "10.0.0.5",
                "192.168.1.2",
                "192.168.1.3",
                "fd00::1",
            ]
            .map(|ip| ip.parse().unwrap())
            .to_vec()
        };
        OwnAddress::decide(&variables, &listen, false, interfaces).map(|own| own.url)
    }

    #[test]
    fn the_url_is_the_variable_else_the_network_else_the_listener() {
        for (pairs, address, url) in [
            (&[("URL", "grpc://a:1")] as &[_], ":8155", "grpc://a:1"),
            (
                &[("CIDR", "10.0.0.0/8")],
                "0.0.0.0:8155",
                "grpc://10.0.0.5:8155",
            ),
            (
                &[("CIDR", "fd00::/8"), ("SCHEME", "grpcs"), ("PORT", "1")],
                "/s",
                "grpcs://[fd00::1]:1",
            ),
            (&[], "127.0.0.1:8155", "grpc://127.0.0.1:8155"),
            (&[], "kas.local:8155", "grpc://kas.local:8155"),
            (&[], "/run/kas.sock", "unix:///run/kas.sock"),
            (&[("POD_IP", "10.1.2.3")], ":8155", "grpc://10.1.2.3:8155"),
            (
                &[("POD_IP", "fd00::2"), ("SCHEME", "grpcs"), ("PORT", "1")],
                "[::]:8155",
                "grpcs://[fd00::2]:1",
            ),
        ] {
            assert_eq!(decide(pairs, address).as_deref(), Ok(url));
        }
    }

    #[test]
    fn what_leaves_a_doubt_is_an_error_that_names_the_variable() {
        for (pairs, address, part) in [
            (&[("URL", "a"), ("CIDR", "b")] as &[_], ":1", "both set"),
            (&[("CIDR", "192.168.1.0/24")], ":1", "matches 2"),
            (&[("CIDR", "172.16.0.0/12")], ":1", "matches 0"),
            (&[("CIDR", "ten")], ":1", "OWN_PRIVATE_API_CIDR is `ten`"),
            (&[("SCHEME", "http")], "a:1", "OWN_PRIVATE_API_SCHEME"),
            (
                &[("CIDR", "10.0.0.0/8"), ("PORT", "0")],
                ":1",
                "OWN_PRIVATE_API_PORT",
            ),
            (&[("CIDR", "10.0.0.0/8")], "/sock", "OWN_PRIVATE_API_PORT"),
            (&[], "0.0.0.0:8155", "OWN_PRIVATE_API_URL"),
            (&[], "[::]:8155", "has 4 addresses"),
            (&[], ":8155", "OWN_PRIVATE_API_URL"),
            (&[("POD_IP", "me")], ":8155", "POD_IP is `me`"),
        ] {
            let error = decide(pairs, address).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_listener_on_all_interfaces_is_reached_at_the_only_address_there_is() {
        for (interfaces, listen, ip) in [
            (&["127.0.0.1", "10.0.0.5"][..], "0.0.0.0:1", Ok("10.0.0.5")),
            (&["::1", "fe80::1", "fd00::1"], "[::]:1", Ok("fd00::1")),
            (&["10.0.0.5", "fd00::1"], "[::]:1", Ok("10.0.0.5")),
            (&["fd00::1"], "0.0.0.0:1", Err(0)),
            (&["10.0.0.5", "10.0.0.6"], ":1", Err(2)),
            (&["127.0.0.1", "169.254.1.1"], ":1", Err(0)),
        ] {
            let interfaces = interfaces.iter().map(|ip| ip.parse().unwrap()).collect();
            let listen = ListenAddress {
                network: Network::Tcp,
                address: listen.into(),
            };

            let found = only_address(wildcard(&listen).unwrap(), interfaces);

            assert_eq!(found, ip.map(|ip| ip.parse().unwrap()));
        }
    }

    #[test]
    fn tls_needs_a_name_to_check() {
        let listen = ListenAddress {
            network: Network::Tcp,
            address: "a:1".into(),
        };
        let decide = |host: &str| {
            let variables = OwnAddressVariables {
                host: host.into(),
                ..OwnAddressVariables::default()
            };
            OwnAddress::decide(&variables, &listen, true, Vec::new)
        };

        assert_eq!(decide(""), Err(OwnAddressError::NoHost));
        assert_eq!(
            decide("kas").unwrap().tls_server_name.as_deref(),
            Some("kas")
        );
    }
}

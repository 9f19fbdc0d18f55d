//! Under which URL the other replicas reach this one.

use std::net::{IpAddr, SocketAddr};

use cluster_state::published;
use ipnet::IpNet;

use super::{ListenAddress, Network};

/// The `OWN_PRIVATE_API_*` variables of the environment; empty means unset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnAddressVariables {
    /// The whole URL, used as it is; several have commas between.
    pub url: String,
    /// The networks that the own addresses are in, with commas between.
    pub cidr: String,
    /// `grpc` or `grpcs`; as the listener speaks TLS or not.
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
    /// What this replica publishes: one URL, or several with commas between.
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
    #[error(
        "OWN_PRIVATE_API_CIDR has `{0}`, it must be a network such as 10.0.0.0/8, or several with commas between"
    )]
    Cidr(String),
    /// Not a port.
    #[error("OWN_PRIVATE_API_PORT is `{0}`, it must be a number from 1 to 65535")]
    Port(String),
    /// No own address.
    #[error("OWN_PRIVATE_API_CIDR {0} matches none of this machine's addresses")]
    NoMatch(String),
    /// The listener's address does not tell.
    #[error(
        "private_api.listen.address {0} is all interfaces, and this machine has no address but loopback and \
         link-local ones: set OWN_PRIVATE_API_URL, OWN_PRIVATE_API_CIDR or POD_IP"
    )]
    Wildcard(String),
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
            url: url(variables, listen, tls, interfaces)?,
            tls_server_name: Some(variables.host.clone()).filter(|host| !host.is_empty()),
        })
    }
}

fn url(
    variables: &OwnAddressVariables,
    listen: &ListenAddress,
    tls: bool,
    interfaces: impl FnOnce() -> Vec<IpAddr>,
) -> Result<String, OwnAddressError> {
    match (variables.url.is_empty(), variables.cidr.is_empty()) {
        (false, false) => Err(OwnAddressError::Ambiguous),
        (false, true) => Ok(variables.url.clone()),
        (true, false) => {
            let ips = own_ips(&variables.cidr, interfaces())?;
            all_urls(&ips, variables, listen, tls)
        }
        (true, true) => from_listener(variables, listen, tls, interfaces),
    }
}

fn scheme(variables: &OwnAddressVariables, tls: bool) -> Result<&str, OwnAddressError> {
    match variables.scheme.as_str() {
        "" if tls => Ok("grpcs"),
        "" | "grpc" => Ok("grpc"),
        "grpcs" => Ok("grpcs"),
        other => Err(OwnAddressError::Scheme(other.to_owned())),
    }
}

fn own_ips(cidrs: &str, interfaces: Vec<IpAddr>) -> Result<Vec<IpAddr>, OwnAddressError> {
    let networks = cidrs.split(',').map(str::trim).map(|cidr| {
        let network = cidr.parse::<IpNet>();
        network.map_err(|_| OwnAddressError::Cidr(cidr.to_owned()))
    });
    let networks = networks.collect::<Result<Vec<_>, _>>()?;
    let mut inside = interfaces;
    inside.retain(|ip| networks.iter().any(|network| network.contains(ip)));
    if inside.is_empty() {
        return Err(OwnAddressError::NoMatch(cidrs.to_owned()));
    }
    Ok(inside)
}

fn all_urls(
    ips: &[IpAddr],
    variables: &OwnAddressVariables,
    listen: &ListenAddress,
    tls: bool,
) -> Result<String, OwnAddressError> {
    let (scheme, port) = (scheme(variables, tls)?, port(variables, listen)?);
    let urls = ips.iter().map(|ip| {
        let address = SocketAddr::new(*ip, port);
        format!("{scheme}://{address}")
    });
    Ok(published(&urls.collect::<Vec<_>>()))
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
    tls: bool,
    interfaces: impl FnOnce() -> Vec<IpAddr>,
) -> Result<String, OwnAddressError> {
    if listen.network == Network::Unix {
        return Ok(format!("unix://{}", listen.address));
    }
    if !is_wildcard(listen) {
        return Ok(format!("{}://{}", scheme(variables, tls)?, listen.address));
    }
    let ips = if variables.pod_ip.is_empty() {
        reachable(listen.network, interfaces())
    } else {
        let ip = variables.pod_ip.parse();
        vec![ip.map_err(|_| OwnAddressError::PodIp(variables.pod_ip.clone()))?]
    };
    if ips.is_empty() {
        return Err(OwnAddressError::Wildcard(listen.address.clone()));
    }
    all_urls(&ips, variables, listen, tls)
}

/// Whether the listener's address means all interfaces.
fn is_wildcard(listen: &ListenAddress) -> bool {
    listen
        .socket_addr()
        .is_some_and(|address| address.ip().is_unspecified())
}

/// The addresses under which others may reach a listener on all interfaces, IPv4 before IPv6.
fn reachable(network: Network, mut interfaces: Vec<IpAddr>) -> Vec<IpAddr> {
    interfaces.retain(|ip| {
        let spoken = match network {
            Network::Tcp => true,
            Network::Tcp4 => ip.is_ipv4(),
            Network::Tcp6 => ip.is_ipv6(),
            Network::Unix => false,
        };
        spoken && is_reachable_from_elsewhere(ip)
    });
    interfaces.sort_by_key(IpAddr::is_ipv6);
    interfaces
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
            (
                &[("CIDR", "192.168.1.0/24, fd00::/8")],
                ":8155",
                "grpc://192.168.1.2:8155,grpc://192.168.1.3:8155,grpc://[fd00::1]:8155",
            ),
            (
                &[],
                ":8155",
                "grpc://10.0.0.5:8155,grpc://192.168.1.2:8155,grpc://192.168.1.3:8155,grpc://[fd00::1]:8155",
            ),
            (
                &[("URL", "grpc://a:1,grpc://b:2")],
                ":8155",
                "grpc://a:1,grpc://b:2",
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
            (&[("CIDR", "172.16.0.0/12")], ":1", "matches none"),
            (&[("CIDR", "ten")], ":1", "OWN_PRIVATE_API_CIDR has `ten`"),
            (
                &[("CIDR", "10.0.0.0/8,")],
                ":1",
                "OWN_PRIVATE_API_CIDR has ``",
            ),
            (&[("SCHEME", "http")], "a:1", "OWN_PRIVATE_API_SCHEME"),
            (
                &[("CIDR", "10.0.0.0/8"), ("PORT", "0")],
                ":1",
                "OWN_PRIVATE_API_PORT",
            ),
            (&[("CIDR", "10.0.0.0/8")], "/sock", "OWN_PRIVATE_API_PORT"),
            (&[("POD_IP", "me")], ":8155", "POD_IP is `me`"),
        ] {
            let error = decide(pairs, address).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_listener_on_all_interfaces_is_reached_at_all_that_are_of_its_network() {
        use Network::{Tcp, Tcp4, Tcp6};
        let all = [
            "127.0.0.1",
            "::1",
            "169.254.1.1",
            "fe80::1",
            "fd00::1",
            "10.0.0.5",
            "172.17.0.1",
        ];
        for (network, listen, expected) in [
            (
                Tcp,
                "0.0.0.0:1",
                "grpc://10.0.0.5:1,grpc://172.17.0.1:1,grpc://[fd00::1]:1",
            ),
            (
                Tcp,
                "[::]:1",
                "grpc://10.0.0.5:1,grpc://172.17.0.1:1,grpc://[fd00::1]:1",
            ),
            (Tcp4, ":1", "grpc://10.0.0.5:1,grpc://172.17.0.1:1"),
            (Tcp6, ":1", "grpc://[fd00::1]:1"),
            (Tcp6, "[::]:1", "grpc://[fd00::1]:1"),
        ] {
            let listen = ListenAddress {
                network,
                address: listen.into(),
            };
            let interfaces = || all.map(|ip| ip.parse().unwrap()).to_vec();

            let own =
                OwnAddress::decide(&OwnAddressVariables::default(), &listen, false, interfaces);

            assert_eq!(
                own.map(|own| own.url).as_deref(),
                Ok(expected),
                "{listen:?}"
            );
        }
    }

    #[test]
    fn a_machine_without_addresses_is_told_what_to_set() {
        let listen = ListenAddress {
            network: Network::Tcp,
            address: ":8155".into(),
        };
        let only_local = || vec!["127.0.0.1".parse().unwrap(), "fe80::1".parse().unwrap()];

        let error = OwnAddress::decide(&OwnAddressVariables::default(), &listen, false, only_local);

        let error = error.unwrap_err().to_string();
        assert!(error.contains("OWN_PRIVATE_API_URL"), "{error}");
    }

    #[test]
    fn the_scheme_is_that_of_the_listener_unless_it_is_given() {
        let listen = ListenAddress {
            network: Network::Tcp,
            address: "10.0.0.5:1".into(),
        };
        for (scheme, tls, expected) in [
            ("", false, "grpc://10.0.0.5:1"),
            ("", true, "grpcs://10.0.0.5:1"),
            ("grpc", true, "grpc://10.0.0.5:1"),
            ("grpcs", false, "grpcs://10.0.0.5:1"),
        ] {
            let variables = OwnAddressVariables {
                scheme: scheme.into(),
                host: "kas".into(),
                ..OwnAddressVariables::default()
            };

            let own = OwnAddress::decide(&variables, &listen, tls, Vec::new);

            assert_eq!(own.unwrap().url, expected);
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

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
        "private_api.listen.address {0} is all interfaces: set OWN_PRIVATE_API_URL or OWN_PRIVATE_API_CIDR"
    )]
    Wildcard(String),
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
        (true, true) => from_listener(scheme(variables)?, listen),
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

fn from_listener(scheme: &str, listen: &ListenAddress) -> Result<String, OwnAddressError> {
    if listen.network == Network::Unix {
        return Ok(format!("unix://{}", listen.address));
    }
    let address: Option<SocketAddr> = listen.address.parse().ok();
    if address.is_some_and(|address| address.ip().is_unspecified()) {
        return Err(OwnAddressError::Wildcard(listen.address.clone()));
    }
    Ok(format!("{scheme}://{}", listen.address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(pairs: &[(&str, &str)], address: &str) -> Result<String, OwnAddressError> {
        let variables = OwnAddressVariables::read(|name| {
            let (_, value) = pairs
                .iter()
                .find(|(suffix, _)| name == format!("OWN_PRIVATE_API_{suffix}"))?;
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
            (&[], "[::]:8155", "OWN_PRIVATE_API_URL"),
        ] {
            let error = decide(pairs, address).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
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

//! Where a Gitaly server is, as GitLab writes it.

use std::path::PathBuf;

use runtime::connect::{Target, TargetError};

/// The port of an address that names none, as gRPC has it.
const DEFAULT_PORT: u16 = 443;

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// By TCP, with TLS or without.
    Tcp(Target),
    /// By a Unix socket.
    Unix(PathBuf),
}

/// Why an address is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum AddressError {
    #[error("there must be no path in it")]
    Path,
    #[error("it has no path")]
    NoPath,
    #[error("it has no port")]
    NoPort,
    #[error("it must begin with tcp://, tls://, unix: or dns:")]
    Scheme,
    #[error(transparent)]
    Target(#[from] TargetError),
}

impl Address {
    /// Reads `tcp://host:port`, `tls://host:port`, `unix:path` or `dns:host:port`.
    pub(super) fn parse(text: &str) -> Result<Self, AddressError> {
        let target = |scheme: &str, rest: &str| {
            if rest.contains('/') {
                return Err(AddressError::Path);
            }
            let target = Target::parse(&format!("{scheme}://{rest}"));
            Ok(Self::Tcp(target?))
        };
        if let Some(rest) = text.strip_prefix("tcp://") {
            return target("grpc", with_port(rest)?);
        }
        if let Some(rest) = text.strip_prefix("tls://") {
            return target("grpcs", with_port(rest)?);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path {
                "" => Err(AddressError::NoPath),
                path => Ok(Self::Unix(path.into())),
            };
        }
        if let Some(rest) = text.strip_prefix("dns:") {
            let host = by_dns(rest);
            return match with_port(host) {
                Ok(host) => target("grpc", host),
                Err(_) => target("grpc", &format!("{host}:{DEFAULT_PORT}")),
            };
        }
        Err(AddressError::Scheme)
    }
}

/// What is to be looked up: the name server to ask, if any, is left to the system.
fn by_dns(rest: &str) -> &str {
    match rest.strip_prefix("//") {
        Some(rest) => rest.split_once('/').map_or(rest, |(_, host)| host),
        None => rest,
    }
}

fn with_port(rest: &str) -> Result<&str, AddressError> {
    match rest.rsplit_once(':') {
        Some((_, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => Ok(rest),
        _ => Err(AddressError::NoPort),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(url: &str) -> Address {
        Address::Tcp(Target::parse(url).unwrap())
    }

    #[test]
    fn all_of_gitlabs_forms_are_read() {
        for (text, url) in [
            ("tcp://gitaly:8075", "grpc://gitaly:8075"),
            ("tls://gitaly.example:9999", "grpcs://gitaly.example:9999"),
            ("tcp://[::1]:8075", "grpc://[::1]:8075"),
            ("dns:gitaly:8075", "grpc://gitaly:8075"),
            ("dns:gitaly", "grpc://gitaly:443"),
            ("dns://10.0.0.2:53/gitaly:8075", "grpc://gitaly:8075"),
            ("dns:///gitaly:8075", "grpc://gitaly:8075"),
        ] {
            assert_eq!(Address::parse(text).unwrap(), tcp(url), "{text}");
        }
        for text in ["unix:/run/gitaly.sock", "unix:///run/gitaly.sock"] {
            assert_eq!(
                Address::parse(text).unwrap(),
                Address::Unix("/run/gitaly.sock".into())
            );
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "gitaly:8075",
            "http://gitaly",
            "tcp://gitaly",
            "tcp://gitaly:1/x",
            "unix:",
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }
}

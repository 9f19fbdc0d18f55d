//! Where to dial: `grpc|grpcs|ws|wss://host[:port]/path?query`.

use std::{fmt, str::FromStr};

use http::Uri;

use crate::io::Scheme;

/// An address that an agent can dial.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    scheme: Scheme,
    /// Without brackets.
    host: String,
    port: u16,
    path_and_query: String,
}

/// An address that cannot be dialled.
#[derive(Debug, thiserror::Error)]
#[error("the address {address:?} cannot be dialled: {why}")]
pub struct TargetError {
    address: String,
    why: Invalid,
}

/// What is wrong with an address.
#[derive(Debug, thiserror::Error)]
enum Invalid {
    #[error(transparent)]
    Uri(#[from] http::uri::InvalidUri),
    #[error("{0}")]
    Scheme(&'static str),
    #[error("it has no host")]
    NoHost,
    #[error("user names in it are not supported")]
    UserName,
    #[error("bad port {0:?}")]
    Port(String),
}

impl Target {
    /// Reads an address. The default port is 80, or 443 with TLS.
    ///
    /// # Errors
    /// [`TargetError`], saying what is wrong with it.
    pub fn parse(address: &str) -> Result<Self, TargetError> {
        Self::of(address, |scheme| match scheme {
            Some("grpc") => Ok(Scheme::Grpc),
            Some("grpcs") => Ok(Scheme::Grpcs),
            Some("ws") => Ok(Scheme::Ws),
            Some("wss") => Ok(Scheme::Wss),
            Some(_) | None => Err("it must begin with grpc://, grpcs://, ws:// or wss://"),
        })
    }

    /// Reads the address of a plain HTTP server. The default port is 80, or 443 with TLS.
    ///
    /// # Errors
    /// [`TargetError`], saying what is wrong with it.
    pub fn parse_http(address: &str) -> Result<Self, TargetError> {
        Self::of(address, |scheme| match scheme {
            Some("http") => Ok(Scheme::Http),
            Some("https") => Ok(Scheme::Https),
            Some(_) | None => Err("it must begin with http:// or https://"),
        })
    }

    fn of(
        address: &str,
        scheme: fn(Option<&str>) -> Result<Scheme, &'static str>,
    ) -> Result<Self, TargetError> {
        Self::read(address, scheme).map_err(|why| TargetError {
            address: address.to_owned(),
            why,
        })
    }

    fn read(
        address: &str,
        scheme: fn(Option<&str>) -> Result<Scheme, &'static str>,
    ) -> Result<Self, Invalid> {
        let uri: Uri = address.parse()?;
        let scheme = scheme(uri.scheme_str()).map_err(Invalid::Scheme)?;
        let authority = uri.authority().ok_or(Invalid::NoHost)?;
        if authority.as_str().contains('@') {
            return Err(Invalid::UserName);
        }
        let host = authority.host().trim_matches(['[', ']']);
        if host.is_empty() {
            return Err(Invalid::NoHost);
        }
        let port = match authority.as_str().rsplit_once(':') {
            Some((_, port)) if !port.ends_with(']') => {
                port.parse().map_err(|_| Invalid::Port(port.to_owned()))?
            }
            _ if scheme.is_tls() => 443,
            _ => 80,
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self {
            scheme,
            host: host.to_owned(),
            port,
            path_and_query: format!("{slash}{path}"),
        })
    }

    /// How it is dialled.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The same place, dialled otherwise.
    #[must_use]
    pub fn by(&self, scheme: Scheme) -> Self {
        Self {
            scheme,
            ..self.clone()
        }
    }

    /// Host name or IP address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query, beginning with a slash.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        &self.path_and_query
    }

    /// Host, with the port where it is not the scheme's own: a `Host` header.
    #[must_use]
    pub fn authority(&self) -> String {
        let default = if self.scheme.is_tls() { 443 } else { 80 };
        if self.port == default {
            bracketed(&self.host)
        } else {
            self.host_and_port()
        }
    }

    /// Scheme and authority of requests that are made there.
    #[must_use]
    pub fn origin(&self) -> Uri {
        let scheme = if self.scheme.is_tls() {
            "https"
        } else {
            "http"
        };
        Uri::builder()
            .scheme(scheme)
            .authority(self.host_and_port())
            .path_and_query("/")
            .build()
            .expect("the target was read from a URL")
    }

    /// `host:port`, with brackets around IPv6 addresses.
    #[must_use]
    pub fn host_and_port(&self) -> String {
        format!("{}:{}", bracketed(&self.host), self.port)
    }
}

impl fmt::Display for Target {
    /// Without the query, which may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path_and_query.split('?').next().unwrap_or_default();
        write!(f, "{}://{}{path}", self.scheme, self.host_and_port())
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(address: &str) -> Result<Self, TargetError> {
        Self::parse(address)
    }
}

pub(super) fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (address, shown, authority, path) in [
            ("grpc://kas", "grpc://kas:80/", "kas", "/"),
            ("grpcs://kas:8150", "grpcs://kas:8150/", "kas:8150", "/"),
            (
                "wss://kas.example.com/-/kubernetes-agent/?a=b",
                "wss://kas.example.com:443/-/kubernetes-agent/",
                "kas.example.com",
                "/-/kubernetes-agent/?a=b",
            ),
            ("ws://[::1]:81?q", "ws://[::1]:81/", "[::1]:81", "/?q"),
            ("ws://[::1]", "ws://[::1]:80/", "[::1]", "/"),
        ] {
            let target = Target::parse(address).unwrap();

            assert_eq!(target.to_string(), shown);
            assert_eq!(target.authority(), authority);
            let origin = target.origin().to_string();
            assert!(origin.ends_with(&format!("//{}/", target.host_and_port())));
            assert_eq!(target.path_and_query(), path);
        }
    }

    #[test]
    fn other_addresses_are_refused_with_a_reason() {
        for (address, why) in [
            ("https://kas", "must begin with"),
            ("kas:8150", "must begin with"),
            ("/path", "must begin with"),
            ("grpc://user@kas", "user names"),
            ("grpc://kas:99999", "99999"),
            ("", "empty"),
        ] {
            let error = Target::parse(address).unwrap_err().to_string();

            assert!(error.contains(why), "{error}");
        }
    }
}

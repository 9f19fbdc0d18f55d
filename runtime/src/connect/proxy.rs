//! Which HTTP proxy a connection goes through.

use std::{fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::Uri;
use percent_encoding::percent_decode_str;

use super::{
    no_proxy::NoProxy,
    target::{Target, bracketed},
};
use crate::io::Scheme;

/// Whether a connection goes through an HTTP proxy.
#[derive(Debug, Clone, Default)]
pub enum ProxySetting {
    /// Never.
    #[default]
    None,
    /// As the environment says for the target.
    Environment(Arc<EnvironmentProxy>),
    /// Always this one.
    Url(ProxyUrl),
}

impl ProxySetting {
    /// What the environment variables of this process say.
    ///
    /// # Errors
    /// When one of them is not a proxy's URL.
    pub fn from_environment() -> Result<Self, ProxyUrlError> {
        EnvironmentProxy::read(|name| std::env::var(name).ok())
            .map(|environment| Self::Environment(Arc::new(environment)))
    }

    /// The proxy on the way to a target, if there is one.
    #[must_use]
    pub fn proxy_for(&self, target: &Target) -> Option<&ProxyUrl> {
        match self {
            Self::None => None,
            Self::Environment(environment) => environment.proxy_for(target),
            Self::Url(url) => Some(url),
        }
    }
}

/// `http[s]://[user:password@]host[:port]`; a missing scheme is `http`.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl {
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
    /// The value of `Proxy-Authorization`.
    pub(super) authorization: Option<String>,
}

/// Not the URL of an HTTP proxy.
#[derive(Debug, thiserror::Error)]
#[error("not an HTTP proxy's URL ({0}); write http://[user:password@]host:port")]
pub struct ProxyUrlError(String);

impl ProxyUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// When it is not one of an HTTP proxy. The error does not show the URL,
    /// which may hold a password.
    pub fn parse(url: &str) -> Result<Self, ProxyUrlError> {
        let wrong = |why: &str| ProxyUrlError(why.to_owned());
        let with_scheme = if url.contains("://") {
            url.to_owned()
        } else {
            format!("http://{url}")
        };
        let uri: Uri = with_scheme
            .parse()
            .map_err(|error| ProxyUrlError(format!("{error}")))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) | None => return Err(wrong("its scheme is neither http nor https")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("no host"))?;
        let host = authority.host().trim_matches(['[', ']']);
        if host.is_empty() {
            return Err(wrong("no host"));
        }
        let default_port = if tls { 443 } else { 80 };
        let credentials = authority.as_str().rsplit_once('@').map(|(user, _)| user);
        Ok(Self {
            tls,
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(default_port),
            authorization: credentials.map(basic),
        })
    }
}

fn basic(credentials: &str) -> String {
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    let mut plain: Vec<u8> = percent_decode_str(user).collect();
    plain.push(b':');
    plain.extend(percent_decode_str(password));
    format!("Basic {}", STANDARD.encode(plain))
}

impl ProxyUrl {
    /// The value of `Proxy-Authorization` for it: secret.
    #[must_use]
    pub fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }
}

impl fmt::Display for ProxyUrl {
    /// Without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", bracketed(&self.host), self.port)
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyUrl({self})")
    }
}

/// `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in capitals or
/// not, as Go reads them. `HTTP_PROXY` is for `ws` and `http`; `HTTPS_PROXY` is for all
/// others, also for `grpc`, as grpc-go does it. `ALL_PROXY` fills gaps.
#[derive(Debug, Clone, Default)]
pub struct EnvironmentProxy {
    http: Option<ProxyUrl>,
    https: Option<ProxyUrl>,
    except: NoProxy,
}

impl EnvironmentProxy {
    /// Reads the variables by a function.
    ///
    /// # Errors
    /// When one of them is not a proxy's URL; the error names it.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ProxyUrlError> {
        let set = |name: &str| {
            let lower = name.to_lowercase();
            let value = variable(name).filter(|value| !value.is_empty());
            value.or_else(|| variable(&lower).filter(|value| !value.is_empty()))
        };
        let proxy = |name: &str| {
            set(name)
                .or_else(|| set("ALL_PROXY"))
                .map(|url| ProxyUrl::parse(&url))
                .transpose()
                .map_err(|error| ProxyUrlError(format!("{name}: {}", error.0)))
        };
        Ok(Self {
            http: proxy("HTTP_PROXY")?,
            https: proxy("HTTPS_PROXY")?,
            except: NoProxy::parse(&set("NO_PROXY").unwrap_or_default()),
        })
    }

    fn proxy_for(&self, target: &Target) -> Option<&ProxyUrl> {
        if self.except.matches(target.host(), target.port()) {
            return None;
        }
        match target.scheme() {
            Scheme::Ws | Scheme::Http => self.http.as_ref(),
            Scheme::Grpc | Scheme::Grpcs | Scheme::Wss | Scheme::Https => self.https.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(variables: &[(&str, &str)], target: &str) -> Option<String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let environment = EnvironmentProxy::read(variable).unwrap();
        let target = Target::parse(target).unwrap();
        environment.proxy_for(&target).map(ToString::to_string)
    }

    #[test]
    fn each_scheme_has_its_variable() {
        let both = [("HTTP_PROXY", "http://a:1"), ("https_proxy", "b:2")];

        assert_eq!(chosen(&both, "ws://kas").unwrap(), "http://a:1");
        assert_eq!(chosen(&both, "wss://kas").unwrap(), "http://b:2");
        assert_eq!(chosen(&both, "grpc://kas").unwrap(), "http://b:2");
        assert_eq!(chosen(&both[..1], "grpcs://kas"), None);
        assert_eq!(
            chosen(&[("all_proxy", "https://c")], "ws://kas").unwrap(),
            "https://c:443"
        );
    }

    #[test]
    fn exceptions_go_direct() {
        let variables = [("HTTPS_PROXY", "http://a:1"), ("NO_PROXY", "example.com")];

        assert_eq!(chosen(&variables, "wss://kas.example.com"), None);
        assert!(chosen(&variables, "wss://kas.example.org").is_some());
    }

    #[test]
    fn credentials_are_sent_but_not_shown() {
        let url = ProxyUrl::parse("http://us%40er:pa%3Ass@[::1]:3128").unwrap();

        assert_eq!(url.to_string(), "http://[::1]:3128");
        assert!(!format!("{url:?}").contains("pa"));
        let expected = format!("Basic {}", STANDARD.encode("us@er:pa:ss"));
        assert_eq!(url.authorization, Some(expected));
    }

    #[test]
    fn other_urls_are_refused_without_showing_them() {
        for url in ["socks5://u:secret@a:1", "http://", "http://u:secret@a b"] {
            let error = ProxyUrl::parse(url).unwrap_err().to_string();

            assert!(!error.contains("secret"), "{error}");
        }
    }
}

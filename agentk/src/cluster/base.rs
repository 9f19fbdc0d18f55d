//! The base URL of the Kubernetes API. Pure.

use http::{
    Uri,
    uri::{Authority, Scheme},
};

use super::{ClusterError, ServerUrlError};

/// Scheme, host, and a path before all paths, as some gateways have.
#[derive(Debug, Clone)]
pub(super) struct Base {
    scheme: Scheme,
    authority: Authority,
    prefix: String,
}

impl Base {
    pub(super) fn new(url: &Uri) -> Result<Self, ClusterError> {
        let wrong = |why| ClusterError::Server(url.to_string(), why);
        let scheme = url
            .scheme()
            .ok_or_else(|| wrong(ServerUrlError::NoScheme))?;
        if *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS {
            return Err(wrong(ServerUrlError::OtherScheme));
        }
        let authority = url
            .authority()
            .ok_or_else(|| wrong(ServerUrlError::NoHost))?;
        Ok(Self {
            scheme: scheme.clone(),
            authority: authority.clone(),
            prefix: url.path().trim_end_matches('/').to_owned(),
        })
    }

    pub(super) fn authority(&self) -> &str {
        self.authority.as_str()
    }

    /// The path and what follows it, of a URL that leads into this API; nothing of any other.
    pub(super) fn path_of<'u>(&self, url: &'u str) -> Option<&'u str> {
        let behind = url
            .strip_prefix(self.scheme.as_str())?
            .strip_prefix("://")?;
        let path = behind.strip_prefix(self.authority.as_str())?;
        let path = path.strip_prefix(self.prefix.as_str())?;
        (path.starts_with('/') && !path[1..].starts_with(['/', '\\'])).then_some(path)
    }

    /// The URL of an encoded path and query.
    pub(super) fn uri(&self, path_and_query: &str) -> Result<Uri, http::Error> {
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query([&self.prefix, path_and_query].concat())
            .build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(base: &str, path: &str) -> String {
        let base = Base::new(&base.parse().unwrap()).unwrap();
        base.uri(path).unwrap().to_string()
    }

    #[test]
    fn a_path_before_all_paths_is_kept() {
        assert_eq!(uri("https://a:6443", "/api?x=1"), "https://a:6443/api?x=1");
        assert_eq!(uri("https://a/", "/api"), "https://a/api");
        assert_eq!(
            uri("https://a/k8s/clusters/c1/", "/api"),
            "https://a/k8s/clusters/c1/api"
        );
    }

    #[test]
    fn a_url_that_leads_into_the_api_has_a_path_there() {
        let base = Base::new(&"https://a:6443/c1/".parse().unwrap()).unwrap();
        for (url, expected) in [
            ("https://a:6443/c1/api/v1?x=1", Some("/api/v1?x=1")),
            ("https://a:6443/c1/", Some("/")),
            ("https://a:6443/c1", None),
            ("https://a:6443/c10/api", None),
            ("https://a:6443/other", None),
            ("https://a:64430/c1/api", None),
            ("https://a:6443@evil/c1/api", None),
            ("https://a:6443/c1//evil", None),
            ("https://a:6443/c1/\\evil", None),
            ("http://a:6443/c1/api", None),
            ("/c1/api", None),
        ] {
            assert_eq!(base.path_of(url), expected, "{url}");
        }
    }

    #[test]
    fn other_urls_are_refused() {
        for wrong in ["ftp://a", "/path", "host:6443"] {
            assert!(Base::new(&wrong.parse().unwrap()).is_err(), "{wrong}");
        }
    }
}

//! Where GitLab is: an address, possibly with a path in front of everything.

use http::Uri;
use runtime::connect::{Target, TargetError};

/// An address of GitLab.
#[derive(Debug, Clone)]
pub(super) struct Base {
    target: Target,
    /// Without a slash at the end.
    prefix: String,
}

impl Base {
    pub(super) fn parse(address: &str) -> Result<Self, TargetError> {
        let target = Target::parse_http(address)?;
        let path = target.path_and_query();
        let path = path.split('?').next().unwrap_or_default();
        let prefix = path.trim_end_matches('/').to_owned();
        Ok(Self { target, prefix })
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// The URL of a path that begins with a slash.
    pub(super) fn url(&self, path: &str) -> Result<Uri, http::uri::InvalidUri> {
        let scheme = self.target.scheme();
        let authority = self.target.authority();
        format!("{scheme}://{authority}{}{path}", self.prefix).parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_the_address_comes_in_front_with_one_slash_between() {
        for (address, url) in [
            ("http://gitlab:8080", "http://gitlab:8080/api"),
            ("https://g.example/", "https://g.example/api"),
            ("https://g.example/gitlab/", "https://g.example/gitlab/api"),
            ("https://g.example/a/b?c=d", "https://g.example/a/b/api"),
        ] {
            assert_eq!(Base::parse(address).unwrap().url("/api").unwrap(), url);
        }
        assert!(Base::parse("gitlab.example").is_err());
        assert!(Base::parse("grpc://gitlab").is_err());
    }
}

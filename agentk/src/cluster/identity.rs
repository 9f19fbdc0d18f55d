//! Impersonation headers of the Kubernetes API.

use http::{HeaderMap, HeaderName, HeaderValue};
use kube::config::AuthInfo;

use super::ClusterError;

/// What the names of headers for extras begin with.
pub(crate) const EXTRA_PREFIX: &str = "impersonate-extra-";

/// Whom a user of the kubeconfig is to impersonate, as headers; a lone uid is
/// nobody.
pub(super) fn identity(user: &AuthInfo) -> Result<HeaderMap, ClusterError> {
    let mut headers = HeaderMap::new();
    let mut add = |name: HeaderName, value: &str, what| {
        let value = HeaderValue::from_str(value).map_err(|_| ClusterError::Identity(what))?;
        let added = headers.try_append(name, value);
        added.map(drop).map_err(|_| ClusterError::LongIdentity)
    };
    let header = HeaderName::from_static;
    for name in user.impersonate.iter().filter(|name| !name.is_empty()) {
        add(header("impersonate-user"), name, "user")?;
    }
    for group in user.impersonate_groups.iter().flatten() {
        add(header("impersonate-group"), group, "group")?;
    }
    for (key, values) in user.impersonate_user_extra.iter().flatten() {
        let name = extra_header(key).ok_or(ClusterError::Identity("extra"))?;
        for value in values {
            add(name.clone(), value, "extra")?;
        }
    }
    if let Some(uid) = &user.impersonate_uid
        && !headers.is_empty()
    {
        let value = HeaderValue::from_str(uid).map_err(|_| ClusterError::Identity("uid"))?;
        let added = headers.try_append(header("impersonate-uid"), value);
        added.map_err(|_| ClusterError::LongIdentity)?;
    }
    Ok(headers)
}

/// The header of an extra; what a header's name cannot hold is escaped.
pub(crate) fn extra_header(key: &str) -> Option<HeaderName> {
    use std::fmt::Write;
    let mut name = EXTRA_PREFIX.to_owned();
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte) {
            name.push(char::from(byte));
        } else {
            write!(name, "%{byte:02X}").expect("writing to a string cannot fail");
        }
    }
    HeaderName::from_bytes(name.as_bytes()).ok()
}

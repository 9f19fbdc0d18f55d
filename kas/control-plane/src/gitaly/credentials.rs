//! What every call to Gitaly carries.

use std::collections::HashMap;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use proto::agent::entity::GitalyInfo;
use runtime::jwt;

/// The metadata of a call made at a time in seconds since 1970.
pub(super) fn metadata(server: &GitalyInfo, user_agent: HeaderValue, now: u64) -> HeaderMap {
    let mut metadata = features(&server.features);
    metadata.insert(header::USER_AGENT, user_agent);
    if let Some(value) = authorization(&server.token, now) {
        metadata.insert(header::AUTHORIZATION, value);
    }
    metadata
}

/// Proof of knowing the token, good for the moment: its second version.
fn authorization(token: &str, now: u64) -> Option<HeaderValue> {
    if token.is_empty() {
        return None;
    }
    let now = now.to_string();
    let signed = jwt::hmac_hex(token.as_bytes(), &now).ok()?;
    let mut value = HeaderValue::from_str(&format!("Bearer v2.{signed}.{now}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Features that GitLab switched, as it names them.
fn features(features: &HashMap<String, String>) -> HeaderMap {
    let pairs = features.iter().filter_map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_str(value).ok()?))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_proved_and_features_are_passed_on() {
        let server = GitalyInfo {
            address: String::new(),
            token: "Jefe".into(),
            features: [("gitaly-feature-x".to_owned(), "true".to_owned())].into(),
        };

        let metadata = metadata(&server, HeaderValue::from_static("kas"), 1_700_000_000);

        assert_eq!(metadata["gitaly-feature-x"], "true");
        let signed = jwt::hmac_hex(b"Jefe", "1700000000").unwrap();
        let value = format!("Bearer v2.{signed}.1700000000");
        assert_eq!(metadata["authorization"], value);
        assert!(!format!("{metadata:?}").contains("v2."), "it is secret");
    }

    #[test]
    fn without_a_token_there_is_no_header() {
        let metadata = metadata(&GitalyInfo::default(), HeaderValue::from_static("kas"), 1);

        assert!(!metadata.contains_key("authorization"));
    }
}

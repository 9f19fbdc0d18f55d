//! What browsers may do at the Kubernetes API, and what clusters may say to them.

use http::{HeaderName, header};
use runtime::yaml::{NonEmpty, Setting};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::origin_of;

/// Headers that speak of kas's own host or of one connection: no cluster decides on them.
const NEVER: [HeaderName; 9] = [
    header::SET_COOKIE,
    header::STRICT_TRANSPORT_SECURITY,
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("service-worker-allowed"),
    HeaderName::from_static("gitlab-unauthorized"),
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TRAILER,
];

/// An origin as browsers write it: a URL without a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Origin(pub String);

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let NonEmpty(text) = NonEmpty::deserialize(deserializer)?;
        let text = text.strip_suffix('/').unwrap_or(&text);
        let origin = origin_of(text).filter(|origin| origin.eq_ignore_ascii_case(text));
        origin.map(Self).ok_or_else(|| {
            D::Error::custom(format_args!(
                "agent.kubernetes_api.allowed_origins: {text:?} is not the origin of a page, such \
                 as https://gitlab.example.com: scheme, host, and the port if it is not the usual one"
            ))
        })
    }
}

impl Setting for Origin {}

/// The name of a header that clusters may set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHeader(pub HeaderName);

impl Setting for ResponseHeader {}

impl<'de> Deserialize<'de> for ResponseHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const KEY: &str = "agent.kubernetes_api.extra_allowed_response_headers";
        let NonEmpty(text) = NonEmpty::deserialize(deserializer)?;
        let name: HeaderName = text.parse().map_err(|_| {
            D::Error::custom(format_args!("{KEY}: {text:?} is not the name of a header"))
        })?;
        Ok(Self(name))
    }
}

impl ResponseHeader {
    /// Whether a cluster may set it on the host of this server.
    #[must_use]
    pub fn passes(&self) -> bool {
        let never = ["access-control-", "x-remote-"];
        let name = self.0.as_str();
        !NEVER.contains(&self.0) && !never.iter().any(|prefix| name.starts_with(prefix))
    }
}

impl Serialize for ResponseHeader {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

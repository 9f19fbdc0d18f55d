//! What a tunnel says of its cluster.

use std::sync::Arc;

use cluster_state::ClusterUid;
use http::{HeaderMap, HeaderName, header::USER_AGENT};

/// The metadata by which our agentk tells the UID of its cluster, or that it does not know it.
static CLUSTER: HeaderName = HeaderName::from_static("kas-cluster");
/// The first major version of GitLab's agentk that is asked: older ones are not known here well enough.
const ASKED_MIN_MAJOR: u64 = 15;
/// The method by which it is asked.
pub(in crate::gateway) const METHOD: &str =
    "/gitlab.agent.kubernetes_api.rpc.KubernetesApi/MakeRequest";

/// What a tunnel says of its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::gateway) enum Told {
    /// Its UID.
    Uid(ClusterUid),
    /// That it is not known.
    Unknown,
    /// Nothing: it can be asked.
    Nothing,
}

/// What the head of a tunnel says.
pub(in crate::gateway) fn told(headers: &HeaderMap) -> Told {
    if let Some(value) = headers.get(&CLUSTER) {
        let uid = value.to_str().ok().filter(|text| *text != "unknown");
        let uid = uid.and_then(|text| ClusterUid::parse(text).ok());
        return uid.map_or(Told::Unknown, Told::Uid);
    }
    if is_asked(headers) {
        Told::Nothing
    } else {
        Told::Unknown
    }
}

impl Told {
    /// The same of a tunnel through which these methods can be called: only one that serves requests is asked.
    pub(in crate::gateway) fn by(self, methods: &[Arc<str>]) -> Self {
        match self {
            Self::Nothing if !methods.iter().any(|it| **it == *METHOD) => Self::Unknown,
            other => other,
        }
    }
}

/// Whether this is an agentk that answers.
fn is_asked(headers: &HeaderMap) -> bool {
    let user_agent = headers.get(USER_AGENT).and_then(|it| it.to_str().ok());
    let version = user_agent.and_then(|it| it.strip_prefix("gitlab-agent/"));
    let major = version.map(|it| it.trim_start_matches('v')).map(|it| {
        let end = it.bytes().position(|byte| byte == b'.');
        &it[..end.unwrap_or(it.len())]
    });
    let major: Option<u64> = major.and_then(|it| it.parse().ok());
    // A build without a version is v0.0.0.
    major.is_some_and(|it| it == 0 || it >= ASKED_MIN_MAJOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_tells_its_cluster_or_can_be_asked() {
        let methods = [METHOD.into()];
        let said = |pairs: &[(&'static str, &str)]| {
            let pairs = pairs.iter();
            let headers = pairs.map(|(name, value)| {
                let name = HeaderName::from_static(name);
                (name, value.parse().unwrap())
            });
            told(&headers.collect()).by(&methods)
        };
        let go = ("user-agent", "gitlab-agent/v18.1.0/abc grpc-go/1.70");
        let uid = "0b0e4b7c-0000-4000-8000-000000000001";

        assert_eq!(said(&[go]), Told::Nothing);
        let told_uid = Told::Uid(ClusterUid::parse(uid).unwrap());
        assert_eq!(said(&[go, ("kas-cluster", uid)]), told_uid);
        for unknown in ["unknown", "", "a b", &"x".repeat(100)] {
            assert_eq!(said(&[go, ("kas-cluster", unknown)]), Told::Unknown);
        }
        assert_eq!(
            said(&[("user-agent", "gitlab-agent/v14.3.0/abc")]),
            Told::Unknown
        );
        assert_eq!(said(&[("user-agent", "grpc-go/1.70")]), Told::Unknown);
        let go_only = HeaderMap::from_iter([(USER_AGENT, go.1.parse().unwrap())]);
        assert_eq!(told(&go_only).by(&[]), Told::Unknown);
    }
}

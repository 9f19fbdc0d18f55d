//! Tokens for browsers' WebSockets, which cannot carry headers: given to a session for one
//! request, and shown as a subprotocol.
//!
//! A token holds the permission itself, so any replica with the secret takes it, and it is
//! good for seconds only, for this method, path and query, and once.

mod spent;

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use cluster_state::{AgentId, OneTimeClaims};
use control_plane::{Access, AgentInfo, Basis, Identity, IdentityKind};
use http::{HeaderMap, HeaderValue, Method, header, request::Parts};
use prost::Message as _;
use proto::agent::kubernetes_api::rpc::ImpersonationConfig;
use runtime::jwt::{self, Secret};
use serde::{Deserialize, Serialize};

use crate::query;
use spent::{SpendError, SpentTokens};

/// Asks for a token, where the request itself would go.
const PARAMETER: &str = "kas-websocket-token-request";
const SUBPROTOCOL_PREFIX: &str = "websocket-token.kas.gitlab.com.";
const NAME: &str = "gitlab-kas-websocket";
const TOKEN_TTL: Duration = Duration::from_secs(5);

/// A token that is not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// It is not one of ours, or has expired.
    #[error("WebSocket token: {0}")]
    Jwt(#[from] jwt::JwtError),
    /// It is for another request.
    #[error("WebSocket token: it is for another path, query or method")]
    OtherPurpose,
    /// It holds an impersonation that cannot be read.
    #[error("WebSocket token: it cannot be read")]
    Malformed,
    /// It is used up.
    #[error("WebSocket token: {0}")]
    Spent(#[from] SpendError),
}

/// Issues tokens, and redeems them.
#[derive(Debug, Clone)]
pub struct WebSocketTokens {
    secret: Secret,
    spent: Arc<SpentTokens>,
}

/// The request that a token is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Purpose {
    method: String,
    path: String,
    query: String,
}

impl Purpose {
    /// A request to a path, as it was sent; or the one for which a token is asked for.
    pub(crate) fn of(head: &Parts, path: &str) -> Self {
        Self {
            method: head.method.to_string(),
            path: path.to_owned(),
            query: query::without(head.uri.query().unwrap_or(""), PARAMETER),
        }
    }
}

/// What a token says.
#[derive(Debug, Serialize, Deserialize)]
struct Grant {
    /// Of this token alone.
    id: String,
    #[serde(rename = "for")]
    purpose: Purpose,
    agent_id: i64,
    agent: String,
    user_id: i64,
    user: String,
    /// As protobuf in base64.
    impersonation: Option<String>,
}

impl WebSocketTokens {
    /// Tokens signed with a secret that all replicas share. With `one_time` they share too which were used.
    #[must_use]
    pub fn new(secret: Secret, one_time: Option<Arc<dyn OneTimeClaims>>) -> Self {
        let spent = Arc::new(SpentTokens::new(one_time));
        Self { secret, spent }
    }

    /// The answer, as JSON: a token that holds `access`, for a request of this purpose.
    pub(crate) fn issue(&self, purpose: Purpose, access: &Access) -> Result<String, jwt::JwtError> {
        let encode = |it: &ImpersonationConfig| BASE64_STANDARD.encode(it.encode_to_vec());
        let grant = Grant {
            id: format!("{:032x}", rand::random::<u128>()),
            purpose,
            agent_id: access.agent.id.0,
            agent: access.agent.name.clone(),
            user_id: access.user_id,
            user: access.identity.name.clone(),
            impersonation: access.impersonation.as_ref().map(encode),
        };
        let token = jwt::sign_with(&self.secret, NAME, NAME, TOKEN_TTL, &grant)?;
        Ok(serde_json::json!({"token": token}).to_string())
    }

    /// The access that a token holds, which is used up by it.
    ///
    /// # Errors
    /// [`TokenError`] says what is wrong with it.
    pub(crate) async fn redeem(
        &self,
        token: &str,
        purpose: &Purpose,
    ) -> Result<Access, TokenError> {
        let grant: Grant = jwt::read(&self.secret, token, NAME, Some(NAME))?;
        if grant.purpose != *purpose {
            return Err(TokenError::OtherPurpose);
        }
        let impersonation = grant.impersonation.as_deref().map(decode).transpose()?;
        self.spent.spend(&grant.id, grant.user_id).await?;
        Ok(Access {
            agent: Arc::new(AgentInfo {
                id: AgentId(grant.agent_id),
                name: grant.agent,
                project_id: 0,
                project_path: String::new(),
                default_branch: String::new(),
            }),
            identity: Identity {
                kind: IdentityKind::User,
                name: grant.user,
            },
            user_id: grant.user_id,
            impersonation,
            basis: Basis::default(),
        })
    }
}

fn decode(text: &str) -> Result<ImpersonationConfig, TokenError> {
    let bytes = BASE64_STANDARD.decode(text).ok();
    bytes
        .and_then(|it| ImpersonationConfig::decode(it.as_slice()).ok())
        .ok_or(TokenError::Malformed)
}

/// Whether a browser's session asks for a token. A client that can send headers needs none.
pub(crate) fn is_asked_for(head: &Parts) -> bool {
    let query = head.uri.query().unwrap_or("");
    head.method == Method::GET
        && !head.headers.contains_key(header::AUTHORIZATION)
        && query::values(query, PARAMETER) == ["true"]
}

/// The token that a WebSocket's handshake presents.
pub(crate) fn presented(headers: &HeaderMap) -> Option<&str> {
    let upgrade = headers.get(header::UPGRADE)?;
    if !upgrade.as_bytes().eq_ignore_ascii_case(b"websocket")
        || headers.contains_key(header::AUTHORIZATION)
    {
        return None;
    }
    subprotocols(headers).find_map(|it| it.strip_prefix(SUBPROTOCOL_PREFIX))
}

/// Takes tokens out of the subprotocols: the cluster must not see them.
pub(crate) fn hide(headers: &mut HeaderMap) {
    if !subprotocols(headers).any(|it| it.starts_with(SUBPROTOCOL_PREFIX)) {
        return;
    }
    let others: Vec<_> = subprotocols(headers)
        .filter(|it| !it.starts_with(SUBPROTOCOL_PREFIX))
        .collect();
    let others = HeaderValue::from_str(&others.join(", "));
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    if let Ok(others) = others
        && !others.is_empty()
    {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, others);
    }
}

/// The subprotocols that a WebSocket's handshake offers.
pub(crate) fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lists = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    lists
        .filter_map(|it| it.to_str().ok())
        .flat_map(|it| it.split(','))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(key: u8) -> WebSocketTokens {
        WebSocketTokens::new(Secret::new(vec![key; 72]), None)
    }

    /// A GET of this path and query.
    fn get(target: &str) -> Purpose {
        let (head, ()) = http::Request::get(target).body(()).unwrap().into_parts();
        Purpose::of(&head, head.uri.path())
    }

    async fn access() -> Access {
        let taken = tokens(1).redeem(&given("{}"), &get("/a")).await;
        let mut access = taken.unwrap();
        access.impersonation = Some(ImpersonationConfig {
            username: "gitlab:user:jo".into(),
            groups: vec!["gitlab:user".into()],
            ..ImpersonationConfig::default()
        });
        access
    }

    /// A token of the least that can be granted, with more.
    fn given(more: &str) -> String {
        let mut grant = serde_json::json!({
            "id": "x", "for": get("/a"), "agent_id": 5, "agent": "x", "user_id": 1, "user": "jo",
        });
        let more: serde_json::Map<_, _> = serde_json::from_str(more).unwrap();
        grant.as_object_mut().unwrap().extend(more);
        jwt::sign_with(&tokens(1).secret, NAME, NAME, TOKEN_TTL, &grant).unwrap()
    }

    async fn issued(asked: &str) -> String {
        let answer = tokens(1).issue(get(asked), &access().await).unwrap();
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        answer["token"].as_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_token_holds_the_permission_for_its_request() {
        let asked = "/a?command=ls&kas-websocket-token-request=true&stdin=true&gitlab-agent-id=5";
        let token = issued(asked).await;

        let taken = tokens(1)
            .redeem(&token, &get("/a?command=ls&stdin=true"))
            .await;
        assert_eq!(taken.unwrap(), access().await);
        for other in [
            "/b?command=ls&stdin=true",
            "/a",
            "/a?command=rm&stdin=true",
            "/a?command=ls&stdin=true&command=rm",
        ] {
            let refused = tokens(1).redeem(&token, &get(other)).await;
            assert!(matches!(refused, Err(TokenError::OtherPurpose)), "{other}");
        }
        let (head, ()) = http::Request::post("/a?command=ls&stdin=true")
            .body(())
            .unwrap()
            .into_parts();
        let refused = tokens(1).redeem(&token, &Purpose::of(&head, "/a")).await;
        assert!(matches!(refused, Err(TokenError::OtherPurpose)));
        let refused = tokens(2)
            .redeem(&token, &get("/a?command=ls&stdin=true"))
            .await;
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("InvalidSignature")
        );
    }

    #[tokio::test]
    async fn a_token_is_good_once() {
        let token = issued("/a").await;
        let tokens = tokens(1);

        let elsewhere = tokens.redeem(&token, &get("/b")).await;
        let first = tokens.redeem(&token, &get("/a")).await;
        let second = tokens.redeem(&token, &get("/a")).await;

        assert!(elsewhere.is_err(), "which does not use it up");
        assert!(first.is_ok());
        assert!(second.unwrap_err().to_string().contains("used already"));
    }

    #[tokio::test]
    async fn what_is_no_token_of_ours_is_refused() {
        let tokens = tokens(1);
        let other = jwt::sign(&tokens.secret, "gitlab-kas", "gitlab-kas").unwrap();
        // More than the leeway ago.
        let old = given(r#"{"exp": 1000}"#);

        for token in ["", "x", &other, &given(r#"{"impersonation": "?"}"#), &old] {
            let refused = tokens.redeem(token, &get("/a")).await.unwrap_err();
            assert!(
                refused.to_string().starts_with("WebSocket token: "),
                "{token}"
            );
        }
    }

    #[test]
    fn the_cluster_sees_the_other_subprotocols_only() {
        let hidden = |lists: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for list in lists {
                headers
                    .try_append(
                        header::SEC_WEBSOCKET_PROTOCOL,
                        HeaderValue::from_static(list),
                    )
                    .unwrap();
            }
            hide(&mut headers);
            headers
                .get_all(header::SEC_WEBSOCKET_PROTOCOL)
                .iter()
                .map(|it| it.to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };

        assert_eq!(
            hidden(&["a, websocket-token.kas.gitlab.com.x, b"]),
            ["a, b"]
        );
        assert!(hidden(&["websocket-token.kas.gitlab.com.x"]).is_empty());
        assert_eq!(hidden(&["a,b", "c"]), ["a,b", "c"]);
    }

    #[test]
    fn only_a_websocket_without_other_credentials_presents_a_token() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            let pair = |(name, value): &(&'static str, &'static str)| {
                let name = http::HeaderName::from_static(name);
                (name, HeaderValue::from_static(value))
            };
            pairs.iter().map(pair).collect()
        };
        let upgrade = ("upgrade", "WebSocket");
        let protocol = (
            "sec-websocket-protocol",
            "v4, websocket-token.kas.gitlab.com.x.y",
        );

        assert_eq!(presented(&headers(&[upgrade, protocol])), Some("x.y"));
        assert_eq!(presented(&headers(&[protocol])), None);
        assert_eq!(
            presented(&headers(&[("upgrade", "SPDY/3.1"), protocol])),
            None
        );
        let bearer = ("authorization", "Bearer ci:1:x");
        assert_eq!(presented(&headers(&[upgrade, protocol, bearer])), None);
    }
}

//! Who asks, and for which agent, as the request says.

use cluster_state::AgentId;
use control_plane::{Credentials, Token};
use http::{HeaderMap, HeaderValue, header};

use crate::{
    headers::{AGENT_ID, CSRF},
    query::{self, AGENT_ID_PARAMETER, CSRF_PARAMETER},
};

const COOKIE: &str = "_gitlab_kas";

/// What a request presents.
#[derive(Debug)]
pub(crate) struct Presented {
    /// The agent it asks for.
    pub(crate) agent: AgentId,
    /// What it proves itself with.
    pub(crate) credentials: Credentials,
}

/// Credentials that cannot be read. The texts are those of GitLab's kas.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// There are none.
    #[error("no valid credentials provided")]
    Missing,
    /// Those of the Authorization header.
    #[error("Authorization header: {0}")]
    Bearer(#[source] MalformedBearer),
    /// The cookie is empty.
    #[error("{COOKIE} cookie value must not be empty")]
    EmptyCookie,
    /// The cookie has an escape that is none.
    #[error("{COOKIE} invalid cookie value")]
    Cookie,
    /// The number of the agent is none.
    #[error("agent id in request: invalid value: {0:?}")]
    AgentId(String),
    /// The header is there more than once.
    #[error("{0} header must have exactly one value")]
    RepeatedHeader(&'static str),
    /// Neither the header nor the parameter is there, or the parameter more than once.
    #[error(
        "exactly one {what} must be provided either in the \"{header}\" header or \"{parameter}\" query parameter"
    )]
    NotOne {
        /// What it carries.
        what: &'static str,
        /// The header.
        header: &'static str,
        /// The parameter.
        parameter: &'static str,
    },
}

/// A bearer token that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MalformedBearer {
    /// The header is there more than once.
    #[error("expecting a single header, got {0}")]
    Repeated(usize),
    /// It has not the form of one.
    #[error("invalid value")]
    Form,
    /// It has another scheme.
    #[error("expecting Bearer token")]
    Scheme,
    /// It begins with another kind than `ci`, `pat` and `oidc`.
    #[error("unknown token type")]
    Kind,
    /// The number of the agent is none.
    #[error("failed to parse: {0}")]
    AgentId(#[source] NotANumber),
    /// There is nothing behind the number.
    #[error("empty token")]
    Empty,
}

/// A text that is no number, in the words of Go's strconv.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("strconv.ParseInt: parsing {text:?}: {why}")]
pub(crate) struct NotANumber {
    text: String,
    why: &'static str,
}

/// Reads the credentials of a request.
///
/// # Errors
/// [`Malformed`] says what is wrong with them.
pub(crate) fn read(headers: &HeaderMap, raw_query: &str) -> Result<Presented, Malformed> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    if let Some(value) = values.next() {
        let more = values.count();
        return bearer(value, more + 1).map_err(Malformed::Bearer);
    }
    match cookie(headers) {
        Some(value) => session(&value, headers, raw_query),
        None => Err(Malformed::Missing),
    }
}

fn bearer(value: &HeaderValue, count: usize) -> Result<Presented, MalformedBearer> {
    if count > 1 {
        return Err(MalformedBearer::Repeated(count));
    }
    let value = std::str::from_utf8(value.as_bytes()).map_err(|_| MalformedBearer::Form)?;
    let value = value
        .strip_prefix("Bearer ")
        .ok_or(MalformedBearer::Scheme)?;
    let (kind, rest) = value.split_once(':').ok_or(MalformedBearer::Form)?;
    let credentials: fn(Token) -> Credentials = match kind {
        "ci" => |token| Credentials::Ci { token },
        "pat" => |token| Credentials::Pat { token },
        "oidc" => |token| Credentials::Oidc { token },
        _ => return Err(MalformedBearer::Kind),
    };
    let (id, token) = rest.split_once(':').ok_or(MalformedBearer::Form)?;
    let agent = number(id).map_err(MalformedBearer::AgentId)?;
    if token.is_empty() {
        return Err(MalformedBearer::Empty);
    }
    Ok(Presented {
        agent,
        credentials: credentials(Token::new(token)),
    })
}

fn session(value: &str, headers: &HeaderMap, raw_query: &str) -> Result<Presented, Malformed> {
    if value.is_empty() {
        return Err(Malformed::EmptyCookie);
    }
    let access_key = query::decode_component(value)
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or(Malformed::Cookie)?;
    let id = one(
        headers,
        AGENT_ID,
        "Gitlab-Agent-Id",
        raw_query,
        AGENT_ID_PARAMETER,
        "agent id",
    )?;
    let agent = number(&id).map_err(|_| Malformed::AgentId(id))?;
    let csrf_token = one(
        headers,
        CSRF,
        "X-Csrf-Token",
        raw_query,
        CSRF_PARAMETER,
        "CSRF token",
    )?;
    let credentials = Credentials::Session {
        access_key: Token::new(access_key),
        csrf_token: Token::new(csrf_token),
    };
    Ok(Presented { agent, credentials })
}

/// The one value of a header or else of a parameter.
fn one(
    headers: &HeaderMap,
    header: &str,
    spelled: &'static str,
    raw_query: &str,
    parameter: &'static str,
    what: &'static str,
) -> Result<String, Malformed> {
    let mut values = headers.get_all(header).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(String::from_utf8_lossy(value.as_bytes()).into_owned()),
        (Some(_), Some(_)) => Err(Malformed::RepeatedHeader(spelled)),
        (None, _) => match <[String; 1]>::try_from(query::values(raw_query, parameter)) {
            Ok([value]) => Ok(value),
            Err(_) => Err(Malformed::NotOne {
                what,
                header: spelled,
                parameter,
            }),
        },
    }
}

/// The first cookie of our name, as it came.
fn cookie(headers: &HeaderMap) -> Option<String> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| std::str::from_utf8(value.as_bytes()).ok())
        .flat_map(|value| value.split(';'))
        .map(|part| part.trim().split_once('=').unwrap_or((part.trim(), "")))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, value)| {
            let unquoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
            unquoted.unwrap_or(value).to_owned()
        })
}

fn number(text: &str) -> Result<AgentId, NotANumber> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    text.parse()
        .map(AgentId)
        .map_err(|error: std::num::ParseIntError| {
            let why = match error.kind() {
                PosOverflow | NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            NotANumber {
                text: text.to_owned(),
                why,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.try_append(*name, HeaderValue::from_str(value).unwrap())
                .unwrap();
        }
        map
    }

    fn shown(presented: Presented) -> (i64, String) {
        let text = match presented.credentials {
            Credentials::Ci { token } => format!("ci {}", token.expose()),
            Credentials::Pat { token } => format!("pat {}", token.expose()),
            Credentials::Oidc { token } => format!("oidc {}", token.expose()),
            Credentials::Session {
                access_key,
                csrf_token,
            } => {
                format!("session {} {}", access_key.expose(), csrf_token.expose())
            }
        };
        (presented.agent.0, text)
    }

    /// Headers, query, and the agent and credentials that they mean.
    type Case<'a> = (&'a [(&'static str, &'a str)], &'a str, i64, &'a str);

    #[test]
    fn good_credentials_are_read() {
        let table: &[Case<'_>] = &[
            (
                &[("authorization", "Bearer pat:7:tok:en")],
                "",
                7,
                "pat tok:en",
            ),
            (&[("authorization", "Bearer ci:-1:x")], "", -1, "ci x"),
            (
                &[("authorization", "Bearer oidc:7:h.p.s")],
                "",
                7,
                "oidc h.p.s",
            ),
            (
                &[
                    ("authorization", "Bearer ci:1:x"),
                    ("cookie", "_gitlab_kas=a"),
                ],
                "",
                1,
                "ci x",
            ),
            (
                &[
                    ("cookie", "a=b; _gitlab_kas=k%2Be+y"),
                    ("gitlab-agent-id", "12"),
                    ("x-csrf-token", "c"),
                ],
                "gitlab-agent-id=99",
                12,
                "session k+e y c",
            ),
            (
                &[("cookie", "_gitlab_kas=k")],
                "gitlab-agent-id=3&gitlab-csrf-token=",
                3,
                "session k ",
            ),
        ];
        for (pairs, query, agent, expected) in table {
            let presented = read(&headers(pairs), query).unwrap();
            assert_eq!(shown(presented), (*agent, (*expected).to_owned()));
        }
    }

    #[test]
    fn bad_credentials_are_refused_in_the_usual_words() {
        let bearer = |value| vec![("authorization", value)];
        let session = |more: &[(&'static str, &'static str)]| {
            let mut all = vec![("cookie", "_gitlab_kas=k")];
            all.extend_from_slice(more);
            all
        };
        let table = [
            (vec![], "", "no valid credentials provided"),
            (
                bearer("bearer pat:1:x"),
                "",
                "Authorization header: expecting Bearer token",
            ),
            (
                bearer("Basic eDp5"),
                "",
                "Authorization header: expecting Bearer token",
            ),
            (
                bearer("Bearer token"),
                "",
                "Authorization header: invalid value",
            ),
            (
                bearer("Bearer job:1:x"),
                "",
                "Authorization header: unknown token type",
            ),
            (
                bearer("Bearer ci:1"),
                "",
                "Authorization header: invalid value",
            ),
            (
                bearer("Bearer ci:asdf:as"),
                "",
                "Authorization header: failed to parse: strconv.ParseInt: parsing \"asdf\": invalid syntax",
            ),
            (
                bearer("Bearer ci:99999999999999999999:as"),
                "",
                "Authorization header: failed to parse: strconv.ParseInt: parsing \"99999999999999999999\": value out of range",
            ),
            (
                bearer("Bearer ci:1:"),
                "",
                "Authorization header: empty token",
            ),
            (
                vec![
                    ("authorization", "Bearer ci:1:x"),
                    ("authorization", "Bearer ci:1:x"),
                ],
                "",
                "Authorization header: expecting a single header, got 2",
            ),
            (
                vec![("cookie", "_gitlab_kas=")],
                "",
                "_gitlab_kas cookie value must not be empty",
            ),
            (
                vec![("cookie", "_gitlab_kas=%x")],
                "",
                "_gitlab_kas invalid cookie value",
            ),
            (
                session(&[("gitlab-agent-id", "1"), ("gitlab-agent-id", "2")]),
                "",
                "Gitlab-Agent-Id header must have exactly one value",
            ),
            (
                session(&[]),
                "gitlab-agent-id=1&gitlab-agent-id=2",
                "exactly one agent id must be provided either in the \"Gitlab-Agent-Id\" header or \"gitlab-agent-id\" query parameter",
            ),
            (
                session(&[("gitlab-agent-id", "x")]),
                "",
                "agent id in request: invalid value: \"x\"",
            ),
            (
                session(&[
                    ("gitlab-agent-id", "1"),
                    ("x-csrf-token", "1"),
                    ("x-csrf-token", "2"),
                ]),
                "",
                "X-Csrf-Token header must have exactly one value",
            ),
            (
                session(&[("gitlab-agent-id", "1")]),
                "",
                "exactly one CSRF token must be provided either in the \"X-Csrf-Token\" header or \"gitlab-csrf-token\" query parameter",
            ),
        ];
        for (pairs, query, expected) in table {
            let error = read(&headers(&pairs), query).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }
}

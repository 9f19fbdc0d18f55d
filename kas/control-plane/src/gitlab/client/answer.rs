//! What GitLab answered: a body of sane size, or a status with a reason.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header, response::Parts};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use jiff::{Timestamp, fmt::rfc2822};
use serde::Deserialize;

use super::super::{
    call::Call,
    error::{AnswerError, CallError},
};

/// Bytes of an answer, at most.
const ANSWER_MAX_BYTES: usize = 1 << 20;
/// Characters of a reason, at most.
const REASON_CHARS_MAX: usize = 200;
/// A difference of clocks that is worth mentioning.
const CLOCK_SKEW_NOTABLE_SECONDS: i64 = 5;
/// A difference of clocks that makes this server's tokens invalid, whatever GitLab's message is.
const CLOCK_SKEW_MAX_SECONDS: i64 = 60;
/// How GitLab refuses this server's own token, rather than an agent's.
const OWN_TOKEN_REFUSED: &str = "KAS JWT";

pub(super) async fn read(body: Incoming, path: &'static str) -> Result<Bytes, CallError> {
    match Limited::new(body, ANSWER_MAX_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<hyper::Error>() => Err(CallError::Unreachable {
            connected: true,
            detail: format!("the answer broke off: {error}"),
        }),
        Err(_) => Err(CallError::InvalidAnswer {
            path,
            why: AnswerError::TooLong(ANSWER_MAX_BYTES),
        }),
    }
}

/// A good answer must say that it is JSON.
pub(super) fn json(head: &Parts, body: Bytes, path: &'static str) -> Result<Bytes, CallError> {
    let kind = content_type(&head.headers);
    if kind == "application/json" {
        return Ok(body);
    }
    Err(CallError::InvalidAnswer {
        path,
        why: AnswerError::MediaType(kind.to_owned()),
    })
}

/// Why a status is no success.
pub(super) fn refusal(head: &Parts, body: &[u8], call: &Call) -> CallError {
    let status = head.status.as_u16();
    let reason = reason(head, body);
    if status == 401 && call.signed {
        let skew = skew(&head.headers, Timestamp::now());
        let own = reason
            .as_ref()
            .is_some_and(|it| it.contains(OWN_TOKEN_REFUSED));
        if own || skew >= CLOCK_SKEW_MAX_SECONDS {
            return CallError::OwnToken(own_token(reason.as_deref(), skew));
        }
    }
    // GitLab explains each of these in JSON. What comes from elsewhere says nothing of the credential.
    if matches!(status, 400 | 401 | 403 | 404) && !is_json_object(body) {
        return CallError::InvalidAnswer {
            path: call.path,
            why: AnswerError::ForeignRefusal {
                status,
                media_type: content_type(&head.headers).to_owned(),
            },
        };
    }
    CallError::Status {
        status,
        path: call.path,
        reason,
        retry_after: retry_after(&head.headers),
    }
}

fn is_json_object(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(body).is_ok()
}

#[derive(Deserialize)]
struct Explained {
    message: Option<serde_json::Value>,
    error: Option<serde_json::Value>,
}

fn reason(head: &Parts, body: &[u8]) -> Option<String> {
    if head.status.is_redirection() {
        let to = head.headers.get(header::LOCATION)?.to_str().ok()?;
        let to = to.split('?').next().unwrap_or_default();
        return Some(format!("redirected to {to}; is gitlab.address right?"));
    }
    let told: Explained = serde_json::from_slice(body).ok()?;
    let text = match told.message.or(told.error)? {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    let printable = text.chars().filter(|c| !c.is_control());
    Some(printable.take(REASON_CHARS_MAX).collect())
}

fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE);
    let value = value.and_then(|it| it.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// What to look at when this server's own token is refused.
fn own_token(reason: Option<&str>, skew: i64) -> String {
    let reason = reason.unwrap_or("401");
    if skew >= CLOCK_SKEW_NOTABLE_SECONDS {
        return format!("{reason}; the clocks of GitLab and this server are {skew} s apart");
    }
    format!("{reason}; is gitlab.authentication_secret_file the one that GitLab has?")
}

/// Seconds by which GitLab's clock differs from this one.
fn skew(headers: &HeaderMap, now: Timestamp) -> i64 {
    let date = headers.get(header::DATE).and_then(|it| it.to_str().ok());
    let theirs = date.and_then(|date| rfc2822::parse(date).ok());
    theirs.map_or(0, |it| (now.as_second() - it.timestamp().as_second()).abs())
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::super::super::call::Endpoint;
    use super::*;

    fn refused(status: u16, headers: &[(&'static str, &str)], body: &str) -> CallError {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let (head, ()) = response.body(()).unwrap().into_parts();
        refusal(
            &head,
            body.as_bytes(),
            &Call::get(Endpoint::AgentInfo, "/p"),
        )
    }

    #[test]
    fn a_refusal_is_told_in_gitlabs_words() {
        for (body, words) in [
            (
                r#"{"message":"403 Forbidden"}"#,
                "HTTP status code: 403 for path /p with reason 403 Forbidden",
            ),
            (
                r#"{"error":"insufficient_scope"}"#,
                "HTTP status code: 403 for path /p with reason insufficient_scope",
            ),
            (
                r#"{"message":{"a":["b"]}}"#,
                r#"HTTP status code: 403 for path /p with reason {"a":["b"]}"#,
            ),
            ("{}", "HTTP status code: 403 for path /p"),
        ] {
            assert_eq!(refused(403, &[], body).to_string(), words);
        }
    }

    #[test]
    fn a_refusal_that_is_not_gitlabs_is_none() {
        for (status, body) in [(401, "<html>"), (403, "Forbidden"), (404, ""), (401, "[]")] {
            let error = refused(status, &[("content-type", "text/html")], body);

            assert_eq!(error.refusal(), None, "{error}");
            let told = error.to_string();
            assert!(
                told.contains(&status.to_string()) && told.contains("proxy"),
                "{told}"
            );
        }
    }

    #[test]
    fn a_refusal_of_this_server_is_told_apart_from_one_of_an_agent() {
        let agents = refused(401, &[], r#"{"message":"401 Unauthorized"}"#);
        let own = refused(401, &[], r#"{"message":"KAS JWT authentication invalid"}"#);
        let clocks = refused(401, &[("date", "Sun, 06 Nov 1994 08:49:37 GMT")], "");

        assert_eq!(agents.refusal(), Some(401));
        assert!(
            matches!(&own, CallError::OwnToken(why) if why.contains("secret_file")),
            "{own}"
        );
        assert!(
            matches!(&clocks, CallError::OwnToken(why) if why.contains("clocks")),
            "{clocks}"
        );
    }

    #[test]
    fn a_redirection_points_at_the_address() {
        let error = refused(302, &[("location", "https://x/users/sign_in?a=secret")], "");

        assert!(
            error
                .to_string()
                .ends_with("redirected to https://x/users/sign_in; is gitlab.address right?"),
            "{error}"
        );
    }
}

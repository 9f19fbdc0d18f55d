//! The scripted Kubernetes API: what a path is answered with.

use std::{io, time::Duration};

use bytes::Bytes;
use runtime::websocket::{Role, WebSocket};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::content;

/// The UID of the cluster that the script is: that of its namespace kube-system.
pub(crate) const CLUSTER: &str = "loadtest";

/// What is answered to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A JSON object.
    Json(Bytes),
    /// That many bytes of the pattern.
    Bytes(u64),
    /// The request's own body.
    Echo,
    /// Events as of a watch: so many, one after each interval.
    Watch {
        /// How many; 0 is without end.
        events: u64,
        /// Time between them.
        every: Duration,
    },
    /// A WebSocket that says whatever it hears, as `kubectl exec -it POD -- cat` does.
    Exec,
}

/// The script: the same for simulated agents and for the HTTP backend.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    default: Bytes,
}

impl Script {
    /// A script whose answer to any other path is JSON of `length` bytes.
    pub(crate) fn new(length: usize) -> Self {
        Self {
            default: content::json(length),
        }
    }

    /// `/bytes/<n>`, `/json/<n>`, `/echo`, `/exec`, `/watch/<events>/<milliseconds>`, each also
    /// after `/delay/<milliseconds>`, and the namespace that identifies the cluster; any other path has the default.
    pub(crate) fn answer(&self, path: &str) -> Answer {
        let (_, path) = delay(path);
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts[..] {
            ["bytes", length] => length.parse().map(Answer::Bytes).ok(),
            ["json", length] => length
                .parse()
                .map(|length| Answer::Json(content::json(length)))
                .ok(),
            ["echo"] => Some(Answer::Echo),
            ["exec"] => Some(Answer::Exec),
            ["api", "v1", "namespaces", "kube-system"] => Some(Answer::Json(kube_system())),
            ["watch", events, every] => watch(events, every),
            _ => None,
        }
        .unwrap_or_else(|| Answer::Json(self.default.clone()))
    }
}

impl Answer {
    /// The `Content-Type` header.
    pub(crate) fn content_type(&self) -> &'static str {
        match self {
            Self::Json(_) | Self::Watch { .. } => "application/json",
            Self::Bytes(_) | Self::Echo | Self::Exec => "application/octet-stream",
        }
    }

    /// The body's length where it is known beforehand.
    pub(crate) fn length(&self) -> Option<u64> {
        match self {
            Self::Json(body) => Some(body.len() as u64),
            Self::Bytes(length) => Some(*length),
            Self::Echo | Self::Watch { .. } | Self::Exec => None,
        }
    }
}

fn kube_system() -> Bytes {
    let text = format!(
        r#"{{"kind":"Namespace","apiVersion":"v1","metadata":{{"name":"kube-system","uid":"{CLUSTER}"}}}}"#
    );
    text.into()
}

/// How long the answer to a path takes to begin, and the path without that.
pub(crate) fn delay(path: &str) -> (Duration, &str) {
    let delayed = || {
        let (_, rest) = path.split_once("/delay/")?;
        let (milliseconds, _) = rest.split_once('/').unwrap_or((rest, ""));
        let path = &rest[milliseconds.len()..];
        Some((Duration::from_millis(milliseconds.parse().ok()?), path))
    };
    delayed().unwrap_or((Duration::ZERO, path))
}

/// Says whatever is heard on a connection that became a WebSocket, until the client leaves.
///
/// # Errors
/// When the connection breaks, or carries no WebSocket.
pub(crate) async fn echo(io: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let socket = WebSocket::new(io, Role::Server, None);
    let (mut hears, mut says) = tokio::io::split(socket);
    tokio::io::copy(&mut hears, &mut says).await?;
    says.shutdown().await
}

/// One event of a watch.
pub(crate) fn event(number: u64) -> Bytes {
    let version = number + 1;
    format!(
        "{{\"type\":\"MODIFIED\",\"object\":{{\"kind\":\"LoadTest\",\"apiVersion\":\"v1\",\
         \"metadata\":{{\"resourceVersion\":\"{version}\"}}}}}}\n"
    )
    .into()
}

fn watch(events: &str, every: &str) -> Option<Answer> {
    Some(Answer::Watch {
        events: events.parse().ok()?,
        every: Duration::from_millis(every.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_choose_the_answer() {
        let script = Script::new(4096);

        assert_eq!(script.answer("/bytes/100"), Answer::Bytes(100));
        assert_eq!(script.answer("/echo"), Answer::Echo);
        assert_eq!(script.answer("/exec"), Answer::Exec);
        assert_eq!(
            script.answer("/watch/3/250"),
            Answer::Watch {
                events: 3,
                every: Duration::from_millis(250)
            }
        );
        assert_eq!(script.answer("/json/99").length(), Some(99));
    }

    #[test]
    fn an_answer_may_be_late() {
        let path = "/k8s-proxy/delay/250/json/99";

        assert_eq!(delay(path), (Duration::from_millis(250), "/json/99"));
        assert_eq!(Script::new(4096).answer(path).length(), Some(99));
        assert_eq!(delay("/delay/x/json/9").0, Duration::ZERO);
        assert_eq!(delay("/delay/7"), (Duration::from_millis(7), ""));
    }

    #[test]
    fn any_other_path_has_the_default() {
        let script = Script::new(4096);

        for path in ["/", "/api/v1/pods", "/bytes/many", "/watch/1", ""] {
            assert_eq!(script.answer(path).length(), Some(4096), "{path}");
        }
    }

    #[test]
    fn events_are_lines_of_json() {
        let line = event(6);

        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["object"]["metadata"]["resourceVersion"], "7");
        assert!(line.ends_with(b"\n"));
    }
}

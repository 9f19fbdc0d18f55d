//! The scripted Kubernetes API: what a path is answered with.

use std::time::Duration;

use bytes::Bytes;

use crate::content;

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

    /// `/bytes/<n>`, `/json/<n>`, `/echo`, `/watch/<events>/<milliseconds>`;
    /// any other path has the default.
    pub(crate) fn answer(&self, path: &str) -> Answer {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts[..] {
            ["bytes", length] => length.parse().map(Answer::Bytes).ok(),
            ["json", length] => length
                .parse()
                .map(|length| Answer::Json(content::json(length)))
                .ok(),
            ["echo"] => Some(Answer::Echo),
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
            Self::Bytes(_) | Self::Echo => "application/octet-stream",
        }
    }

    /// The body's length where it is known beforehand.
    pub(crate) fn length(&self) -> Option<u64> {
        match self {
            Self::Json(body) => Some(body.len() as u64),
            Self::Bytes(length) => Some(*length),
            Self::Echo | Self::Watch { .. } => None,
        }
    }
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

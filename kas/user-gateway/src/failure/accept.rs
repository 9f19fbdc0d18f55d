//! In which form a client wants to hear of a failure, as Kubernetes' API server negotiates it.

use http::{HeaderMap, HeaderValue, header};

/// What a request says of the form of its answer. Read only if there is a failure.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    accept: Option<HeaderValue>,
    indented: bool,
}

/// The forms that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MediaType {
    /// JSON, for people with line ends.
    Json {
        /// Whether a person reads it rather than a program.
        indented: bool,
    },
    Yaml,
    Protobuf,
}

impl Wanted {
    /// What a request with these headers and this query wants.
    pub(crate) fn of(headers: &HeaderMap, raw_query: &str) -> Self {
        Self {
            accept: headers.get(header::ACCEPT).cloned(),
            indented: wants_indented(headers, raw_query),
        }
    }

    /// The form that suits best; JSON if none that there is would do.
    pub(super) fn media_type(&self) -> MediaType {
        let indented = self.indented;
        let accept = self.accept.as_ref().map(HeaderValue::to_str);
        match accept {
            Some(Ok(accept)) => negotiate(accept, indented),
            Some(Err(_)) | None => None,
        }
        .unwrap_or(MediaType::Json { indented })
    }
}

/// The best media range of those that a failure can have: the first of the highest quality, an exact one before a
/// general one.
fn negotiate(accept: &str, indented: bool) -> Option<MediaType> {
    let mut best = None;
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let (exact, media_type) = match parts.next().unwrap_or_default() {
            "application/json" => (1, MediaType::Json { indented }),
            "application/yaml" => (1, MediaType::Yaml),
            "application/vnd.kubernetes.protobuf" => (1, MediaType::Protobuf),
            "application/*" | "*/*" => (0, MediaType::Json { indented }),
            _ => continue,
        };
        let Some(quality) = quality(parts) else {
            continue;
        };
        let rank = (quality, exact);
        if best.is_none_or(|(highest, _)| rank > highest) {
            best = Some((rank, media_type));
        }
    }
    best.map(|(_, media_type)| media_type)
}

/// The quality of a media range in thousandths. None if the range is not for failures, which are no tables and of no
/// other group or version.
fn quality<'a>(parameters: impl Iterator<Item = &'a str>) -> Option<u16> {
    let mut quality = 1000;
    for parameter in parameters {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match name.trim() {
            "as" | "g" | "v" | "sv" => return None,
            "q" => {
                let given: f32 = value.trim().parse().ok()?;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "between 0 and 1000"
                )]
                let thousandths = (given.clamp(0.0, 1.0) * 1000.0) as u16;
                quality = thousandths;
            }
            _ => {}
        }
    }
    (quality > 0).then_some(quality)
}

/// Whether JSON is read by a person rather than a program.
fn wants_indented(headers: &HeaderMap, raw_query: &str) -> bool {
    let agent = headers
        .get(header::USER_AGENT)
        .map_or(&b""[..], HeaderValue::as_bytes);
    [&b"curl"[..], b"Wget", b"Mozilla/5.0"]
        .iter()
        .any(|prefix| agent.starts_with(prefix))
        || raw_query.split('&').any(|pair| pair == "pretty=true")
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: MediaType = MediaType::Json { indented: false };

    fn wanted(accept: &'static str) -> MediaType {
        let accept = (header::ACCEPT, HeaderValue::from_static(accept));
        Wanted::of(&HeaderMap::from_iter([accept]), "").media_type()
    }

    #[test]
    fn the_form_is_the_one_that_an_api_server_would_choose() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(Wanted::of(&HeaderMap::new(), "").media_type(), JSON);
        for (accept, expected) in [
            ("", JSON),
            ("*/*", JSON),
            ("application/*;q=0.1", JSON),
            ("application/json, */*", JSON),
            ("text/html, */*;q=0.8", JSON),
            ("application/yaml", MediaType::Yaml),
            ("*/*, application/yaml", MediaType::Yaml),
            ("application/yaml;q=0.5, application/json;q=0.6", JSON),
            ("application/vnd.kubernetes.protobuf", MediaType::Protobuf),
            (
                "application/vnd.kubernetes.protobuf;stream=watch,application/json",
                MediaType::Protobuf,
            ),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
                JSON,
            ),
            (table, JSON),
            ("application/json;q=0", JSON),
            ("application/json;q=x", JSON),
            ("text/html", JSON),
            ("application/cbor", JSON),
        ] {
            assert_eq!(wanted(accept), expected, "{accept}");
        }
    }

    #[test]
    fn people_get_indented_json() {
        let agent = |name: &'static str| {
            HeaderMap::from_iter([(header::USER_AGENT, HeaderValue::from_static(name))])
        };
        assert!(wants_indented(&agent("curl/8.1"), ""));
        assert!(wants_indented(&HeaderMap::new(), "a=b&pretty=true"));
        assert!(!wants_indented(&agent("kubectl/v1.33"), "pretty=false"));
    }
}

//! Helm's releases, which are kept in secrets: gzip in base64, in base64 as all of a secret.

use std::io::Read;

use base64::{Engine, prelude::BASE64_STANDARD};
use flate2::read::GzDecoder;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The type of such a secret.
const SECRET_TYPE: &str = "helm.sh/release.v1";
/// The longest release, in bytes, inflated.
const MAX_RELEASE_BYTES: u64 = 4 << 20;
/// The longest text of what is shown of a release: notes can be as long as the release.
pub(super) const MAX_SHOWN_BYTES: usize = 1 << 20;
/// Values that a release has, at most: two bytes of text can stand for one of a hundred.
const MAX_RELEASE_VALUES: usize = 100_000;

/// What is shown of a release.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Release {
    name: Value,
    namespace: Value,
    version: Value,
    info: Value,
    chart: Chart,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Chart {
    metadata: Value,
}

/// The release that an object holds, without what was rendered and the chart's files; nothing where there is none, or
/// it cannot be read.
pub(super) fn release(object: &Value) -> Option<Value> {
    if object["type"] != SECRET_TYPE || object["kind"].as_str().is_some_and(|it| it != "Secret") {
        return None;
    }
    let outer = BASE64_STANDARD
        .decode(object["data"]["release"].as_str()?)
        .ok()?;
    let zipped = BASE64_STANDARD.decode(outer).ok()?;
    let mut text = Vec::new();
    let mut inflated = GzDecoder::new(&zipped[..]).take(MAX_RELEASE_BYTES + 1);
    inflated.read_to_end(&mut text).ok()?;
    if text.len() as u64 > MAX_RELEASE_BYTES || values(&text) > MAX_RELEASE_VALUES {
        return None;
    }
    let release: Release = serde_json::from_slice(&text).ok()?;
    serde_json::to_value(release).ok()
}

/// How many values a JSON text has, at most.
fn values(text: &[u8]) -> usize {
    let (mut count, mut quoted, mut escaped) = (1, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' | b'[' | b'{' if !quoted => count += 1,
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn secret(text: &[u8]) -> Value {
        let mut zip = GzEncoder::new(Vec::new(), Compression::fast());
        zip.write_all(text).unwrap();
        let inner = BASE64_STANDARD.encode(zip.finish().unwrap());
        json!({"type": SECRET_TYPE, "data": {"release": BASE64_STANDARD.encode(inner)}})
    }

    #[test]
    fn a_release_is_read_without_its_files() {
        let text = json!({
            "name": "web", "namespace": "a", "version": 3, "manifest": "long",
            "info": {"status": "deployed"}, "chart": {"metadata": {"name": "nginx"}, "files": []},
        });
        let release = release(&secret(text.to_string().as_bytes())).unwrap();

        assert_eq!(release["version"], 3);
        assert_eq!(release["chart"], json!({"metadata": {"name": "nginx"}}));
        assert_eq!(release["manifest"], Value::Null);
    }

    #[test]
    fn what_is_no_release_or_inflates_without_end_is_none() {
        assert_eq!(release(&json!({"type": "Opaque"})), None);
        assert_eq!(
            release(&json!({"type": SECRET_TYPE, "data": {"release": "?"}})),
            None
        );
        assert_eq!(release(&secret(b"no JSON")), None);
        let bomb = [b"\"".to_vec(), vec![b'x'; 5 << 20], b"\"".to_vec()].concat();
        assert_eq!(release(&secret(&bomb)), None);
        let values = [
            br#"{"info":["#.to_vec(),
            b"0,".repeat(200_000),
            b"0]}".to_vec(),
        ]
        .concat();
        assert_eq!(release(&secret(&values)), None);
    }
}

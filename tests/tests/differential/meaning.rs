//! What may differ on the way: headers of one hop, and, where an agent encodes paths and queries
//! anew, how the same is written.

use std::collections::BTreeMap;

use crate::generate::bytes;

/// Of one hop, of who asks, or of who passes it on.
const OF_THE_WAY: [&str; 11] = [
    "host",
    "via",
    "connection",
    "content-length",
    "transfer-encoding",
    "authorization",
    "date",
    "server",
    "x-content-type-options",
    "te",
    "trailer",
];

/// The headers that must arrive, by name, each with its values in order.
pub(crate) fn headers(all: &[(String, String)]) -> BTreeMap<&str, Vec<&str>> {
    let mut map = BTreeMap::<_, Vec<_>>::new();
    for (name, value) in all {
        if !OF_THE_WAY.contains(&name.as_str()) {
            map.entry(name.as_str()).or_default().push(value.as_str());
        }
    }
    map
}

type Meaning = (Vec<Vec<u8>>, BTreeMap<Vec<u8>, Vec<Vec<u8>>>);

/// The segments of the path, and the values of each parameter in order.
pub(crate) fn of(target: &str) -> Meaning {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut map = BTreeMap::<_, Vec<_>>::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let read = |text: &str| decode(&text.replace('+', " "));
        map.entry(read(name)).or_default().push(read(value));
    }
    (path.split('/').map(decode).collect(), map)
}

fn decode(text: &str) -> Vec<u8> {
    let bytes = bytes(text);
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes
            .get(at + 1..at + 3)
            .and_then(|it| std::str::from_utf8(it).ok());
        match digits.and_then(|it| u8::from_str_radix(it, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

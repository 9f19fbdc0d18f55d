//! What a watch tells: events in JSON, as tables, and in protobuf.

use serde_json::Value;

use super::values;

const END: &str = "k8s.io/initial-events-end";

/// An event.
#[derive(Debug)]
pub(super) struct Told {
    /// `ADDED`, `BOOKMARK`, …
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) version: u64,
    /// Whether it says that a list is complete.
    pub(super) ends_list: bool,
}

/// The events, in their order; what is not understood has no name and version 0.
pub(super) fn events(told: &[u8], form: &str) -> Vec<Told> {
    if form.contains("protobuf") {
        return frames(told).filter_map(in_protobuf).collect();
    }
    values(told).iter().map(in_json).collect()
}

fn in_json(event: &Value) -> Told {
    let object = &event["object"];
    let in_table = &object["rows"][0]["object"]["metadata"];
    let metadata = match in_table {
        Value::Null => &object["metadata"],
        found => found,
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Told {
        kind: text(&event["type"]),
        name: text(&metadata["name"]),
        version: text(&metadata["resourceVersion"]).parse().unwrap_or(0),
        ends_list: metadata["annotations"][END] == "true",
    }
}

/// Frames behind their lengths.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (frame, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        bytes = rest;
        Some(frame)
    })
}

/// `WatchEvent` {type 1, object 2 {raw 1}}; the object is behind `k8s\0` as `Unknown` {raw 2}; it begins with its
/// metadata {name 1, resourceVersion 6, annotations 12 {key 1, value 2}}.
fn in_protobuf(frame: &[u8]) -> Option<Told> {
    let kind = text(first(frame, 1)?);
    let object = first(first(frame, 2)?, 1)?.strip_prefix(b"k8s\0")?;
    let metadata = first(first(object, 2)?, 1)?;
    let ends = |annotation: &[u8]| first(annotation, 1) == Some(END.as_bytes());
    Some(Told {
        kind,
        name: text(first(metadata, 1).unwrap_or_default()),
        version: text(first(metadata, 6)?).parse().ok()?,
        ends_list: fields(metadata).any(|(number, value)| number == 12 && ends(value)),
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn first(message: &[u8], number: u64) -> Option<&[u8]> {
    let mut fields = fields(message);
    fields.find(|field| field.0 == number).map(|field| field.1)
}

/// The fields that are texts, bytes or messages, up to one that is neither they nor a number.
fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || {
        loop {
            let key = varint(&mut message)?;
            let value = varint(&mut message)?;
            match key & 7 {
                0 => {}
                2 => {
                    let (field, rest) = message.split_at_checked(usize::try_from(value).ok()?)?;
                    message = rest;
                    return Some((key >> 3, field));
                }
                _ => return None,
            }
        }
    })
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

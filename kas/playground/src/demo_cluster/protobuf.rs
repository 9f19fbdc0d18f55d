//! Bodies in Kubernetes' protobuf encoding, which its own Go clients prefer to send.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::clock;
use super::failure::Failure;
use super::schema::{self, Field, Type};

mod wire;

use wire::{Content, Reader};

/// What every encoded object begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Decodes an object into what it would be as JSON.
///
/// # Errors
/// Refuses bytes that are not protobuf and kinds that are not known.
pub(crate) fn decode(bytes: &[u8]) -> Result<Value, Failure> {
    object(bytes).ok_or_else(|| Failure::bad_request("the body is not a protobuf object we know"))
}

fn object(bytes: &[u8]) -> Option<Value> {
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for entry in Reader::new(bytes.strip_prefix(MAGIC)?) {
        match entry? {
            (1, Content::Bytes(meta)) => {
                for entry in Reader::new(meta) {
                    match entry? {
                        (1, Content::Bytes(bytes)) => api_version = text(bytes)?,
                        (2, Content::Bytes(bytes)) => kind = text(bytes)?,
                        _ => {}
                    }
                }
            }
            (2, Content::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let fields = schema::fields(&kind);
    if fields.is_empty() {
        return None;
    }
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), json!(api_version));
    object.insert("kind".to_owned(), json!(kind));
    message(fields, raw, &mut object)?;
    Some(Value::Object(object))
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

fn message(fields: &[Field], bytes: &[u8], object: &mut Map<String, Value>) -> Option<()> {
    for entry in Reader::new(bytes) {
        let (number, content) = entry?;
        if let Some(field) = fields.iter().find(|field| field.number == number) {
            member(field, content, object)?;
        }
    }
    Some(())
}

fn member(field: &Field, content: Content<'_>, object: &mut Map<String, Value>) -> Option<()> {
    if let (Some(inner), Content::Bytes(bytes)) = (field.flat(), content) {
        return message(schema::fields(inner), bytes, object);
    }
    match (&field.kind, content) {
        (Type::List(item), content) => {
            let list = object.entry(field.name).or_insert_with(|| json!([]));
            list.as_array_mut()?.push(value(item, content)?);
        }
        (Type::Map(item), Content::Bytes(bytes)) => {
            let (key, value) = pair(item, bytes)?;
            let map = object.entry(field.name).or_insert_with(|| json!({}));
            map.as_object_mut()?.insert(key, value);
        }
        (kind, content) => {
            let value = value(kind, content)?;
            if !value.is_null() && (field.optional || !is_empty(&value)) {
                object.insert(field.name.to_owned(), value);
            }
        }
    }
    Some(())
}

/// Go writes fields that are not pointers even when they are empty; JSON leaves them out.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

fn pair(item: &Type, bytes: &[u8]) -> Option<(String, Value)> {
    let (mut key, mut found) = (String::new(), empty(item));
    for entry in Reader::new(bytes) {
        match entry? {
            (1, Content::Bytes(bytes)) => key = text(bytes)?,
            (2, content) => found = value(item, content)?,
            _ => {}
        }
    }
    Some((key, found))
}

fn empty(kind: &Type) -> Value {
    match kind {
        Type::Integer => json!(0),
        Type::Flag => json!(false),
        Type::List(_) | Type::Texts => json!([]),
        Type::Object(_) | Type::Map(_) => json!({}),
        Type::Text
        | Type::Bytes
        | Type::Time
        | Type::MicroTime
        | Type::Quantity
        | Type::IntOrText
        | Type::Raw => json!(""),
    }
}

fn value(kind: &Type, content: Content<'_>) -> Option<Value> {
    match (kind, content) {
        (Type::Integer, Content::Number(number)) => Some(json!(number)),
        (Type::Flag, Content::Number(number)) => Some(json!(number != 0)),
        (Type::Text, Content::Bytes(bytes)) => text(bytes).map(Value::from),
        (Type::Bytes, Content::Bytes(bytes)) => Some(json!(STANDARD.encode(bytes))),
        (Type::Time, Content::Bytes(bytes)) => time(bytes, clock::seconds),
        (Type::MicroTime, Content::Bytes(bytes)) => time(bytes, clock::microseconds),
        (Type::Quantity, Content::Bytes(bytes)) => Some(wire::first_text(bytes, 1)?.into()),
        (Type::IntOrText, Content::Bytes(bytes)) => int_or_text(bytes),
        (Type::Raw, Content::Bytes(bytes)) => {
            serde_json::from_str(&wire::first_text(bytes, 1)?).ok()
        }
        (Type::Texts, Content::Bytes(bytes)) => Reader::new(bytes)
            .map(|entry| match entry? {
                (1, Content::Bytes(bytes)) => text(bytes).map(Value::from),
                _ => None,
            })
            .collect(),
        (Type::Object(name), Content::Bytes(bytes)) => {
            let mut object = Map::new();
            message(schema::fields(name), bytes, &mut object)?;
            Some(Value::Object(object))
        }
        _ => None,
    }
}

/// Null for the zero time, which Go writes as an empty message.
fn time(bytes: &[u8], write: fn(Timestamp) -> String) -> Option<Value> {
    if bytes.is_empty() {
        return Some(Value::Null);
    }
    let seconds = wire::first_number(bytes, 1)?;
    let nanoseconds = i32::try_from(wire::first_number(bytes, 2)?).ok()?;
    let time = Timestamp::new(seconds, nanoseconds).ok()?;
    Some(json!(write(time)))
}

fn int_or_text(bytes: &[u8]) -> Option<Value> {
    if wire::first_number(bytes, 1)? == 0 {
        return Some(json!(wire::first_number(bytes, 2)?));
    }
    Some(wire::first_text(bytes, 3)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        [&[number << 3 | 2, length], content].concat()
    }

    fn envelope(kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [part(1, b"apps/v1"), part(2, kind.as_bytes())].concat();
        [MAGIC, &part(1, &meta), &part(2, raw)].concat()
    }

    #[test]
    fn objects_are_decoded_by_their_schema() {
        let label = [part(1, b"app"), part(2, b"x")].concat();
        let metadata = [
            part(1, b"web"),
            part(2, b""),
            part(8, b""),
            part(11, &label),
        ]
        .concat();
        let spec = [vec![1 << 3, 0], part(4, b""), vec![7 << 3, 1]].concat();
        let raw = [part(1, &metadata), part(2, &spec), part(3, b"")].concat();

        let decoded = decode(&envelope("Deployment", &raw)).unwrap();

        assert_eq!(
            decoded,
            json!({"apiVersion": "apps/v1", "kind": "Deployment",
                   "metadata": {"name": "web", "labels": {"app": "x"}},
                   "spec": {"replicas": 0, "paused": true}})
        );
    }

    #[test]
    fn broken_bytes_are_refused() {
        let good = envelope("Deployment", &part(1, &part(1, b"web")));

        assert_eq!(decode(b"{}").unwrap_err().code, 400);
        assert_eq!(decode(&envelope("Nothing", b"")).unwrap_err().code, 400);
        for end in MAGIC.len() + 1..good.len() {
            let _ = decode(&good[..end]);
        }
        assert!(decode(&good).is_ok());
    }
}

//! Whether a rule has sessions recorded, as it is written: `true`, `false` or `required`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::RecordSessions;

/// How it is written where recordings are a must.
const REQUIRED: &str = "required";

impl RecordSessions {
    /// Whether a rule says nothing of it.
    pub(super) fn is_no(&self) -> bool {
        *self == Self::No
    }
}

impl Serialize for RecordSessions {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::No => to.serialize_bool(false),
            Self::Yes => to.serialize_bool(true),
            Self::Required => to.serialize_str(REQUIRED),
        }
    }
}

impl<'de> Deserialize<'de> for RecordSessions {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Visitor)
    }
}

/// How it is written.
#[cfg(test)]
#[derive(schemars::JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "for the schema only")]
pub(super) enum RecordForm {
    /// Whether sessions are recorded where that is possible.
    Wanted(bool),
    /// There is no session without a recording.
    Required(Required),
}

/// There is no session without a recording.
#[cfg(test)]
#[derive(schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "for the schema only")]
pub(super) enum Required {
    /// There is no session without a recording.
    Required,
}

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = RecordSessions;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true, false or required")
    }

    fn visit_bool<E: de::Error>(self, wanted: bool) -> Result<RecordSessions, E> {
        Ok(match wanted {
            true => RecordSessions::Yes,
            false => RecordSessions::No,
        })
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<RecordSessions, E> {
        if text == REQUIRED {
            return Ok(RecordSessions::Required);
        }
        Err(E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

//! What the layer puts around maps and lists, so that it goes on below them.

use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, Error, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess,
    Visitor,
};

use super::{Noting, SPANNED};
use crate::yaml::{
    Spanned,
    noting::{Place, UNKNOWN},
};

/// The keys of a struct, without those that it does not know.
pub(super) struct Keys<'n, A> {
    inner: A,
    place: Place<'n>,
    /// The place of the value that comes next.
    below: Place<'n>,
    fields: &'static [&'static str],
    unknown: Unknown,
}

/// Whether a struct that wants to know had a key that it does not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Unknown {
    #[default]
    NotSeen,
    Seen,
    /// It is being told.
    Telling,
    Told,
}

impl<'n, A> Keys<'n, A> {
    pub(super) fn new(inner: A, place: Place<'n>, fields: &'static [&'static str]) -> Self {
        Self {
            inner,
            below: place.clone(),
            place,
            fields,
            unknown: Unknown::default(),
        }
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Keys<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.inner.next_key::<Spanned<String>>()? {
            let is_known = self.fields.contains(&key.value.as_str()) && key.value != UNKNOWN;
            if is_known {
                self.below = self.place.below(&key.value);
                return seed.deserialize(key.value.into_deserializer()).map(Some);
            }
            self.place.note(&key, self.fields);
            self.inner.next_value::<IgnoredAny>()?;
            if self.unknown == Unknown::NotSeen {
                self.unknown = Unknown::Seen;
            }
        }
        if self.unknown == Unknown::Seen && self.fields.contains(&UNKNOWN) {
            self.unknown = Unknown::Telling;
            return seed.deserialize(UNKNOWN.into_deserializer()).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        if self.unknown == Unknown::Telling {
            self.unknown = Unknown::Told;
            return seed.deserialize(true.into_deserializer());
        }
        self.inner.next_value_seed(Below {
            seed,
            place: self.below.clone(),
        })
    }
}

/// The items of a list.
pub(super) struct Items<'n, A> {
    inner: A,
    place: Place<'n>,
    index: usize,
}

impl<'n, A> Items<'n, A> {
    pub(super) fn new(inner: A, place: Place<'n>) -> Self {
        Self {
            inner,
            place,
            index: 0,
        }
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Items<'_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        let place = self.place.item(self.index);
        self.index += 1;
        self.inner.next_element_seed(Inside { seed, place })
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

/// The parts of a value with its place in the text.
pub(super) struct SpannedParts<'n, A> {
    inner: A,
    place: Place<'n>,
    /// Whether the value comes next, and not its place.
    is_value: bool,
}

impl<'n, A> SpannedParts<'n, A> {
    pub(super) fn new(inner: A, place: Place<'n>) -> Self {
        Self {
            inner,
            place,
            is_value: false,
        }
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for SpannedParts<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        let Some(key) = self.inner.next_key::<String>()? else {
            return Ok(None);
        };
        self.is_value = key == "value";
        seed.deserialize(key.into_deserializer()).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        if !self.is_value {
            return self.inner.next_value_seed(seed);
        }
        let place = self.place.clone();
        self.inner.next_value_seed(Inside { seed, place })
    }
}

/// A seed for the value of a key, whose place is kept.
struct Below<'n, S> {
    seed: S,
    place: Place<'n>,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Below<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        inner.deserialize_newtype_struct(SPANNED, self)
    }
}

/// The library gives a value with its place as a newtype around a map.
impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for Below<'_, S> {
    type Value = S::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        inner.deserialize_any(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<S::Value, A::Error> {
        let Self { seed, place } = self;
        let before = place.seen.null.replace(false);
        let (mut seed, mut value, mut line_column) = (Some(seed), None, None);
        while let Some(part) = map.next_key::<String>()? {
            match part.as_str() {
                "value" => {
                    let place = place.clone();
                    let Some(seed) = seed.take() else { continue };
                    value = Some(map.next_value_seed(Inside { seed, place })?);
                }
                // Where the value stands, and where an alias in its place was defined.
                "referenced" | "defined" => {
                    let location = map.next_value::<serde_saphyr::Location>()?;
                    line_column.get_or_insert((location.line(), location.column()));
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let is_null = place.seen.null.replace(before);
        if let Some(line_column) = line_column.filter(|_| !is_null) {
            place
                .seen
                .places
                .borrow_mut()
                .insert(place.path, line_column);
        }
        value.ok_or_else(|| A::Error::missing_field("value"))
    }
}

/// A seed that is sown with our layer around the deserializer.
struct Inside<'n, S> {
    seed: S,
    place: Place<'n>,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Inside<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        self.seed.deserialize(Noting::around(inner, self.place))
    }
}

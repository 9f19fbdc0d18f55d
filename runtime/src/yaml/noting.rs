//! Reads a document whose unknown keys are noted and skipped, not refused.
//!
//! A layer around the YAML deserializer: it sees which keys a struct knows,
//! and hands on only those.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt,
    path::Path,
};

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny,
    IntoDeserializer, MapAccess, SeqAccess, Visitor,
};

use super::{Mistake, Spot, mistake, options, unknown};

/// The name by which a value asks for its place in the text.
const SPOT: &str = "__yaml_spanned";
/// The name of a struct's field, a bool, that is set when there was a key that the struct does not know.
pub(super) const UNKNOWN: &str = "__unknown";

/// What aliases may unfold to, so that a short text does not become a long one.
const REPLAYED_EVENTS_MAX: usize = 20_000;

/// Keys that nobody knows which are noted: each takes up a hundred times as much as it has bytes.
const NOTED_KEYS_MAX: usize = 100;

/// A key that nobody knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKey {
    /// Its line, from 1.
    pub line: u64,
    /// Its column, from 1.
    pub column: u64,
    /// The keys that lead to it, with dots between.
    pub path: String,
    /// What it may have been meant to be.
    pub message: String,
}

/// Line and column of each key's value, by the keys that lead to it with dots between. Null is no value.
pub(super) type Places = HashMap<String, (u64, u64)>;

/// What is seen besides the value.
#[derive(Default)]
struct Seen {
    unknown: RefCell<Vec<UnknownKey>>,
    places: RefCell<Places>,
    /// Whether the value that was read last is null.
    null: Cell<bool>,
}

/// Reads a whole document as Go's YAML does (`yes` and `on` are booleans, of keys that are given twice the last
/// one counts), and notes the keys that its type does not know, in sections and in lists: the first hundred.
///
/// A field `__unknown` of type bool, which no document can name, is true in a struct that had such a key.
///
/// # Errors
/// The first mistake, and where it is.
pub fn read_noting<T: DeserializeOwned>(
    file: &Path,
    text: &str,
) -> Result<(T, Vec<UnknownKey>), Mistake> {
    let (value, unknown, _) = read_by(file, text, lenient_options())?;
    Ok((value, unknown))
}

/// Reads the same document as it was written.
///
/// # Errors
/// The first mistake, and where it is.
pub fn read_written(file: &Path, text: &str) -> Result<serde_json::Value, Mistake> {
    let read: Result<Option<serde_json::Value>, _> =
        serde_saphyr::from_str_with_options(text, lenient_options());
    let value = read.map_err(|error| mistake(file, text, &error))?;
    Ok(value.unwrap_or_default())
}

fn lenient_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: false,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: REPLAYED_EVENTS_MAX },
    }
}

/// The same, with the places of values.
pub(super) fn read_placed<T: DeserializeOwned>(
    file: &Path,
    text: &str,
) -> Result<(T, Vec<UnknownKey>, Places), Mistake> {
    read_by(file, text, options())
}

fn read_by<T: DeserializeOwned>(
    file: &Path,
    text: &str,
    options: serde_saphyr::Options,
) -> Result<(T, Vec<UnknownKey>, Places), Mistake> {
    let seen = Seen::default();
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options, |inner| {
        T::deserialize(Noting {
            inner,
            place: Place {
                path: String::new(),
                seen: &seen,
            },
            in_spot: false,
        })
    });
    let value = read.map_err(|error| mistake(file, text, &error))?;
    Ok((value, seen.unknown.into_inner(), seen.places.into_inner()))
}

/// Where in the document something is.
#[derive(Clone)]
struct Place<'n> {
    path: String,
    seen: &'n Seen,
}

impl Place<'_> {
    fn below(&self, key: &str) -> Self {
        let path = match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        Self {
            path,
            seen: self.seen,
        }
    }

    fn item(&self, index: usize) -> Self {
        Self {
            path: format!("{}[{index}]", self.path),
            seen: self.seen,
        }
    }

    fn note(&self, key: &Spot<String>, known: &[&str]) {
        let mut noted = self.seen.unknown.borrow_mut();
        if noted.len() >= NOTED_KEYS_MAX {
            return;
        }
        noted.push(UnknownKey {
            line: key.referenced.line(),
            column: key.referenced.column(),
            path: self.below(&key.value).path,
            message: unknown("key", &key.value, known),
        });
    }
}

/// A deserializer that looks at the structs on its way.
struct Noting<'n, D> {
    inner: D,
    place: Place<'n>,
    /// Whether it stands for a value with its place in the text.
    in_spot: bool,
}

macro_rules! forward {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method(visitor)
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Noting<'_, D> {
    type Error = D::Error;

    forward! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char deserialize_str
        deserialize_string deserialize_bytes deserialize_byte_buf deserialize_unit
        deserialize_map deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        if !self.in_spot {
            return self.inner.deserialize_any(visitor);
        }
        self.inner.deserialize_any(Looking {
            visitor,
            place: self.place,
            kind: Kind::Spot,
        })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_seq(Looking {
            visitor,
            place: self.place,
            kind: Kind::Wrapper { spot: false },
        })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_option(Looking {
            visitor,
            place: self.place,
            kind: Kind::Wrapper { spot: false },
        })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let looking = Looking {
            visitor,
            place: self.place,
            kind: Kind::Wrapper { spot: name == SPOT },
        };
        self.inner.deserialize_newtype_struct(name, looking)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let looking = Looking {
            visitor,
            place: self.place,
            kind: Kind::Struct { fields },
        };
        self.inner.deserialize_struct(name, fields, looking)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        n: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_tuple(n, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        n: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_tuple_struct(name, n, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_enum(name, variants, visitor)
    }
}

/// What is being looked at.
#[derive(Clone, Copy)]
enum Kind {
    /// A struct with these keys.
    Struct { fields: &'static [&'static str] },
    /// An option, or a type around another.
    Wrapper { spot: bool },
    /// The map that a value with its place in the text is given as.
    Spot,
}

/// A visitor that goes on looking below.
struct Looking<'n, V> {
    visitor: V,
    place: Place<'n>,
    kind: Kind,
}

macro_rules! visit {
    ($($method:ident: $type:ty),*) => {
        $(fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.visitor.$method(value)
        })*
    };
}

impl<'n, 'de, V: Visitor<'de>> Visitor<'de> for Looking<'n, V> {
    type Value = V::Value;

    visit! {
        visit_bool: bool, visit_i64: i64, visit_i128: i128, visit_u64: u64, visit_u128: u128,
        visit_f64: f64, visit_char: char, visit_str: &str, visit_borrowed_str: &'de str,
        visit_string: String, visit_bytes: &[u8], visit_borrowed_bytes: &'de [u8],
        visit_byte_buf: Vec<u8>
    }

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.place.seen.null.set(true);
        self.visitor.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.place.seen.null.set(true);
        self.visitor.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Noting {
            inner,
            place: self.place,
            in_spot: false,
        })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_newtype_struct(Noting {
            inner,
            place: self.place,
            in_spot: matches!(self.kind, Kind::Wrapper { spot: true }),
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_seq(Items {
            inner: seq,
            place: self.place,
            index: 0,
        })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_enum(data)
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        match self.kind {
            Kind::Struct { fields } => self.visitor.visit_map(Keys {
                inner,
                below: self.place.clone(),
                place: self.place,
                fields,
                unknown: Unknown::default(),
            }),
            Kind::Spot => self.visitor.visit_map(SpotParts {
                inner,
                place: self.place,
                is_value: false,
            }),
            Kind::Wrapper { .. } => self.visitor.visit_map(inner),
        }
    }
}

/// The keys of a struct, without those that it does not know.
struct Keys<'n, A> {
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

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Keys<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.inner.next_key::<Spot<String>>()? {
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
struct Items<'n, A> {
    inner: A,
    place: Place<'n>,
    index: usize,
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
struct SpotParts<'n, A> {
    inner: A,
    place: Place<'n>,
    /// Whether the value comes next, and not its place.
    is_value: bool,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for SpotParts<'_, A> {
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
        inner.deserialize_newtype_struct(SPOT, self)
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
        self.seed.deserialize(Noting {
            inner,
            place: self.place,
            in_spot: false,
        })
    }
}

#[cfg(test)]
mod tests;

//! The layer: a deserializer and a visitor that look at what passes.

mod access;

use std::fmt;

use serde::de::{Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};

use super::Place;
use access::{Items, Keys, SpannedParts};

/// The name by which a value asks for its place in the text.
const SPANNED: &str = "__yaml_spanned";

/// A deserializer that looks at the structs on its way.
pub(super) struct Noting<'n, D> {
    inner: D,
    place: Place<'n>,
    /// Whether it stands for a value with its place in the text.
    is_spanned: bool,
}

impl<'n, D> Noting<'n, D> {
    /// A layer around the deserializer of what stands at this place.
    pub(super) fn around(inner: D, place: Place<'n>) -> Self {
        Self {
            inner,
            place,
            is_spanned: false,
        }
    }
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
        if !self.is_spanned {
            return self.inner.deserialize_any(visitor);
        }
        self.inner.deserialize_any(Looking {
            visitor,
            place: self.place,
            kind: Kind::Spanned,
        })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_seq(Looking {
            visitor,
            place: self.place,
            kind: Kind::Wrapper { spanned: false },
        })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_option(Looking {
            visitor,
            place: self.place,
            kind: Kind::Wrapper { spanned: false },
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
            kind: Kind::Wrapper {
                spanned: name == SPANNED,
            },
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
    Wrapper { spanned: bool },
    /// The map that a value with its place in the text is given as.
    Spanned,
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
        self.visitor.visit_some(Noting::around(inner, self.place))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_newtype_struct(Noting {
            inner,
            place: self.place,
            is_spanned: matches!(self.kind, Kind::Wrapper { spanned: true }),
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_seq(Items::new(seq, self.place))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_enum(data)
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        match self.kind {
            Kind::Struct { fields } => self.visitor.visit_map(Keys::new(inner, self.place, fields)),
            Kind::Spanned => self.visitor.visit_map(SpannedParts::new(inner, self.place)),
            Kind::Wrapper { .. } => self.visitor.visit_map(inner),
        }
    }
}

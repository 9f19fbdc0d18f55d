//! Sections of a configuration file: one struct each that is read, checked, and shown.
//!
//! A key is one field of a [`section!`](crate::section), with its default. Whatever is absent, null, an empty
//! text or the number zero stands for the default, as in GitLab's kas; a duration of zero is one.

use std::{cell::RefCell, fmt, marker::PhantomData, path::Path, path::PathBuf};

use serde::{
    Serialize, Serializer,
    de::{Deserialize, DeserializeOwned, Deserializer},
};

use super::{
    Mistake, NonEmpty, PositiveSeconds, Seconds, UnknownKey,
    noting::{Places, read_placed},
};

/// What a key of a section may hold.
pub trait Setting: Sized {
    /// Whether the value is one, and does not stand for the default.
    fn is_given(&self) -> bool {
        true
    }

    /// The value that counts, where this one was written.
    #[must_use]
    fn or(self, default: Self) -> Self {
        if self.is_given() { self } else { default }
    }

    /// Finds mistakes and notes keys without effect, here and below.
    ///
    /// # Errors
    /// The first mistake.
    fn check(&self, _at: &At<'_>) -> Result<(), Mistake> {
        Ok(())
    }
}

/// Defines a section: a struct whose fields are keys, each with its default; a key without one is required.
///
/// `check = method;` names a method `(&self, &At) -> Result<(), Mistake>` for rules that one value alone cannot
/// know. `or = method;` replaces [`Setting::or`](crate::yaml::Setting::or).
#[macro_export]
macro_rules! section {
    (@read $type:ty) => { $type };
    (@read $type:ty, $default:expr) => { ::std::option::Option<$type> };
    (@take $given:expr) => { $given };
    (@take $given:expr, $default:expr) => {
        match $given {
            ::std::option::Option::Some(given) => $crate::yaml::Setting::or(given, $default),
            ::std::option::Option::None => $default,
        }
    };
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident: Default {
            $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $type:ty = $default:expr,)*
        }
        $(check = $check:ident;)?
        $(or = $or:ident;)?
    ) => {
        $crate::section! {
            $(#[$meta])*
            $vis struct $name {
                $($(#[$field_meta])* $field_vis $field: $type = $default,)*
            }
            $(check = $check;)?
            $(or = $or;)?
        }

        impl ::std::default::Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $type:ty $(= $default:expr)?,)*
        }
        $(check = $check:ident;)?
        $(or = $or:ident;)?
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, ::serde::Serialize)]
        $vis struct $name {
            $($(#[$field_meta])* $field_vis $field: $type,)*
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(
                deserializer: D,
            ) -> ::std::result::Result<Self, D::Error> {
                #[derive(::serde::Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Given {
                    $($field: $crate::section!(@read $type $(, $default)?),)*
                }
                let given = Given::deserialize(deserializer)?;
                Ok(Self {
                    $($field: $crate::section!(@take given.$field $(, $default)?),)*
                })
            }
        }

        impl $crate::yaml::Setting for $name {
            $(fn or(self, default: Self) -> Self {
                self.$or(default)
            })?

            fn check(
                &self,
                at: &$crate::yaml::At<'_>,
            ) -> ::std::result::Result<(), $crate::yaml::Mistake> {
                $($crate::yaml::Setting::check(&self.$field, &at.key(stringify!($field)))?;)*
                $(self.$check(at)?;)?
                Ok(())
            }
        }
    };
}

/// A key without effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Line and column, for a key that nobody knows.
    pub place: Option<(u64, u64)>,
    /// The keys that lead to it, with dots between.
    pub path: String,
    /// Why it has no effect.
    pub why: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.place {
            write!(f, "{line}:{column}: ")?;
        }
        write!(f, "{} is ignored: {}", self.path, self.why)
    }
}

impl From<UnknownKey> for Note {
    fn from(key: UnknownKey) -> Self {
        Self {
            place: Some((key.line, key.column)),
            path: key.path,
            why: key.message,
        }
    }
}

/// Reads and checks a whole file; also gives its keys without effect, unknown ones first.
///
/// # Errors
/// The first mistake, and where it is.
pub fn read_section<T: DeserializeOwned + Setting>(
    file: &Path,
    text: &str,
) -> Result<(T, Vec<Note>), Mistake> {
    let (value, unknown, places) = read_placed::<T>(file, text)?;
    let context = Context {
        file,
        places,
        notes: RefCell::default(),
    };
    value.check(&At {
        path: String::new(),
        context: &context,
    })?;
    let mut without_effect = context.notes.into_inner();
    without_effect.sort_by_key(|note| context.places.get(&note.path).copied());
    let notes = unknown.into_iter().map(Note::from);
    Ok((value, notes.chain(without_effect).collect()))
}

#[derive(Debug)]
struct Context<'a> {
    file: &'a Path,
    places: Places,
    notes: RefCell<Vec<Note>>,
}

/// A key of the file that is being checked.
#[derive(Debug)]
pub struct At<'a> {
    path: String,
    context: &'a Context<'a>,
}

impl At<'_> {
    /// The keys that lead to it, with dots between.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A key of this section.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        let path = match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        Self {
            path,
            context: self.context,
        }
    }

    /// Whether the file has the key.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.context.places.contains_key(&self.path)
    }

    /// A mistake in its value; at the start of the file if it is not there.
    #[must_use]
    pub fn mistake(&self, message: impl Into<String>) -> Mistake {
        let place = self.context.places.get(&self.path);
        let (line, column) = place.copied().unwrap_or((1, 1));
        Mistake {
            file: self.context.file.to_owned(),
            line,
            column,
            message: message.into(),
        }
    }

    /// Notes that it has no effect.
    pub fn note(&self, why: &str) {
        self.context.notes.borrow_mut().push(Note {
            place: None,
            path: self.path.clone(),
            why: why.to_owned(),
        });
    }
}

/// Refuses the path of a URL that does not begin with `/`.
///
/// # Errors
/// The path.
pub fn check_url_path(at: &At<'_>, path: &str) -> Result<(), Mistake> {
    if path.starts_with('/') {
        return Ok(());
    }
    Err(at.mistake(format!("the URL path `{path}` must start with /")))
}

/// Why a key has no effect.
pub trait Reason {
    /// The reason, for the user.
    const WHY: &'static str;
}

/// A key that is accepted and has no effect: whoever writes it is told the reason `W`.
#[derive(Clone)]
pub struct NoEffect<T, W> {
    value: T,
    given: bool,
    why: PhantomData<fn() -> W>,
}

impl<T, W> NoEffect<T, W> {
    /// What is shown where the key is absent.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self {
            value,
            given: false,
            why: PhantomData,
        }
    }

    /// What is shown.
    #[must_use]
    pub fn get(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug, W> fmt::Debug for NoEffect<T, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// Whatever has no effect makes no difference.
impl<T, W> PartialEq for NoEffect<T, W> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<'de, T: Deserialize<'de>, W> Deserialize<'de> for NoEffect<T, W> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = T::deserialize(deserializer)?;
        Ok(Self {
            given: true,
            ..Self::new(value)
        })
    }
}

impl<T: Serialize, W> Serialize for NoEffect<T, W> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<T: Setting, W: Reason> Setting for NoEffect<T, W> {
    fn or(self, default: Self) -> Self {
        Self {
            value: self.value.or(default.value),
            ..self
        }
    }

    fn check(&self, at: &At<'_>) -> Result<(), Mistake> {
        if self.given {
            at.note(W::WHY);
        }
        self.value.check(at)
    }
}

impl<T: Setting> Setting for Option<T> {
    fn is_given(&self) -> bool {
        self.as_ref().is_some_and(T::is_given)
    }

    fn check(&self, at: &At<'_>) -> Result<(), Mistake> {
        self.as_ref().map_or(Ok(()), |it| it.check(at))
    }
}

impl<T> Setting for Vec<T> {}
impl Setting for bool {}
impl Setting for NonEmpty {}
impl Setting for super::FilePath {}
impl Setting for Seconds {}
impl Setting for PositiveSeconds {}
impl Setting for serde::de::IgnoredAny {}
impl Setting for crate::telemetry::LogLevel {}

impl Setting for u32 {
    fn is_given(&self) -> bool {
        *self != 0
    }
}

impl Setting for f64 {
    fn is_given(&self) -> bool {
        *self != 0.0
    }
}

impl Setting for String {
    fn is_given(&self) -> bool {
        !self.is_empty()
    }
}

impl Setting for PathBuf {
    fn is_given(&self) -> bool {
        !self.as_os_str().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    section! {
        /// All kinds of keys.
        struct Document: Default {
            /// A section.
            inner: Inner = Inner::default(),
            /// One that may be absent.
            other: Option<Other> = None,
            /// One without effect.
            old: NoEffect<u32, Old> = NoEffect::new(5),
        }
    }

    section! {
        /// Values with defaults.
        struct Inner: Default {
            /// A number.
            number: u32 = 7,
            /// A text.
            text: String = "seven".to_owned(),
            /// A duration.
            time: Seconds = Seconds::new(7),
        }
        check = check_number;
    }

    section! {
        /// A key that must be there.
        struct Other {
            /// It.
            name: NonEmpty,
        }
    }

    /// Why `old` has none.
    #[derive(Debug, Clone, Copy)]
    enum Old {}

    impl Reason for Old {
        const WHY: &'static str = "it is old";
    }

    impl Inner {
        fn check_number(&self, at: &At<'_>) -> Result<(), Mistake> {
            if self.number > 100 {
                return Err(at.key("number").mistake("too large"));
            }
            Ok(())
        }
    }

    fn read(text: &str) -> Result<(Document, Vec<Note>), Mistake> {
        read_section(Path::new("f"), text)
    }

    #[test]
    fn what_is_absent_null_empty_or_zero_is_the_default_but_no_time_is_a_time() {
        for text in ["", "inner:", "inner: {}", "inner: {number: 0, text: ''}"] {
            assert_eq!(read(text).unwrap().0, Document::default(), "{text}");
        }
        let time = read("inner: {time: 0s}").unwrap().0.inner.time;
        assert_eq!(time, Seconds::new(0));
    }

    #[test]
    fn a_required_key_is_missed_and_a_rule_points_at_its_key() {
        let missing = read("other: {}").unwrap_err().to_string();
        assert!(missing.contains("`name` is missing"), "{missing}");

        let wrong = read("inner:\n  text: a\n  number: 101\n").unwrap_err();
        assert_eq!(wrong.to_string(), "f:3:11: too large");
    }

    #[test]
    fn keys_without_effect_and_unknown_ones_are_noted() {
        let (_, notes) = read("inner: {nunber: 1}\nold: 3\n").unwrap();

        let notes: Vec<_> = notes.iter().map(ToString::to_string).collect();
        assert_eq!(
            notes,
            [
                "1:9: inner.nunber is ignored: unknown key `nunber`, did you mean `number`?",
                "old is ignored: it is old",
            ]
        );
        assert!(read("old:").unwrap().1.is_empty(), "null is absent");
    }
}

//! Sections of a configuration file: one struct each that is read, checked, and shown.
//!
//! A key is one field of a [`section!`](crate::section), with its default. Whatever is absent, null, an empty
//! text or the number zero stands for the default, as in GitLab's kas; a duration of zero is one.

mod no_effect;
mod reading;

use std::path::PathBuf;

use super::{FilePath, NonEmpty, PositiveSeconds, Seconds, YamlError};

pub use no_effect::{NoEffect, Reason};
pub use reading::{At, Note, read_section};

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
    fn check(&self, _at: &At<'_>) -> Result<(), YamlError> {
        Ok(())
    }
}

/// Defines a section: a struct whose fields are keys, each with its default; a key without one is required.
///
/// `check = method;` names a method `(&self, &At) -> Result<(), YamlError>` for rules that one value alone cannot
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
            ) -> ::std::result::Result<(), $crate::yaml::YamlError> {
                $($crate::yaml::Setting::check(&self.$field, &at.key(stringify!($field)))?;)*
                $(self.$check(at)?;)?
                Ok(())
            }
        }
    };
}

/// Refuses the path of a URL that does not begin with `/`.
///
/// # Errors
/// The path.
pub fn check_url_path(at: &At<'_>, path: &str) -> Result<(), YamlError> {
    if path.starts_with('/') {
        return Ok(());
    }
    Err(at.mistake(format!("the URL path `{path}` must start with /")))
}

impl<T: Setting> Setting for Option<T> {
    fn is_given(&self) -> bool {
        self.as_ref().is_some_and(T::is_given)
    }

    fn check(&self, at: &At<'_>) -> Result<(), YamlError> {
        self.as_ref().map_or(Ok(()), |it| it.check(at))
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn check(&self, at: &At<'_>) -> Result<(), YamlError> {
        self.iter().try_for_each(|it| it.check(at))
    }
}

impl Setting for bool {}
impl Setting for NonEmpty {}
impl Setting for FilePath {}
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
mod tests;

//! Keys that are accepted and have no effect.

use std::{fmt, marker::PhantomData};

use serde::{
    Serialize, Serializer,
    de::{Deserialize, Deserializer},
};

use super::{At, Setting};
use crate::yaml::YamlError;

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

    fn check(&self, at: &At<'_>) -> Result<(), YamlError> {
        if self.given {
            at.note(W::WHY);
        }
        self.value.check(at)
    }
}

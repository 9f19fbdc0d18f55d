//! Secrets that stand in the configuration. Those in files of their own are read by
//! `runtime::jwt::Secret`.

use runtime::yaml::Setting;
use serde::{Deserialize, Serialize, Serializer};
use zeroize::ZeroizeOnDrop;

/// What stands in the place of a secret.
const HIDDEN: &str = "<hidden>";

/// A secret text whose `Debug` shows nothing of it, and whose memory is zeroed when it goes.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret itself; never to be logged.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "…" })
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "" } else { HIDDEN })
    }
}

impl Setting for Secret {}

//! Claims that only one replica wins, such as the use of a one-time token.

use std::{fmt::Debug, time::Duration};

use crate::store::StoreFuture;

/// One-time claims of all replicas together.
pub trait OneTimeClaims: Debug + Send + Sync + 'static {
    /// Whether this is the first claim of `name` by any replica within `ttl`.
    /// A claim that failed may count nevertheless.
    fn claim<'a>(&'a self, name: &'a str, ttl: Duration) -> StoreFuture<'a, bool>;
}

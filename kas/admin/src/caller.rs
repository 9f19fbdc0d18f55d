//! Who asks, as the port has found it out.

use std::sync::Arc;

/// Who makes a request.
#[derive(Debug, Clone)]
pub(crate) struct Caller(pub(crate) Arc<str>);

//! What the fuzz targets need of this crate beyond what everybody may use (`tests/fuzz`).

use tokio::io::AsyncRead;

use crate::authority::AuthorityFilter;

/// An HTTP/2 connection, from its very first byte, in which every `:authority` is acceptable.
pub fn authority_filter<S: AsyncRead + Unpin>(inner: S) -> impl AsyncRead + Unpin {
    AuthorityFilter::new(inner)
}

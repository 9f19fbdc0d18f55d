//! The connection to an agent that was dialled.

use runtime::io::{ByteStream, Heard};

/// HTTP/2 to an agent, as the client.
pub(super) struct Http2 {
    pub(super) connection: h2::client::Connection<ByteStream, proto::frame::Frame>,
    pub(super) heard: Heard,
}

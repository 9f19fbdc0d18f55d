//! gRPC on HTTP/2 connections of our own: tonic's services and clients, and
//! the few things that long-lived streams need instead of them.
//!
//! tonic brings services and clients, h2 the connection. [`serve`] runs a
//! service on an accepted stream, [`Channel`] is what a client calls through.

mod bearer;
mod body;
mod carried;
mod channel;
mod content_type;
mod former_names;
mod keepalive;
mod liveness;
mod message;
mod metrics;
mod serve;
mod status;
mod unary;

pub use bearer::bearer;
pub use body::StreamBody;
pub use carried::{Outgoing, attach, carried, outgoing};
pub use channel::{CallFailed, Channel};
pub use content_type::reject_non_grpc;
pub use former_names::{FormerNames, with_present_name};
pub use keepalive::{Keepalive, KeepaliveOptions, Pinger};
pub use liveness::{ProbeTimeouts, unresponsive};
pub use message::{ReceiveError, message, poll_message};
pub use metrics::{CallKind, CountedCall, MethodMetrics, ServerMetrics};
pub use serve::{send_frame, serve, serve_counted};
pub use status::{ok_trailers, refuse, response_headers, status_from, trailers};
pub use unary::{
    MESSAGE_TIMEOUT, answer, deframer, first_message, not_received, out_of_bounds, receive,
};

use tokio::io::{AsyncRead, AsyncWrite};

use std::time::Duration;

/// What is sent on our HTTP/2 connections.
pub type SendStream = h2::SendStream<proto::frame::Frame>;
/// How a request on our HTTP/2 connections is answered.
pub type SendResponse = h2::server::SendResponse<proto::frame::Frame>;
/// A server's side of our HTTP/2 connections.
pub type ServerConnection<S> = h2::server::Connection<S, proto::frame::Frame>;
/// Makes requests on a connection.
pub type SendRequest = h2::client::SendRequest<proto::frame::Frame>;

/// Flow-control window of a stream, in bytes: what one slow reader may hold.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Flow-control window of a connection: several stream windows, so that one
/// slow reader cannot block the others, and enough for many small frames that
/// nobody read yet (h2 counts those against a budget derived from it).
pub const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// The same before a connection has authenticated, in bytes: HTTP/2's default.
pub const UNAUTHENTICATED_WINDOW_BYTES: u32 = 65_535;
/// How long a connection may take to its first authenticated call.
pub const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest DATA frame accepted, in bytes.
pub const MAX_FRAME_BYTES: u32 = 64 << 10;
/// Bytes of a body in one message, at most: with all that is around them they
/// fill one DATA frame, so that nobody on the way has to put a message together
/// from two, which is a copy.
pub const CHUNK_BYTES: usize = MAX_FRAME_BYTES as usize - 128;
/// Largest header list accepted, in bytes.
pub const MAX_HEADERS_BYTES: u32 = 64 << 10;
/// Streams that a peer may have open at once: an agent's 500 tunnels and its
/// other calls, with room to spare.
pub const MAX_STREAMS: u32 = 1000;

/// Calls that a peer may have on one connection: all that its users have open.
pub const MAX_PEER_STREAMS: u32 = 10_000;

/// Streams that the other end may have reset for breaking HTTP/2's rules, until the connection is
/// closed. h2 never forgets one in a connection's life, and counts among them frames that come for a
/// stream which was reset and forgotten: `RESET_STREAMS_TTL` keeps these out, so that what is
/// counted are faults, of which a sound client makes none.
pub const MAX_STREAM_FAULTS: usize = 16 << 10;
/// The same on connections of peers, which live long and carry everybody's calls: many callers who
/// leave at once, while the other replica is slow to hear of it, make some that are nobody's fault.
pub const MAX_PEER_STREAM_FAULTS: usize = 1 << 20;
/// How long frames for a stream that was reset are ignored, as they may have been sent before the
/// other end knew.
const RESET_STREAMS_TTL: Duration = Duration::from_secs(10);

/// The same settings for a connection that has not authenticated: it has a small window until
/// [`raise_window`].
#[must_use]
pub fn unauthenticated(mut settings: h2::server::Builder) -> h2::server::Builder {
    settings.initial_connection_window_size(UNAUTHENTICATED_WINDOW_BYTES);
    settings
}

/// Gives a connection that was [`unauthenticated`] the full window.
pub fn raise_window<S>(connection: &mut ServerConnection<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connection.set_target_window_size(CONNECTION_WINDOW_BYTES);
}

/// Server settings for all our HTTP/2 connections.
#[must_use]
pub fn server_settings() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_header_list_size(MAX_HEADERS_BYTES)
        .max_local_error_reset_streams(Some(MAX_STREAM_FAULTS))
        .reset_stream_duration(RESET_STREAMS_TTL)
        .max_concurrent_reset_streams(MAX_STREAMS as usize)
        .max_concurrent_streams(MAX_STREAMS);
    builder
}

/// Server settings for connections of peers, who are trusted, have many users,
/// and drop questions in numbers when these leave.
#[must_use]
pub fn peer_settings() -> h2::server::Builder {
    let mut builder = server_settings();
    builder
        .max_concurrent_streams(MAX_PEER_STREAMS)
        .max_local_error_reset_streams(Some(MAX_PEER_STREAM_FAULTS))
        .max_concurrent_reset_streams(MAX_PEER_STREAMS as usize)
        .max_pending_accept_reset_streams(MAX_PEER_STREAMS as usize);
    builder
}

/// Client settings for all our HTTP/2 connections.
#[must_use]
pub fn client_settings() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_header_list_size(MAX_HEADERS_BYTES)
        .max_local_error_reset_streams(Some(MAX_PEER_STREAM_FAULTS))
        .reset_stream_duration(RESET_STREAMS_TTL)
        .max_concurrent_reset_streams(MAX_PEER_STREAMS as usize)
        .enable_push(false);
    builder
}

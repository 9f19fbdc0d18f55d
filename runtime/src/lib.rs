//! What all processes need around their work: connections, shutdown, logs, metrics. It knows nothing of agents.
//!
//! Connections: [`listen`] and [`connect`] end in one byte stream type,
//! [`io::ByteStream`], whatever TLS and WebSocket lie under it; [`serve`] is the
//! accept loop of every port; [`grpc`] puts tonic's services and clients on HTTP/2
//! over such a stream, and [`tunnel`] is what the ends of a tunnel have in common,
//! [`resume`] is an end of a connection that outlives the calls that carry it.
//! Surroundings: [`drain`], [`signal`], [`backoff`], [`jwt`], [`telemetry`], [`traces`],
//! [`doctor`], [`metrics`], [`reloads`], [`probes`], [`panics`], [`descriptors`], [`core_dumps`], [`yaml`]; what costs
//! little while one waits: [`patience`], [`rarely`].
//! Limits: [`shares`] and [`request_filter`]; [`names`] checks what a caller names before it becomes a path.

mod authority;
pub mod backoff;
pub mod connect;
pub mod core_dumps;
pub mod descriptors;
pub mod doctor;
pub mod drain;
mod filtered;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod grpc;
mod header_filter;
pub mod io;
pub mod jwt;
mod linger;
pub mod listen;
pub mod lock_file;
pub mod metrics;
pub mod names;
pub mod panics;
pub mod patience;
pub mod probes;
pub mod proxy_protocol;
pub mod rarely;
pub mod reloads;
mod replay;
pub mod request_filter;
pub mod resume;
pub mod serve;
pub mod shares;
pub mod shell;
pub mod signal;
pub mod telemetry;
pub mod tls;
pub mod traces;
pub mod tunnel;
pub mod websocket;
pub mod yaml;

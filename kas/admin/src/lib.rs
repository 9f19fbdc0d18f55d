//! The operator's API: which agents are connected, where and since when, which replicas there are and how they are,
//! which requests are in progress, and why a request would or would not reach its agent.
//!
//! One set of questions ([`Admin`]), answered by any replica for all of them, is served as gRPC (`kas.admin.v1.Admin`)
//! and as REST with an OpenAPI document, on a port of its own that authenticates who asks ([`AdminApi`]), and shown by
//! a page there. What only a
//! replica itself can tell is asked on the private API ([`peer_questions`]). Nothing here is in the way of a request:
//! the work is bounded for each caller and in all, and shared by those who ask the same.

mod absence;
mod agent_state;
mod authenticate;
mod caller;
mod client;
pub mod config;
mod coverage;
pub mod dial;
mod events;
mod explain;
mod failure;
mod filter;
mod fleet;
mod grpc;
mod health;
mod life;
mod page;
mod peers;
mod records;
mod replica;
mod rest;
mod role;
mod secret;
mod server;
mod service;
mod sources;
pub mod tokens;

/// The messages, services and clients, as `admin.proto` defines them.
#[allow(
    missing_docs,
    clippy::all,
    missing_debug_implementations,
    unreachable_pub
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/kas.admin.v1.rs"));
}

pub use client::{Client, ClientError, ClientOptions};
pub use failure::Failure;
pub use life::{Drains, Life};
pub use replica::{Own, PEER_SERVICE, peer_questions};
pub use role::{Role, RoleError};
pub use server::{AdminApi, Settings};
pub use service::Admin;
pub use sources::Sources;

/// The definition as an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

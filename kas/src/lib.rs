//! The server: agents dial it, clients reach their clusters through it.

pub mod agent_api;
pub mod app;
mod bucket;
mod calls;
pub mod cli;
pub mod config;
pub mod control_plane;
pub mod events;
pub mod flux;
pub mod gitaly;
pub mod gitlab_api;
pub mod graph;
pub mod kubernetes_api;
pub mod notifications;
pub mod numbers;
pub mod port;
pub mod private_api;
pub mod receptive;
pub mod replica;
pub mod tracker;
#[cfg(feature = "playground")]
pub mod up;
pub mod usage;
pub mod version;
pub mod yaml;

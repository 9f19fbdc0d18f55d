//! The server: agents dial it, clients reach their clusters through it.

pub mod agent_api;
pub mod cli;
pub mod config;
pub mod control_plane;
pub mod kubernetes_api;
pub mod private_api;
pub mod tracker;
pub mod up;
pub mod yaml;
pub mod replica;
pub mod numbers;
pub mod app;
pub mod version;
mod demo_cluster;

//! The server: agents dial it, clients reach their clusters through it.

pub mod agent_api;
pub mod config;
pub mod control_plane;
pub mod private_api;
pub mod tracker;
pub mod up;
pub mod yaml;

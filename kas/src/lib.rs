//! The server: agents dial it, clients reach their clusters through it.

pub mod config;
pub mod control_plane;
pub mod yaml;
pub mod agent_api;
pub mod tracker;

//! The server: agents dial it, clients reach their clusters through it.

pub mod app;
pub mod cli;
pub mod config;
pub mod gitlab_api;
pub mod numbers;
pub mod port;
pub mod private_api;
pub mod replica;
#[cfg(feature = "playground")]
pub mod up;
pub mod version;

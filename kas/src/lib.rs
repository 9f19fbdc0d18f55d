//! The server: agents dial it, clients reach their clusters through it.

pub mod control_plane;

//! The Kubernetes API proxy, from a client's socket to an agent's stream.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod agent;
mod failures;
mod graph_sockets;
mod leaving;
mod proxy;
mod request_ids;
mod requests;
mod socket;
mod stage;
mod streams;
mod unused;
mod upgrades;
mod watch_sockets;
mod watches;
mod writes;

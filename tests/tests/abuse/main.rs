//! What an attacker sends, against real processes: the attack comes to nothing, a bystander on the same
//! replica notices nothing, and what the attack took is given back.
//!
//! A file is a kind of attack. [`wire`] makes calls that no client library would make, [`memory`] looks
//! at what the process holds, [`metrics`] at what it counts.

mod bytes;
mod connections;
mod doors;
mod graph;
mod heads;
mod http1;
mod impostor;
mod join;
mod memory;
mod metrics;
mod old_agent;
mod origins;
mod peers;
mod raw_api;
mod resumed;
mod secrets;
mod shares;
mod site;
mod strangers;
mod watch_socket;
mod wire;

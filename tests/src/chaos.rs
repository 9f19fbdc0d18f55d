//! A TCP proxy that misbehaves on command: a load balancer, or a link between two processes.

pub use loadtest::chaos::{Chaos, Mode};

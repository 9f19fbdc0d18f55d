//! Objects of a cluster that many watch: what they are now, and whom to tell of changes.
//!
//! The agent keeps them as the Kubernetes API tells them, kas as the agent does;
//! to those who watch both behave alike. It knows neither of them, no tunnels and no callers.

mod budget;
mod hub;
mod hubs;
mod mirror;
mod told;

pub use hub::{Breaks, Hub, Stage, Watch};
pub use hubs::{Hubs, Limits};

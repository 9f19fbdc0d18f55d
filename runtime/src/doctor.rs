//! What `kas doctor` and `agentk doctor` have in common: checks with their remedies, and probes of the way to a port.
//!
//! A doctor changes nothing: it makes calls that are refused, or that nobody remembers. Each probe has a deadline.

mod agent_path;
mod answer;
mod certificates;
mod clock;
mod http1;
mod network;
mod remedies;
mod report;
mod session;
mod upgrade;
mod user_path;

pub use agent_path::AgentPath;
pub use certificates::{CertificateFacts, certificates_in, check_certificates};
pub use clock::{check_clock, http_date};
pub use http1::{Http1Answer, Http1Error, get as http1_get};
pub use network::check_network;
pub use remedies::{Fault, Remedy};
pub use report::{Check, Finding, Outcome, Report};
pub use user_path::UserPath;

use std::time::Duration;

/// How long one question may take.
pub const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

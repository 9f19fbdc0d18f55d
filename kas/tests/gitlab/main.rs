//! The GitLab control plane against a double of GitLab: each call, each
//! refusal, and what happens when GitLab is ill.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod agents;
mod callers;
mod configuration;
mod contract;
mod fixture;
mod gitaly;
mod jobs;
mod link;
mod modules;
mod outage;
mod reports;

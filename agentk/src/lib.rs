//! The agent: runs in a cluster, dials kas or is dialled, carries calls to the
//! Kubernetes API.
//!
//! [`run`] is the whole of it; the binary adds flags, signals and logs, and
//! `kas up` calls it in its own process.

mod app;
mod attach_listener;
mod backoff;
mod call;
mod cluster;
mod cluster_facts;
mod config;
mod configuration;
pub mod doctor;
mod events;
mod features;
pub mod flags;
mod flux;
mod graph;
mod informer;
mod join;
mod kas_tunnels;
mod kubernetes_api;
mod last_failure;
mod leader;
pub mod logging;
mod metrics;
mod observability;
mod pod;
mod private_api;
mod receptive;
mod registration;
mod services;
mod session;
mod token;
mod tunnels;
pub mod version;

pub use app::{RunError, run};
pub use attach_listener::AttachListenerError;
#[cfg(feature = "fuzzing")]
pub use cluster::fuzzing;
pub use cluster::{ClusterError, source::ClusterSource, source::KubernetesOptions};
pub use config::{
    Config, ConfigError, Join, Link, Observability, Peers, PrivateApi, Receptive, SetLogLevel,
    Tracing,
};
pub use features::Feature;
pub use join::JoinError;
pub use leader::LeaderOnly;
pub use logging::LogLevel;
pub use observability::ListenError;
pub use pod::Pod;
pub use token::{Secret, Token, TokenError};

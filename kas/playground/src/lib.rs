//! What `kas up` runs beside the server: a demo cluster, an agent, a load balancer, its own requests, accounts, a
//! certificate.
//!
//! It knows no replicas: the program that starts those hands over addresses, files and tokens.

pub mod accounts;
pub mod agent;
pub mod balancer;
pub mod certificate;
pub mod demo_cluster;
pub mod private_file;
pub mod traffic;

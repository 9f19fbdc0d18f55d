//! Real parts for tests: each file starts one kind of process, or asks one a question.

pub mod agentk;
pub mod certs;
pub mod chaos;
pub mod counting_api;
pub mod git;
pub mod gitlab_double;
pub mod gitlab_rig;
pub mod go;
pub mod haproxy;
pub mod http;
pub mod kas;
pub mod kube;
pub mod kubectl;
pub mod nginx;
pub mod parts;
pub mod payload;
pub mod pod_set;
pub mod ports;
pub mod process;
pub mod programs;
pub mod redis;
pub mod replicas;
pub mod rig;
pub mod stub_api;
pub mod up;
pub mod wait;

//! `kas up`.

mod balancer;

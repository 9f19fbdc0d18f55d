//! Upgraded connections that go on when what carries them breaks: exec, cp and port-forward through replicas of which
//! the owners are killed, and an agent whose connections are cut all the time. Every byte arrives once and in order.
//!
//! `STREAMS_SECONDS` (20 if not set) says how long commands go on, `STREAMS_EXECS` (4) how many there are over each
//! protocol, `STREAMS_MIB` (64) how much goes through a forwarded port each way. `make e2e-streams` runs it for longer.

mod commands;
mod echo;
mod site;

//! What a running server tells of its fleet: `kas agent list|show|records`, `kas explain`, `kas replica list`,
//! `kas request list`, `kas session list|kill`, `kas whoami`.

pub(super) mod agents;
pub(super) mod replicas;
pub(super) mod requests;
pub(super) mod sessions;
pub(super) mod view;
pub(super) mod whoami;

/// Agents, requests or sessions of one question.
const PAGE: u32 = 500;

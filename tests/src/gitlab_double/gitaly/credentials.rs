//! Whether a caller knows Gitaly's token, checked as Gitaly does.

use std::time::{SystemTime, UNIX_EPOCH};

use tonic::{Status, metadata::MetadataMap};

use crate::gitlab_double::token::hmac;

/// How far clocks may be apart, in seconds.
const APART: u64 = 30;

/// Refuses who does not prove that it knows the token.
pub(super) fn check(metadata: &MetadataMap, token: &str) -> Result<(), Status> {
    if token.is_empty() {
        return Ok(());
    }
    let bad = |why: &str| Status::unauthenticated(format!("authentication required: {why}"));
    let given = metadata
        .get("authorization")
        .ok_or_else(|| bad("none given"))?;
    let given = given.to_str().map_err(|_| bad("no text"))?;
    let parts = given
        .strip_prefix("Bearer v2.")
        .and_then(|it| it.split_once('.'));
    let (signature, time) = parts.ok_or_else(|| bad("not version 2"))?;
    let expected = hex::encode(hmac(token.as_bytes(), time.as_bytes()));
    if signature != expected {
        return Err(Status::permission_denied("permission denied"));
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let time: u64 = time.parse().map_err(|_| bad("no time"))?;
    if now.as_secs().abs_diff(time) > APART {
        return Err(Status::permission_denied("token has expired"));
    }
    Ok(())
}

//! Bytes that look random, and their fingerprints.

use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// `len` bytes that do not compress, the same for the same seed.
#[must_use]
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    let mut bytes: Vec<u8> = words
        .take(len.div_ceil(8))
        .flat_map(u64::to_le_bytes)
        .collect();
    bytes.truncate(len);
    bytes
}

/// The SHA-256 of bytes in hexadecimal, as `sha256sum` prints it.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The SHA-256 of a file.
///
/// # Errors
/// When it cannot be read.
pub fn sha256_of_file(file: &Path) -> Result<String> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(sha256(&bytes))
}

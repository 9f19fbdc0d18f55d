//! The chain of hashes: each line carries the hash of the one before, and its own.
//!
//! A line ends in `,"chain":"ID","seq":N,"prev":"HEX","hash":"HEX"}`. The hash is that of all bytes of the line before
//! `,"hash":`, by SHA-256, or by HMAC-SHA256 where there is a key. So a byte that was changed shows in its own line,
//! and a line that was removed, added or moved in the one behind it. `seq` counts from 0.

use runtime::jwt::Secret;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// What the first record of a chain has in place of a hash before it.
pub const ORIGIN: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const HASH_KEY: &str = ",\"hash\":\"";
const END: &str = "\"}";
const HEX_DIGITS: usize = 64;

/// Seals lines, one after the other.
#[derive(Debug)]
pub struct Chain {
    link: Link,
    key: Option<Secret>,
}

/// The place of a record in its chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The chain.
    pub id: String,
    /// The number of the record that comes next.
    pub next: u64,
    /// The hash of the one before it.
    pub prev: String,
}

/// A line that is sound in itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Its chain.
    pub chain: String,
    /// Its number.
    pub seq: u64,
    /// The hash of the line before.
    pub prev: String,
    /// Its own.
    pub hash: String,
}

/// Why a line is not sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It has no hash at its end.
    #[error("it does not end in a hash: it was cut or changed")]
    NoHash,
    /// Its hash is another one.
    #[error("its hash does not fit: it was changed")]
    Changed,
    /// It has no place in a chain.
    #[error("it has no place in a chain")]
    NoPlace,
}

#[derive(Deserialize)]
struct Place {
    chain: String,
    seq: u64,
    prev: String,
}

impl Chain {
    /// A chain that begins here.
    #[must_use]
    pub fn new(key: Option<Secret>) -> Self {
        let link = Link {
            id: format!("{:016x}", rand::random::<u64>()),
            next: 0,
            prev: ORIGIN.to_owned(),
        };
        Self::continued(link, key)
    }

    /// A chain that goes on.
    #[must_use]
    pub fn continued(link: Link, key: Option<Secret>) -> Self {
        Self { link, key }
    }

    /// Where it is.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// What its hashes are made with.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        match self.key {
            Some(_) => "hmac-sha256",
            None => "sha256",
        }
    }

    /// The line of a record that is JSON without its closing brace.
    pub fn seal(&mut self, open: &str) -> String {
        let Link { id, next, prev } = &self.link;
        let mut line = format!("{open},\"chain\":\"{id}\",\"seq\":{next},\"prev\":\"{prev}\"");
        let hash = hash(&line, self.key.as_ref());
        line.push_str(HASH_KEY);
        line.push_str(&hash);
        line.push_str(END);
        self.link.next += 1;
        self.link.prev = hash;
        line
    }
}

impl From<Sealed> for Link {
    fn from(last: Sealed) -> Self {
        Self {
            id: last.chain,
            next: last.seq + 1,
            prev: last.hash,
        }
    }
}

/// Reads a line and checks its hash.
///
/// # Errors
/// [`Broken`]
pub fn check(line: &str, key: Option<&Secret>) -> Result<Sealed, Broken> {
    let (hashed, told) = split(line).ok_or(Broken::NoHash)?;
    if hash(hashed, key) != told {
        return Err(Broken::Changed);
    }
    read(line)
}

/// Reads the place of a line, whose hash is not looked at.
///
/// # Errors
/// [`Broken`]
pub fn read(line: &str) -> Result<Sealed, Broken> {
    let (_, hash) = split(line).ok_or(Broken::NoHash)?;
    let place: Place = serde_json::from_str(line).map_err(|_| Broken::NoPlace)?;
    Ok(Sealed {
        chain: place.chain,
        seq: place.seq,
        prev: place.prev,
        hash: hash.to_owned(),
    })
}

/// What is hashed of a line, and the hash that it has.
fn split(line: &str) -> Option<(&str, &str)> {
    let rest = line.strip_suffix(END)?;
    let (rest, hash) = rest.split_at_checked(rest.len().checked_sub(HEX_DIGITS)?)?;
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let hashed = rest.strip_suffix(HASH_KEY)?;
    hash.bytes().all(is_hex).then_some((hashed, hash))
}

fn hash(text: &str, key: Option<&Secret>) -> String {
    match key {
        Some(key) => key
            .hmac_hex(text)
            .expect("every key and message has an HMAC"),
        None => hex::encode(Sha256::digest(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_line_is_found() {
        for key in [None, Some(Secret::new(vec![7; 32]))] {
            let mut chain = Chain::new(key.clone());
            chain.seal("{\"kind\":\"start\"");
            let line = chain.seal("{\"kind\":\"begin\",\"user\":\"user:alice\"");

            assert_eq!(check(&line, key.as_ref()).unwrap().seq, 1);
            for at in 0..line.len() {
                for bit in 0..8 {
                    let mut bytes = line.clone().into_bytes();
                    bytes[at] ^= 1 << bit;
                    let found = match String::from_utf8(bytes) {
                        Ok(changed) => check(&changed, key.as_ref()).is_err(),
                        Err(_) => true,
                    };
                    assert!(found, "byte {at}, bit {bit}");
                }
            }
        }
    }

    #[test]
    fn nobody_without_the_key_makes_a_line() {
        let mut chain = Chain::new(None);
        let line = chain.seal("{\"kind\":\"start\"");

        let key = Secret::new(vec![7; 32]);
        assert_eq!(check(&line, Some(&key)), Err(Broken::Changed));
    }
}

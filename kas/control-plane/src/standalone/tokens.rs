//! Tokens as the file keeps them: hashed, dated, at most two live ones for each owner.

use std::time::Duration;

use jiff::Timestamp;
use rand::{TryRngCore, rngs::OsRng};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::{Token, TokenHash};

/// So that a new token can be rolled out while the old one still works.
pub const MAX_LIVE_TOKENS: usize = 2;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Whose a token is, by its first letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// `glagent-…`, as GitLab's.
    Agent,
    /// `kasuser-…`.
    User,
    /// `kasservice-…`.
    Service,
    /// `kasjoin-…`: no token of an agent, but good for one, once.
    Join,
}

impl TokenKind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Agent => "glagent-",
            Self::User => "kasuser-",
            Self::Service => "kasservice-",
            Self::Join => "kasjoin-",
        }
    }

    /// A new token of 300 random bits from the operating system.
    pub fn generate(self) -> std::io::Result<Token> {
        let mut random = [0; 50];
        OsRng
            .try_fill_bytes(&mut random)
            .map_err(std::io::Error::other)?;
        let letters = random.map(|byte| char::from(ALPHABET[usize::from(byte % 64)]));
        let text: String = self.prefix().chars().chain(letters).collect();
        Ok(Token::new(text))
    }
}

/// A token in the file.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenEntry {
    /// Its hash; the token itself is kept nowhere.
    #[serde(with = "hash_text")]
    #[cfg_attr(test, schemars(with = "String", extend("pattern" = "^sha256:[0-9a-fA-F]{64}$")))]
    pub hash: TokenHash,
    /// When it was made.
    #[cfg_attr(test, schemars(with = "String", extend("format" = "date-time")))]
    pub created_at: Timestamp,
    /// From when on it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub expires_at: Option<Timestamp>,
}

impl TokenEntry {
    /// The entry of a token made now.
    #[must_use]
    pub fn new(token: &Token, now: Timestamp) -> Self {
        Self {
            hash: token.hash(),
            created_at: now,
            expires_at: None,
        }
    }

    /// Whether it is accepted.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }
}

/// How many of them are accepted.
#[must_use]
pub fn live(tokens: &[TokenEntry], now: Timestamp) -> usize {
    tokens.iter().filter(|token| token.is_live(now)).count()
}

/// Adds a token and lets the others end after `grace`; returns how many ended at once.
///
/// Expired ones are dropped. When two are live already, the oldest ends at
/// once; with no grace, all do.
pub fn rotate(
    tokens: &mut Vec<TokenEntry>,
    new: TokenEntry,
    grace: Duration,
    now: Timestamp,
) -> usize {
    tokens.retain(|token| token.is_live(now));
    tokens.sort_by_key(|token| token.created_at);
    let keep = if grace.is_zero() {
        0
    } else {
        MAX_LIVE_TOKENS - 1
    };
    let ended = tokens.len().saturating_sub(keep);
    tokens.drain(..ended);
    let end = now.checked_add(grace).unwrap_or(Timestamp::MAX);
    for token in tokens.iter_mut() {
        token.expires_at = Some(token.expires_at.map_or(end, |already| already.min(end)));
    }
    tokens.push(new);
    ended
}

pub(super) mod hash_text {
    use super::{Deserialize, Deserializer, Error, Serializer, TokenHash, parse_hash};

    pub(in super::super) fn serialize<S: Serializer>(
        hash: &TokenHash,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("sha256:{}", hex::encode(hash.as_bytes())))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<TokenHash, D::Error> {
        let text = String::deserialize(from)?;
        parse_hash(&text).ok_or_else(|| {
            D::Error::custom(
                "a token is kept as sha256: and 64 hexadecimal digits, never as itself",
            )
        })
    }
}

fn parse_hash(text: &str) -> Option<TokenHash> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text.strip_prefix("sha256:")?, &mut bytes).ok()?;
    Some(TokenHash::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(hour * 3600).unwrap()
    }

    fn made(hour: i64) -> TokenEntry {
        TokenEntry::new(&Token::new(format!("t{hour}")), at(hour))
    }

    #[test]
    fn tokens_are_long_random_and_say_whose_they_are() {
        let one = TokenKind::Agent.generate().unwrap();
        let two = TokenKind::Agent.generate().unwrap();

        let rest = one.expose().strip_prefix("glagent-").unwrap();
        assert_eq!(rest.len(), 50);
        assert!(rest.bytes().all(|b| ALPHABET.contains(&b)));
        assert_ne!(one.expose(), two.expose());
    }

    #[test]
    fn a_token_is_live_until_its_end() {
        let mut token = made(0);
        assert!(token.is_live(at(1_000_000)));

        token.expires_at = Some(at(5));

        assert!(token.is_live(at(4)));
        assert!(!token.is_live(at(5)));
    }

    #[test]
    fn rotating_leaves_the_old_one_its_grace() {
        let mut tokens = vec![made(0)];

        assert_eq!(rotate(&mut tokens, made(10), 24 * HOUR, at(10)), 0);

        assert_eq!(tokens[0].expires_at, Some(at(34)));
        assert_eq!(tokens[1], made(10));
        assert_eq!(live(&tokens, at(33)), 2);
        assert_eq!(live(&tokens, at(34)), 1);
    }

    #[test]
    fn rotating_twice_ends_the_oldest_so_that_two_stay() {
        let mut tokens = vec![made(0)];
        rotate(&mut tokens, made(1), 24 * HOUR, at(1));

        assert_eq!(rotate(&mut tokens, made(2), 48 * HOUR, at(2)), 1);

        assert_eq!(tokens.len(), 2);
        assert_eq!(tokens[0].hash, made(1).hash);
        assert_eq!(tokens[0].expires_at, Some(at(50)));
    }

    #[test]
    fn rotating_never_prolongs_an_end_and_drops_what_is_over() {
        let mut soon = made(0);
        soon.expires_at = Some(at(3));
        let mut over = made(1);
        over.expires_at = Some(at(2));
        let mut tokens = vec![soon, over];

        rotate(&mut tokens, made(2), 24 * HOUR, at(2));

        assert_eq!(tokens.len(), 2);
        assert_eq!(tokens[0].expires_at, Some(at(3)));
    }

    #[test]
    fn rotating_without_grace_ends_all_others() {
        let mut tokens = vec![made(0)];

        assert_eq!(rotate(&mut tokens, made(1), Duration::ZERO, at(1)), 1);

        assert_eq!(tokens, [made(1)]);
    }

    #[test]
    fn hashes_are_read_as_they_are_written() {
        let hash = Token::new("t").hash();
        let entry = TokenEntry {
            hash,
            created_at: at(0),
            expires_at: None,
        };

        let text = serde_json::to_string(&entry).unwrap();

        assert_eq!(serde_json::from_str::<TokenEntry>(&text).unwrap(), entry);
        for bad in [
            "",
            "sha256:",
            "sha256:zz",
            "md5:00",
            &format!("sha256:{}", "g".repeat(64)),
        ] {
            assert!(parse_hash(bad).is_none(), "{bad}");
        }
    }
}

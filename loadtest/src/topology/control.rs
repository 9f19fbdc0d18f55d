//! Who is who: many agents and some users, in files.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::generate_simple_self_signed;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::traffic::USERS;

/// How users' names begin; a number follows.
pub(super) const USER: &str = "bench-";

/// Files for kas and for whoever uses it.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    /// For kas.
    pub(crate) agents: PathBuf,
    /// One agent token a line, of agents 1, 2, …
    pub(crate) tokens: PathBuf,
    /// The token of agent 1.
    pub(crate) first: PathBuf,
    /// A certificate for loopback, which is its own CA.
    pub(crate) certificate: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
    /// The secret that replicas share.
    pub(crate) secret: PathBuf,
    /// How users' tokens begin; a number follows.
    user_token: String,
}

impl ControlPlane {
    pub(crate) fn write(dir: &Path, agents: usize) -> anyhow::Result<Self> {
        let tokens: Vec<String> = (1..=agents.max(1)).map(|_| token("glagent-")).collect();
        let user_token = token("kasuser-");
        let certificate = generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
        let file = |name: &str, content: &str| {
            let path = dir.join(name);
            std::fs::write(&path, content)
                .with_context(|| format!("cannot write {}", path.display()))?;
            anyhow::Ok(path)
        };
        Ok(Self {
            agents: file("agents.yaml", &document(&tokens, &user_token).to_string())?,
            tokens: file("tokens", &tokens.join("\n"))?,
            first: file("token", &tokens[0])?,
            certificate: file("certificate.pem", &certificate.cert.pem())?,
            key: file("key.pem", &certificate.signing_key.serialize_pem())?,
            secret: file("secret", &STANDARD.encode(rand::random::<[u8; 32]>()))?,
            user_token,
        })
    }

    /// The number of each agent by its token.
    pub(super) fn numbered(&self) -> anyhow::Result<HashMap<String, usize>> {
        let tokens = std::fs::read_to_string(&self.tokens)?;
        let numbered = tokens.lines().zip(1..);
        Ok(numbered.map(|(token, id)| (token.to_owned(), id)).collect())
    }

    /// How users' tokens begin; a number below [`USERS`] follows.
    pub(super) fn user_token(&self) -> &str {
        &self.user_token
    }

    /// What a user shows to reach an agent, given by number or as `{agent}`. One user has only a part of what a
    /// replica carries, so agents are asked by different ones.
    pub(crate) fn bearer(&self, agent: &str) -> String {
        let user = agent.parse().map(|agent: u64| (agent % USERS).to_string());
        let user = user.as_deref().unwrap_or("{user}");
        format!("pat:{agent}:{}{user}", self.user_token)
    }
}

/// YAML, of which JSON is a part.
fn document(tokens: &[String], user_token: &str) -> Value {
    let agent = |(index, token): (usize, &String)| {
        let id = index + 1;
        json!({ "id": id, "name": format!("bench-{id}"), "tokens": [entry(token)] })
    };
    let name = |user: u64| format!("{USER}{user}");
    let user =
        |user| json!({ "name": name(user), "tokens": [entry(&format!("{user_token}{user}"))] });
    let names: Vec<_> = (0..USERS).map(name).collect();
    json!({
        "agents": tokens.iter().enumerate().map(agent).collect::<Vec<_>>(),
        "users": (0..USERS).map(user).collect::<Vec<_>>(),
        "access": [{ "agents": "*", "users": names, "access_as": "agent" }],
    })
}

fn entry(token: &str) -> Value {
    json!({ "hash": hash(token), "created_at": "2026-01-01T00:00:00Z" })
}

fn hash(token: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(token)))
}

fn token(prefix: &str) -> String {
    (0..50).fold(prefix.to_owned(), |mut token, _| {
        token.push(char::from(rand::random_range(b'a'..=b'z')));
        token
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_hashes_only() {
        let dir = tempfile::tempdir().unwrap();

        let control = ControlPlane::write(dir.path(), 3).unwrap();

        let file = std::fs::read_to_string(&control.agents).unwrap();
        let tokens = std::fs::read_to_string(&control.tokens).unwrap();
        assert_eq!(tokens.lines().count(), 3);
        for token in tokens.lines() {
            assert!(!file.contains(token) && file.contains(&hash(token)));
        }
        assert!(!file.contains(&control.user_token));
        let bearer = control.bearer("3");
        let token = bearer.strip_prefix("pat:3:").unwrap();
        assert!(file.contains(&hash(token)));
        assert!(control.bearer("{agent}").ends_with("{user}"));
    }
}

//! The section of an issuer of ID tokens: an OpenID provider for people, or one that gives tokens to workloads.

use std::{collections::BTreeMap, path::PathBuf};

use runtime::{connect::Target, io::Scheme};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{IdentityKind, LoginIssuer};

/// What people are asked for when they log in, unless the file says otherwise.
const SCOPES: [&str; 3] = ["openid", "email", "offline_access"];
const USERNAME_CLAIM: &str = "sub";

/// An issuer, and what its tokens mean.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerEntry {
    /// Its URL, as its tokens have it in `iss`; its discovery document is below it.
    pub issuer: String,
    /// Whom its tokens are of.
    #[serde(default, skip_serializing_if = "is_default")]
    pub callers: Callers,
    /// The client as which `kas login` asks it; an audience too where no others are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// What people are asked for when they log in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Tokens must be for one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<String>,
    /// The claim that is the caller's name; `sub` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username_claim: Option<String>,
    /// What is put before names.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub username_prefix: String,
    /// The claim that has the caller's groups; without it there are none but those of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups_claim: Option<String>,
    /// What is put before names of groups.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub groups_prefix: String,
    /// Claims that a token must have, with this value or one of these.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub required_claims: BTreeMap<String, Value>,
    /// A CA that is trusted besides the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// Whom tokens are of.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Callers {
    /// People.
    #[default]
    Users,
    /// Jobs and other workloads.
    Services,
}

impl Callers {
    /// What such a caller is to the rules.
    #[must_use]
    pub fn kind(self) -> IdentityKind {
        match self {
            Self::Users => IdentityKind::User,
            Self::Services => IdentityKind::CiJob,
        }
    }
}

impl IssuerEntry {
    /// The claim that is the caller's name.
    #[must_use]
    pub fn username_claim(&self) -> &str {
        self.username_claim.as_deref().unwrap_or(USERNAME_CLAIM)
    }

    /// What tokens must be for.
    #[must_use]
    pub fn audiences(&self) -> Vec<String> {
        match self.audiences.is_empty() {
            true => self.client_id.iter().cloned().collect(),
            false => self.audiences.clone(),
        }
    }

    /// What people are asked for when they log in.
    #[must_use]
    pub fn scopes(&self) -> Vec<String> {
        match self.scopes.is_empty() {
            true => SCOPES.map(str::to_owned).into(),
            false => self.scopes.clone(),
        }
    }

    /// What people need to log in there; `None` where they do not.
    #[must_use]
    pub fn for_login(&self) -> Option<LoginIssuer> {
        let client_id = self.client_id.as_ref();
        let client_id = client_id.filter(|_| self.callers == Callers::Users)?;
        Some(LoginIssuer {
            issuer: self.issuer.clone(),
            client_id: client_id.clone(),
            scopes: self.scopes(),
        })
    }

    /// Where its discovery document is.
    #[must_use]
    pub fn discovery_url(&self) -> String {
        let base = self.issuer.strip_suffix('/').unwrap_or(&self.issuer);
        format!("{base}/.well-known/openid-configuration")
    }

    /// What is wrong with it, if anything is.
    pub(super) fn mistake(&self) -> Option<String> {
        if let Some(mistake) = insecure(&self.issuer) {
            return Some(mistake);
        }
        if self.issuer.contains(['?', '#']) {
            return Some("an issuer's URL has no query and no fragment".to_owned());
        }
        if self.audiences().iter().any(String::is_empty) || self.audiences().is_empty() {
            let needs =
                "it needs client_id or audiences: a token for somebody else must not count here";
            return Some(needs.to_owned());
        }
        let claims = [self.username_claim.as_deref(), self.groups_claim.as_deref()];
        let mut named = claims
            .into_iter()
            .flatten()
            .chain(self.required_claims.keys().map(String::as_str));
        named
            .any(str::is_empty)
            .then(|| "the name of a claim is empty".to_owned())
    }

    /// Whether callers or groups of two issuers could have the same name.
    pub(super) fn collides_with(&self, other: &Self) -> Option<&'static str> {
        if self.issuer == other.issuer {
            return None;
        }
        let overlap = |a: &str, b: &str| a.starts_with(b) || b.starts_with(a);
        if self.callers == other.callers && overlap(&self.username_prefix, &other.username_prefix) {
            return Some("username_prefix");
        }
        let have_groups = self.groups_claim.is_some() && other.groups_claim.is_some();
        let overlap = have_groups && overlap(&self.groups_prefix, &other.groups_prefix);
        overlap.then_some("groups_prefix")
    }
}

/// Why an issuer must not be asked at a URL, if it must not: whoever is on the way could put in other keys.
#[must_use]
pub fn insecure(url: &str) -> Option<String> {
    let target = match Target::parse_http(url) {
        Ok(target) => target,
        Err(error) => return Some(error.to_string()),
    };
    let here = ["localhost", "127.0.0.1", "::1"].contains(&target.host());
    let secure = target.scheme() == Scheme::Https || here;
    (!secure).then(|| format!("{target} must begin with https://, unless it is on this machine"))
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(yaml: &str) -> IssuerEntry {
        serde_saphyr::from_str(yaml).unwrap()
    }

    #[test]
    fn an_issuer_needs_a_safe_url_and_an_audience() {
        for (yaml, why) in [
            ("{issuer: 'http://idp.example', client_id: k}", "https://"),
            ("{issuer: 'idp.example', client_id: k}", "begin with"),
            ("{issuer: 'https://idp.example?x', client_id: k}", "query"),
            ("{issuer: 'https://idp.example'}", "client_id or audiences"),
            (
                "{issuer: 'https://idp.example', client_id: ''}",
                "client_id or audiences",
            ),
            (
                "{issuer: 'https://idp.example', client_id: k, username_claim: ''}",
                "claim is empty",
            ),
        ] {
            let mistake = entry(yaml).mistake().unwrap_or_default();
            assert!(mistake.contains(why), "{yaml}: {mistake}");
        }
        for yaml in [
            "{issuer: 'https://idp.example/realms/a', client_id: k}",
            "{issuer: 'http://localhost:5556/dex', audiences: [k]}",
        ] {
            assert_eq!(entry(yaml).mistake(), None);
        }
    }

    #[test]
    fn names_of_two_issuers_must_not_meet() {
        let a = entry("{issuer: 'https://a', client_id: k, groups_claim: groups}");
        let prefixed = entry("{issuer: 'https://b', client_id: k, username_prefix: 'b/'}");
        let workloads = entry("{issuer: 'https://c', audiences: [k], callers: services}");
        let other_project = entry("{issuer: 'https://a', client_id: other}");

        assert_eq!(a.collides_with(&prefixed), Some("username_prefix"));
        assert_eq!(a.collides_with(&workloads), None);
        assert_eq!(a.collides_with(&other_project), None);
    }
}

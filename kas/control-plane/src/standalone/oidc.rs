//! ID tokens of the issuers that the file trusts: who a token makes its caller.
//!
//! A token of a known key is checked by what is in memory. Keys are fetched in the background ([`keys`]).

mod keys;

use std::sync::Arc;

use futures_util::future::join_all;
use runtime::jwt::public_keys::{PublicKeys, TokenRefusal, claimed_issuer};
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{caller::Caller, issuers::IssuerEntry, names::Name};
use crate::{DenyReason, IdTokenRefusal, Identity, Token};
use keys::IssuerKeys;

/// Groups of a token that are looked at.
const GROUPS_MAX: usize = 500;
/// What the cluster is told of how such callers proved who they are.
const ACCESS_TYPE: &str = "oidc";

/// Those whose tokens are taken, with their keys.
#[derive(Debug, Clone, Default)]
pub(super) struct Issuers(Vec<Arc<TrustedIssuer>>);

#[derive(Debug)]
struct TrustedIssuer {
    entry: IssuerEntry,
    issuer: Arc<str>,
    audiences: Vec<String>,
    keys: Arc<IssuerKeys>,
}

impl Issuers {
    /// Those of a file. Keys that are known of the same issuer already are kept.
    fn new(entries: &[IssuerEntry], before: &Self) -> Self {
        let mut issuers = Self::default();
        for entry in entries {
            let known = before.0.iter().chain(&issuers.0);
            let mut known = known.map(|it| &it.keys);
            let keys = known.find(|keys| keys.are_of(&entry.issuer, entry.ca_file.as_deref()));
            let keys = keys.cloned();
            issuers.0.push(Arc::new(TrustedIssuer {
                audiences: entry.audiences(),
                issuer: entry.issuer.as_str().into(),
                keys: keys.unwrap_or_else(|| Arc::new(IssuerKeys::new(entry))),
                entry: entry.clone(),
            }));
        }
        issuers
    }

    /// Takes those of another state of the file; says whether they are others.
    pub(super) fn update(&mut self, entries: &[IssuerEntry]) -> bool {
        if self.0.iter().map(|it| &it.entry).eq(entries) {
            return false;
        }
        *self = Self::new(entries, self);
        true
    }

    /// Who shows a token. Waits for keys only where the token names one that is not known. Cancel-safe.
    ///
    /// # Errors
    /// Why it is refused, or that nobody could say yet.
    pub(super) async fn caller(&self, token: &Token) -> Result<Caller, DenyReason> {
        let token = token.expose();
        let issuer = claimed_issuer(token).map_err(IdTokenRefusal::Token)?;
        let mut refusal = DenyReason::IdToken(IdTokenRefusal::UnknownIssuer);
        for trusted in self.0.iter().filter(|it| it.entry.issuer == issuer) {
            match trusted.caller(token).await {
                Err(DenyReason::IdToken(why)) if why.is_about_claims() => refusal = why.into(),
                answer => return answer,
            }
        }
        Err(refusal)
    }

    /// Keeps keys up to date until told to stop, of the issuers that are trusted then.
    pub(super) async fn follow(mut trusted: watch::Receiver<Self>, stop: CancellationToken) {
        loop {
            let now = trusted.borrow_and_update().clone();
            let mut all: Vec<Arc<IssuerKeys>> = Vec::new();
            for issuer in &now.0 {
                if !all.iter().any(|keys| Arc::ptr_eq(keys, &issuer.keys)) {
                    all.push(issuer.keys.clone());
                }
            }
            let keeping = join_all(all.iter().map(|keys| keys.keep()));
            tokio::select! {
                () = stop.cancelled() => return,
                changed = trusted.changed() => if changed.is_err() { return },
                // Each goes on for ever; without any there is nothing to wait for.
                _ = keeping, if !all.is_empty() => {}
            }
        }
    }
}

impl TrustedIssuer {
    async fn caller(&self, token: &str) -> Result<Caller, DenyReason> {
        let (known, attempts) = self.keys.known();
        let check = |keys: &PublicKeys| keys.verify(token, &self.entry.issuer, &self.audiences);
        let claims = match check(&known) {
            Err(TokenRefusal::UnknownKey) => {
                let newer = self.keys.newer_than(attempts).await?;
                check(&newer).map_err(|refusal| match refusal {
                    TokenRefusal::UnknownKey => self.keys.unknown_key(),
                    refusal => refusal.into(),
                })
            }
            checked => checked.map_err(IdTokenRefusal::from),
        };
        Ok(self.named(&claims?)?)
    }

    /// Whom the claims name.
    fn named(&self, claims: &Map<String, Value>) -> Result<Caller, IdTokenRefusal> {
        for (claim, wanted) in &self.entry.required_claims {
            if !claims.get(claim).is_some_and(|it| is_one_of(it, wanted)) {
                return Err(IdTokenRefusal::RequiredClaim(claim.clone()));
            }
        }
        let claim = self.entry.username_claim();
        if claim == "email" && claims.get("email_verified") == Some(&Value::Bool(false)) {
            return Err(IdTokenRefusal::EmailNotVerified);
        }
        let name = claims.get(claim).and_then(Value::as_str);
        let name = name.and_then(|name| prefixed(&self.entry.username_prefix, name));
        let name = name.ok_or_else(|| IdTokenRefusal::Name(claim.to_owned()))?;
        let groups = self.entry.groups_claim.as_ref();
        let groups = groups.and_then(|claim| claims.get(claim));
        Ok(Caller {
            identity: Identity {
                kind: self.entry.callers.kind(),
                name,
            },
            groups: texts(groups)
                .take(GROUPS_MAX)
                .filter_map(|group| prefixed(&self.entry.groups_prefix, group))
                .collect(),
            access_type: ACCESS_TYPE,
            issuer: Some(self.issuer.clone()),
        })
    }
}

/// A name that rules can have; `None` for others, so that nothing of a token reaches a header unseen.
fn prefixed(prefix: &str, name: &str) -> Option<String> {
    let name = (!name.is_empty()).then(|| format!("{prefix}{name}"))?;
    Name::try_from(name).ok().map(String::from)
}

/// A text, or a list of texts.
fn texts(value: Option<&Value>) -> impl Iterator<Item = &str> {
    let (one, all) = match value {
        Some(Value::String(text)) => (Some(text.as_str()), None),
        Some(Value::Array(all)) => (None, Some(all)),
        Some(_) | None => (None, None),
    };
    let all = all.into_iter().flatten().filter_map(Value::as_str);
    one.into_iter().chain(all)
}

/// Whether a claim, or one of its values, is what is wanted, or one of those.
fn is_one_of(claim: &Value, wanted: &Value) -> bool {
    match (claim, wanted) {
        (claim, Value::Array(wanted)) => wanted.iter().any(|it| is_one_of(claim, it)),
        (Value::Array(claims), wanted) => claims.contains(wanted),
        (claim, wanted) => claim == wanted,
    }
}

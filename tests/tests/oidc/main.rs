//! Tokens of OpenID providers: whom they make their callers, and what is refused.

mod issuer;
mod people;
mod provider;

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tests::{
    http::send,
    rig::{Rig, RigAgent},
    wait::until,
};
use tokio::time::Instant;

use issuer::{Issuer, Key};

const SOON: Duration = Duration::from_secs(60);
/// kas asks an issuer for keys at most once in this time.
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(10);

/// kas that trusts an issuer, and an agent that its people may use.
struct Site {
    rig: Rig,
    agent: RigAgent,
    agent_id: String,
    issuer: Issuer,
    key: Key,
}

impl Site {
    async fn start() -> Result<Self> {
        Self::with("username_claim: email, groups_claim: groups").await
    }

    /// The same with these keys of the issuer's section.
    async fn with(section: &str) -> Result<Self> {
        let key = Key::new("first")?;
        let issuer = Issuer::start(&key).await?;
        let rig = Rig::start().await?;
        let file = rig.folder().join("agents.yaml");
        let text = std::fs::read_to_string(&file)?;
        let entry = format!("issuer: '{}', client_id: kas, {section}", issuer.url);
        std::fs::write(&file, format!("{text}issuers: [{{{entry}}}]\n"))?;
        let agent = rig.agent("site").await?;
        let grant = ["access", "grant", "--agent", "site", "--as"];
        rig.kas
            .cli(&[&grant[..], &["user", "--group", "people"]].concat())
            .await?;
        let agent_id = rig.kas.agent_id("site").await?;
        Ok(Self {
            rig,
            agent,
            agent_id,
            issuer,
            key,
        })
    }

    async fn ask(&self, token: &str, path: &str) -> Result<Response<Bytes>> {
        let bearer = format!("oidc:{}:{token}", self.agent_id);
        self.rig.get_as(&bearer, path).await
    }

    /// The status for a token, and what is said.
    async fn verdict(&self, token: &str) -> Result<(StatusCode, String)> {
        let answer = self.ask(token, "/version").await?;
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        Ok((answer.status(), text))
    }

    /// A good token with these claims in place of others.
    fn token(&self, other: &Value) -> Result<String> {
        self.key.sign(&self.issuer.claims(other)?)
    }

    /// Waits until the first key is known.
    async fn ready(&self) -> Result<String> {
        let token = self.token(&json!({}))?;
        let is_good = async || {
            let verdict = self.verdict(&token).await.ok()?;
            (verdict.0 == StatusCode::OK).then_some(())
        };
        until("a token of the issuer is good", SOON, is_good).await?;
        Ok(token)
    }
}

fn is_refused(verdict: &(StatusCode, String), words: &str) -> bool {
    verdict.0 == StatusCode::UNAUTHORIZED && verdict.1.contains(words)
}

#[tokio::test]
async fn a_person_is_in_the_cluster_under_the_name_and_the_groups_of_the_token() -> Result<()> {
    let site = Site::start().await?;
    let token = site.ready().await?;

    let seen = site.ask(&token, "/echo").await?;
    let agents = site.ask(&token, "/-/agents").await?;
    let issuers = site.rig.get_as("nobody", "/-/issuers").await?;

    let seen: Value = serde_json::from_slice(seen.body())?;
    let headers = seen["headers"].to_string();
    for part in [
        "gitlab:user:alice@example.com",
        "gitlab:group:people",
        r#""oidc""#,
    ] {
        ensure!(headers.contains(part), "no {part} in {seen}");
    }
    ensure!(
        !headers.contains("ops team"),
        "a group that no rule can name: {seen}"
    );
    let agents: Value = serde_json::from_slice(agents.body())?;
    ensure!(agents["identity"] == "user:alice@example.com", "{agents}");
    ensure!(agents["agents"][0]["name"] == "site", "{agents}");
    ensure!(agents["agents"][1].is_null(), "{agents}");
    let issuers: Value = serde_json::from_slice(issuers.body())?;
    ensure!(issuers["issuers"][0]["client_id"] == "kas", "{issuers}");
    Ok(())
}

#[tokio::test]
async fn what_is_no_good_token_is_refused_in_words() -> Result<()> {
    let site = Site::with(
        "username_claim: email, groups_claim: groups, required_claims: {tenant: [a, b]}",
    )
    .await?;
    let tenant = |other: Value| {
        let mut claims = json!({"tenant": "a"});
        if let (Some(all), Some(other)) = (claims.as_object_mut(), other.as_object()) {
            all.extend(other.clone());
        }
        site.issuer.claims(&claims)
    };
    let good = site.key.sign(&tenant(json!({}))?)?;
    let is_good = async || (site.verdict(&good).await.ok()?.0 == StatusCode::OK).then_some(());
    until("a token of the issuer is good", SOON, is_good).await?;

    let stranger = Key::new("first")?;
    let wrong: Vec<(String, &str)> = vec![
        (
            site.key.sign(&tenant(json!({"aud": "other"}))?)?,
            "another audience",
        ),
        (
            site.key.sign(&tenant(json!({"exp": 1000}))?)?,
            "has expired",
        ),
        (site.key.sign(&tenant(json!({"exp": null}))?)?, "claims"),
        (
            site.key.sign(&tenant(json!({"nbf": 9_999_999_999_u64}))?)?,
            "not valid yet",
        ),
        (
            site.key
                .sign(&tenant(json!({"iss": "https://other.example"}))?)?,
            "not among those that this server trusts",
        ),
        (
            site.key.sign(&tenant(json!({"tenant": "c"}))?)?,
            "its claim tenant",
        ),
        (
            site.key.sign(&tenant(json!({"email_verified": false}))?)?,
            "not verified",
        ),
        (
            site.key.sign(&tenant(json!({"email": "a b\nc"}))?)?,
            "its claim email is no name",
        ),
        (site.key.unsigned(&tenant(json!({}))?), "signature"),
        (site.key.confused(&tenant(json!({}))?)?, "signature"),
        (stranger.sign(&tenant(json!({}))?)?, "signature is wrong"),
        (format!("{good}x"), ""),
        ("x".repeat(100_000), "not a signed JWT"),
        ("a.b.c".to_owned(), "signature"),
    ];
    for (token, words) in wrong {
        let verdict = site.verdict(&token).await?;
        ensure!(is_refused(&verdict, words), "{words}: {verdict:?}");
        let agents = site.ask(&token, "/-/agents").await?;
        ensure!(agents.status() == StatusCode::UNAUTHORIZED, "{agents:?}");
    }
    ensure!(site.verdict(&good).await?.0 == StatusCode::OK);
    let log = site.rig.kas.process.output();
    ensure!(!log.contains(&good), "a token is in the log");
    Ok(())
}

#[tokio::test]
async fn keys_that_the_issuer_changes_count_soon_and_those_it_withdraws_no_more() -> Result<()> {
    let site = Site::start().await?;
    let old = site.ready().await?;
    let second = Key::new("second")?;
    site.issuer.publish(&[&second]);

    let new = second.sign(&site.issuer.claims(&json!({}))?)?;
    let counts = async || (site.verdict(&new).await.ok()?.0 == StatusCode::OK).then_some(());
    until("the new key counts", SOON, counts).await?;

    let verdict = site.verdict(&old).await?;
    ensure!(is_refused(&verdict, "does not publish"), "{verdict:?}");
    Ok(())
}

#[tokio::test]
async fn an_issuer_that_is_away_stops_nobody_whose_key_is_known() -> Result<()> {
    let site = Site::start().await?;
    let known = site.ready().await?;
    site.issuer.go_away();
    let unknown = Key::new("other")?.sign(&site.issuer.claims(&json!({}))?)?;

    let is_told = async || {
        let verdict = site.verdict(&unknown).await.ok()?;
        is_refused(&verdict, "cannot be asked").then_some(())
    };
    until("who has an unknown key is told why", SOON, is_told).await?;

    ensure!(site.verdict(&known).await?.0 == StatusCode::OK);
    site.rig.check_serves(&site.agent).await
}

#[tokio::test]
async fn a_flood_of_unknown_keys_neither_reaches_the_issuer_nor_those_whose_key_is_known()
-> Result<()> {
    let site = Site::start().await?;
    let known = site.ready().await?;
    let stranger = Key::new("unknown")?.sign(&site.issuer.claims(&json!({}))?)?;
    let agent = &site.agent_id;
    let url = format!("http://127.0.0.1:{}/k8s-proxy/version", site.rig.kas.users);
    let (asked, began) = (site.issuer.asked(), Instant::now());

    for _ in 0..20 {
        let flood = (0..50).map(|_| {
            let request = Request::get(&url)
                .header("authorization", format!("Bearer oidc:{agent}:{stranger}"))
                .body(Bytes::new());
            async { send(request?).await }
        });
        let (flood, bystander) =
            tokio::join!(futures_util::future::join_all(flood), site.verdict(&known));
        ensure!(bystander?.0 == StatusCode::OK);
        for answer in flood {
            let status = answer?.status();
            ensure!(status == StatusCode::UNAUTHORIZED, "{status}");
        }
    }

    let attempts = began.elapsed().as_secs() / BETWEEN_ATTEMPTS.as_secs() + 2;
    let asked = site.issuer.asked() - asked;
    // Two questions an attempt.
    ensure!(
        asked as u64 <= 2 * attempts,
        "{asked} questions in {:?}",
        began.elapsed()
    );
    Ok(())
}

//! Changes that somebody does not wait for, or that cannot be recorded: each has its records or is not made.

use std::fs;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, Response};
use runtime::lock_file::LockFile;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    http::{self as client, Socket},
    kas::{Kas, Options},
    ports,
    wait::until,
};

use super::{LIMIT, TOKEN, text};

struct Site {
    kas: Kas,
    admin: u16,
    folder: TempDir,
}

impl Site {
    /// A server with an administrator and this section `audit`, in which `FOLDER` is its folder.
    async fn start(audit: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let tokens = folder.path().join("tokens");
        fs::write(&tokens, format!("ana role=administrator {TOKEN}\n"))?;
        let admin = ports::free();
        let audit = audit.replace("FOLDER", &folder.path().display().to_string());
        let more = format!(
            "admin: {{listen: {{address: '127.0.0.1:{admin}', tokens_file: {}}}}}\naudit: {audit}",
            tokens.display(),
        );
        let options = Options {
            more: &more,
            ..Options::default()
        };
        let kas = Kas::start(options, folder.path()).await?;
        Ok(Self { kas, admin, folder })
    }

    async fn add(&self, name: &str) -> Result<Response<Bytes>> {
        let request = Request::post(format!("http://127.0.0.1:{}/v1/agents", self.admin))
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("content-type", "application/json");
        client::send(request.body(Bytes::from(json!({"name": name}).to_string()))?).await
    }

    fn agents(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.path().join("agents.yaml"))?)
    }

    /// As another kas command would hold it.
    fn lock(&self) -> Result<LockFile> {
        let file = self.folder.path().join("agents.yaml.lock");
        Ok(LockFile::take(&file, LIMIT)?)
    }

    /// The statuses of the records of who was added; those from before have none.
    fn trail(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.path().join("audit.jsonl")).unwrap_or_default();
        let records = text
            .lines()
            .filter_map(|it| serde_json::from_str::<Value>(it).ok());
        let added = records.filter(|it| it["verb"] == "add_agent");
        added.map(|it| it["status"].clone()).collect()
    }
}

const TO_A_FILE: &str = "{sinks: [{file: {path: FOLDER/audit.jsonl}}]}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_costs_a_change_neither_its_end_nor_its_record() -> Result<()> {
    let site = Site::start(TO_A_FILE).await?;
    let held = site.lock()?;
    let content = json!({"name": "edge"}).to_string();
    let mut leaving = Socket::open(site.admin).await?;
    let asked = format!(
        "POST /v1/agents HTTP/1.1\r\nHost: localhost:{}\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{content}",
        site.admin,
        content.len()
    );
    leaving.write(asked.as_bytes()).await?;
    let begun = async || (site.trail() == [Value::Null]).then_some(());
    let begun = until("the change to begin", LIMIT, begun).await;
    begun.with_context(|| site.kas.process.tail())?;

    drop(leaving);
    drop(held);

    let ended = async || (site.trail() == [Value::Null, json!(200)]).then_some(());
    let ended = until("its end to be recorded", LIMIT, ended).await;
    ended.with_context(|| format!("{:?}\n{}", site.trail(), site.kas.process.tail()))?;
    ensure!(site.agents()?.contains("name: edge"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_another_holds_is_given_up_before_the_answer_is() -> Result<()> {
    let site = Site::start(TO_A_FILE).await?;
    let before = site.agents()?;
    let held = site.lock()?;

    let answer = site.add("edge").await?;

    ensure!(answer.status() == 503, "{}", text(&answer));
    ensure!(
        text(&answer).contains("is locked: another kas command"),
        "{}",
        text(&answer)
    );
    drop(held);
    let ended = async || (site.trail() == [Value::Null, json!(503)]).then_some(());
    until("its end to be recorded", LIMIT, ended).await?;
    ensure!(site.agents()? == before, "it was changed after all");
    let again = site.add("edge").await?;
    ensure!(again.status() == 200, "{}", text(&again));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_records_are_required_nothing_is_changed_without_one() -> Result<()> {
    let nobody = ports::free();
    let audit = format!(
        "{{required: true, required_timeout: 1s, sinks: [{{http: {{url: 'http://127.0.0.1:{nobody}/'}}}}]}}"
    );
    let site = Site::start(&audit).await?;
    let before = site.agents()?;

    let answer = site.add("edge").await?;

    ensure!(
        answer.status() == 503,
        "{}: {}",
        answer.status(),
        text(&answer)
    );
    let level = Request::put(format!("http://127.0.0.1:{}/v1/log-level", site.admin))
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("content-type", "application/json");
    let level = client::send(level.body(Bytes::from(r#"{"level": "debug"}"#))?).await?;
    ensure!(
        level.status() == 503,
        "{}: {}",
        level.status(),
        text(&level)
    );
    ensure!(
        !site
            .kas
            .process
            .output()
            .contains("log level changed by the admin API")
    );
    ensure!(site.agents()? == before, "it was changed without a record");
    Ok(())
}

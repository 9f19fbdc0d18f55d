//! The audit trail of a real server: what a killed replica leaves of an exec, and who finds what was changed.

#[path = "audit/recordings.rs"]
mod recordings;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::Value;
use tempfile::TempDir;
use tests::{
    agentk::{Agentk, Links},
    certs::Certs,
    http as client,
    kas::{Kas, Options},
    ports,
    process::Process,
    programs,
    stub_api::StubApi,
    wait::until,
    websocket::WebSocket,
};
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(60);
const EXEC: &str = "/api/v1/namespaces/default/pods/box/exec?command=sh&command=-c&command=id&container=main&stdin=true";

/// A server with an agent and a user.
struct Site {
    kas: Kas,
    stub: StubApi,
    bearer: String,
    agent: Agentk,
    folder: TempDir,
    admin: u16,
}

impl Site {
    /// One whose section `audit` has these lines besides the file.
    async fn start(sinks: &str, more: &str) -> Result<Self> {
        Self::behind(sinks, more, [""; 2]).await
    }

    /// The same with these lines for the users' port, and for its listener.
    async fn behind(sinks: &str, more: &str, users: [&str; 2]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("audit.jsonl");
        let admin = ports::free();
        let more = format!(
            "audit: {{sinks: [{{file: {{path: {}}}}}{sinks}]{more}}}\n\
             admin: {{listen: {{address: '127.0.0.1:{admin}'}}}}",
            file.display()
        );
        let options = Options {
            more: &more,
            users: users[0],
            users_listen: users[1],
            ..Options::default()
        };
        let kas = Kas::start(options, folder.path()).await?;
        let token = kas.create_agent("site").await?;
        let user = kas.create_user("ana", "site", &["agent"]).await?;
        let bearer = format!("pat:{}:{user}", kas.agent_id("site").await?);
        let stub = StubApi::start().await?;
        let links = Links {
            kas: format!("ws://127.0.0.1:{}/", kas.agents),
            ca: None,
            kubeconfig: stub.kubeconfig(folder.path())?,
        };
        let site = Self {
            agent: Agentk::start("agentk", &links, &token, folder.path())?,
            kas,
            stub,
            bearer,
            folder,
            admin,
        };
        Ok(site)
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Response<Bytes>> {
        let url = format!("http://127.0.0.1:{}/k8s-proxy{path}", self.kas.users);
        let request = Request::builder().method(method).uri(url);
        let request = request.header("authorization", format!("Bearer {}", self.bearer));
        client::send(request.body(Bytes::new())?).await
    }

    async fn is_served(&self) -> Result<()> {
        let served = async || {
            let answer = self.ask(Method::GET, "/version").await.ok()?;
            answer.status().is_success().then_some(())
        };
        let served = until("the agent", LIMIT, served).await;
        served
            .with_context(|| format!("{}\n{}", self.kas.process.tail(), self.agent.process.tail()))
    }

    async fn exec(&self) -> Result<WebSocket> {
        let authorization = format!("Authorization: Bearer {}", self.bearer);
        let lines = [
            authorization.as_str(),
            "Sec-WebSocket-Protocol: v5.channel.k8s.io",
            "X-Request-Id: the-exec",
        ];
        WebSocket::open(self.kas.users, &format!("/k8s-proxy{EXEC}"), &lines).await
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("audit.jsonl")
    }

    /// The records of a request.
    fn records(&self, request_id: &str) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.file())?;
        let records = text.lines().map(serde_json::from_str::<Value>);
        let mut found = records.collect::<Result<Vec<_>, _>>()?;
        found.retain(|record| record["request_id"] == request_id);
        Ok(found)
    }

    /// What `kas audit ARGS` exits with, and says.
    async fn audit(&self, args: &[&str]) -> Result<(bool, String)> {
        let mut command = Command::new(programs::kas()?);
        command.arg("audit").args(args).arg(self.file());
        let output = command.kill_on_drop(true).output().await?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        Ok((output.status.success(), said))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_replica_leaves_the_begin_of_an_exec_and_a_flipped_byte_is_found() -> Result<()> {
    let mut site = Site::start("", "").await?;
    site.is_served().await?;

    let exec = site.exec().await?;
    let begun = async || site.records("the-exec").ok().filter(|it| !it.is_empty());
    until("the begin record", LIMIT, begun).await?;
    site.kas.restart().await?;
    drop(exec);

    let records = site.records("the-exec")?;
    let [begin] = &records[..] else {
        anyhow::bail!("{records:?}");
    };
    let expected = [
        ("kind", "begin"),
        ("user", "user:ana"),
        ("rule", "access[0]"),
        ("verb", "get"),
        ("resource", "pods"),
        ("subresource", "exec"),
        ("namespace", "default"),
        ("name", "box"),
        ("container", "main"),
    ];
    for (key, value) in expected {
        ensure!(begin[key] == value, "{key}: {begin}");
    }
    ensure!(
        begin["command"] == serde_json::json!(["sh", "-c", "id"]),
        "{begin}"
    );
    ensure!(begin["agent"]["name"] == "site", "{begin}");
    ensure!(begin["token_id"].is_string(), "{begin}");
    let text = fs::read_to_string(site.file())?;
    let (_, token) = site.bearer.rsplit_once(':').context("no token")?;
    ensure!(!text.contains(token), "the trail has a token");
    let (ok, said) = site.audit(&["verify"]).await?;
    ensure!(ok && said.contains("0 of them not sound"), "{said}");
    let (ok, said) = site
        .audit(&["search", "--verb", "exec", "--user", "ana"])
        .await?;
    ensure!(ok && said.contains("get default/pods/box/exec"), "{said}");

    let mut bytes = text.into_bytes();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(site.file(), bytes)?;

    let (ok, said) = site.audit(&["verify"]).await?;
    ensure!(!ok && said.contains("1 of them not sound"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_changes_the_file_leaves_a_record_of_what_was_granted() -> Result<()> {
    let site = Site::start("", "").await?;
    site.kas.create_user("bob", "site", &["agent"]).await?;

    let granted = async || {
        let text = fs::read_to_string(site.file()).ok()?;
        let changes = text.lines().filter(|it| it.contains("\"kind\":\"change\""));
        let all: String = changes.collect();
        let is_told = all.contains("\"change\":\"added\",\"subject\":\"user:bob\"")
            && all.contains("\"change\":\"added\",\"subject\":\"access[1]\"");
        is_told.then_some(all)
    };
    let told = until("the change", LIMIT, granted).await;

    let told = told.with_context(|| site.kas.process.tail())?;
    ensure!(told.contains("\"change\":\"loaded\""), "{told}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_changes_something_by_the_admin_api_leaves_a_record_and_who_asks_none() -> Result<()>
{
    let site = Site::start("", "").await?;
    let url = format!("http://127.0.0.1:{}/v1", site.admin);
    let asked = client::get(&format!("{url}/status"), "").await?;
    ensure!(asked.status().is_success(), "{asked:?}");

    let change =
        Request::put(format!("{url}/log-level")).header("content-type", "application/json");
    let change = change.body(Bytes::from(r#"{"level": "debug", "replica": ""}"#))?;
    let changed = client::send(change).await?;

    ensure!(changed.status().is_success(), "{changed:?}");
    let recorded = async || {
        let text = fs::read_to_string(site.file()).ok()?;
        let of_admins = text.lines().filter(|it| it.contains("\"kind\":\"admin\""));
        let of_admins: Vec<_> = of_admins.map(str::to_owned).collect();
        (of_admins.len() >= 2).then_some(of_admins)
    };
    let records = until("the records", LIMIT, recorded).await?;
    let [before, after] = &records[..] else {
        anyhow::bail!("{records:?}");
    };
    for record in [before, after] {
        for words in [
            "\"user\":\"admin:this machine\"",
            "\"role\":\"operator\"",
            "\"verb\":\"set_log_level\"",
            "/v1/log-level",
        ] {
            ensure!(record.contains(words), "no {words}: {record}");
        }
    }
    ensure!(!before.contains("\"status\""), "{before}");
    ensure!(after.contains("\"status\":200"), "{after}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exec_that_ends_has_the_id_of_the_clusters_own_audit_trail() -> Result<()> {
    let site = Site::start("", "").await?;
    site.is_served().await?;

    drop(site.exec().await?);

    let both = async || site.records("the-exec").ok().filter(|it| it.len() == 2);
    let records = until("both records", LIMIT, both).await?;
    let end = &records[1];
    ensure!(end["kind"] == "end" && end["status"] == 101, "{end}");
    ensure!(end["cluster_audit_id"] == "stub-audit-id", "{end}");
    ensure!(end["acts_as"] == serde_json::json!({"agent": {}}), "{end}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_behind_trusted_proxies_is_known_by_its_own_address() -> Result<()> {
    let users = ["trusted_proxies: [203.0.113.0/24]", "proxy_protocol: true"];
    let site = Site::behind("", "", users).await?;
    let bearer = &site.bearer;
    let head = format!(
        "PROXY TCP4 203.0.113.7 127.0.0.1 4000 8154\r\nGET /k8s-proxy/version HTTP/1.1\r\nHost: kas\r\n\
         Authorization: Bearer {bearer}\r\nX-Forwarded-For: 1.1.1.1, 198.51.100.9\r\nX-Request-Id: behind\r\n\r\n"
    );
    let mut socket = client::Socket::open(site.kas.users).await?;

    socket.write(head.as_bytes()).await?;

    let recorded = async || site.records("behind").ok().filter(|it| !it.is_empty());
    let records = until("the record", LIMIT, recorded).await?;
    ensure!(records[0]["client"] == "198.51.100.9", "{records:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_use_an_agent_is_named_in_the_record_of_the_refusal() -> Result<()> {
    let site = Site::start("", "").await?;
    site.kas.create_agent("other").await?;
    let token = site.kas.create_user("bob", "other", &["agent"]).await?;
    let bearer = format!("pat:{}:{token}", site.kas.agent_id("site").await?);
    let url = format!("http://127.0.0.1:{}/k8s-proxy/version", site.kas.users);
    let request = Request::builder()
        .uri(url)
        .header("authorization", format!("Bearer {bearer}"))
        .header("x-request-id", "refused");

    let answer = client::send(request.body(Bytes::new())?).await?;

    ensure!(answer.status() == 403, "{answer:?}");
    let recorded = async || site.records("refused").ok().filter(|it| !it.is_empty());
    let records = until("the record", LIMIT, recorded).await?;
    let [record] = &records[..] else {
        anyhow::bail!("{records:?}");
    };
    ensure!(
        record["user"] == "user:bob" && record["status"] == 403,
        "{record}"
    );
    let (found, said) = site.audit(&["search", "--user", "bob"]).await?;
    ensure!(found && said.contains("refused"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_records_are_required_nothing_reaches_the_cluster_without_one() -> Result<()> {
    let hung = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let sink = format!(", {{http: {{url: 'http://{}/'}}}}", hung.local_addr()?);
    let site = Site::start(&sink, ", required: true, required_timeout: 1s").await?;
    site.is_served().await?;

    let refused = site.ask(Method::POST, "/echo").await?;

    let body = String::from_utf8_lossy(refused.body());
    ensure!(refused.status() == 503, "{refused:?}");
    ensure!(
        body.contains("was not written within 1 s, or too many wait (sink: http)"),
        "{body}"
    );
    let asked = site.stub.seen().asked();
    ensure!(!asked.iter().any(|it| it.contains("echo")), "{asked:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_syslog_server_gets_records_by_tls_and_none_where_its_certificate_is_of_another()
-> Result<()> {
    let folder = tempfile::tempdir()?;
    let certs = Certs::create(folder.path())?;
    let start = |name: &str, port: u16| {
        let mut command = Command::new("openssl");
        command
            .args(["s_server", "-quiet", "-accept", &port.to_string()])
            .arg("-cert")
            .arg(&certs.certificate)
            .arg("-key")
            .arg(&certs.key);
        Process::spawn(name, &mut command, folder.path())
    };
    let [good, other] = [ports::free(), ports::free()];
    let server = start("syslog", good)?;
    let _distrusted = start("distrusted", other)?;
    let ca = certs.ca.display();
    let sinks = format!(
        ", {{syslog: {{address: 'tls://localhost:{good}', ca_certificate_file: {ca}}}}}, \
         {{syslog: {{address: 'tls://localhost:{other}'}}}}"
    );
    let site = Site::start(&sinks, "").await?;

    let told = async || {
        let said = server.output();
        let is_told = said.contains("<110>1 ") && said.contains("\"kind\":\"change\"");
        is_told.then_some(said)
    };
    let said = until("the records", LIMIT, told).await;

    let said = said.with_context(|| site.kas.process.tail())?;
    ensure!(said.matches("\"kind\":\"start\"").count() == 1, "{said}");
    let failing = async || {
        let log = site.kas.process.output();
        log.contains("an audit sink cannot be written")
            .then_some(())
    };
    until("the other sink to fail", LIMIT, failing).await?;
    Ok(())
}

//! Recordings of what people saw: made, played, checked; and what becomes of sessions that cannot be recorded.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{
    agentk::{Agentk, Links},
    certs::Certs,
    kas::{Kas, Options, Server},
    kube::Cluster,
    kubectl::{Kubectl, Streams},
    parts::{Part, skipped},
    programs,
    wait::until,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};

use super::{EXEC, LIMIT, Site};

/// What a user sees who executes it.
const COMMAND: [&str; 3] = [
    "sh",
    "-c",
    "echo out; printf 'gr\\303\\274n\\n'; seq 1 3000; printf '\\033[1mbold\\033[0m\\n'",
];

/// An exec of a user at the stub, which says what it is told.
struct Echo(TcpStream);

impl Echo {
    async fn open(site: &Site, user: &str, token: &str, id: &str) -> Result<(Self, String)> {
        let (agent, port) = (site.kas.agent_id("site").await?, site.kas.users);
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let head = format!(
            "GET /k8s-proxy{EXEC} HTTP/1.1\r\nHost: kas\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Authorization: Bearer pat:{agent}:{token}\r\nX-Request-Id: {id}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut said = Vec::new();
        while !said.ends_with(b"\r\n\r\n") {
            said.push(stream.read_u8().await.context(user.to_owned())?);
        }
        Ok((Self(stream), String::from_utf8_lossy(&said).into_owned()))
    }

    /// Has the stub show a text on the channel of output.
    async fn show(&mut self, text: &str) -> Result<()> {
        let length = u16::try_from(text.len() + 1)?.to_be_bytes();
        // Not masked, since the stub says it as a server.
        let frame = [&[0x82, 126], &length[..], &[1], text.as_bytes()].concat();
        Ok(self.0.write_all(&frame).await?)
    }

    /// Waits until the stub has said a text.
    async fn shows(&mut self, text: &str) -> Result<()> {
        let mut said = Vec::new();
        while !String::from_utf8_lossy(&said).contains(text) {
            let byte = tokio::time::timeout(LIMIT, self.0.read_u8()).await;
            said.push(byte.context("it says nothing")??);
        }
        Ok(())
    }

    /// All that comes until the end.
    async fn rest(mut self) -> Result<String> {
        let mut rest = Vec::new();
        let read = self.0.read_to_end(&mut rest);
        tokio::time::timeout(LIMIT, read)
            .await
            .context("it does not end")??;
        Ok(String::from_utf8_lossy(&rest).into_owned())
    }
}

/// The end record of a request, once it is there.
async fn end_of(site: &Site, request_id: &str) -> Result<Value> {
    let ended = async || {
        let records = site.records(request_id).ok()?;
        records.into_iter().find(|it| it["kind"] == "end")
    };
    let ended = until("the end record", LIMIT, ended).await;
    ended.with_context(|| site.kas.process.tail())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_must_be_recorded_has_no_session_without_and_a_bystander_is_not_disturbed() -> Result<()>
{
    let place = tempfile::tempdir()?;
    let folder = place.path().join("recordings");
    let more = format!(
        ", recording: {{folder: {}, max_bytes: 4000}}",
        folder.display()
    );
    let site = Site::start("", &more).await?;
    let must = ["agent", "--record", "required"];
    let token = site.kas.create_user("eve", "site", &must).await?;
    site.is_served().await?;
    let (_, own) = site.bearer.rsplit_once(':').context("no token")?;

    let (mut bystander, head) = Echo::open(&site, "ana", own, "bystander").await?;
    ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
    let (mut recorded, head) = Echo::open(&site, "eve", &token, "recorded").await?;
    ensure!(
        head.starts_with("HTTP/1.1 101"),
        "{head}\n{}",
        site.kas.process.tail()
    );
    recorded.show("seen and kept").await?;
    recorded.shows("seen and kept").await?;
    // More than a recording may have.
    recorded.show(&"x".repeat(5000)).await?;
    let said = recorded.rest().await?;

    ensure!(said.contains("must be recorded"), "{said}");
    let end = end_of(&site, "recorded").await?;
    let reason = end["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("has reached the size"), "{end}");
    let file = folder.join(end["recording"]["file"].as_str().context("no file")?);
    let text = fs::read_to_string(&file)?;
    let mode = fs::metadata(&file)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600 && text.len() <= 4000, "{mode:o}: {text}");
    ensure!(text.contains("\"o\", \"seen and kept\""), "{text}");
    let head: Value = serde_json::from_str(text.lines().next().context("no head")?)?;
    ensure!(
        head["version"] == 2 && head["kas"]["user"] == "user:eve",
        "{head}"
    );
    ensure!(
        head["command"] == "sh -c id" && head["kas"]["name"] == "box",
        "{head}"
    );
    let begin = &site.records("recorded")?[0];
    ensure!(
        begin["recording"]["file"] == end["recording"]["file"],
        "{begin}"
    );

    fs::remove_dir_all(&folder)?;
    let (_, head) = Echo::open(&site, "eve", &token, "refused").await?;
    ensure!(head.starts_with("HTTP/1.1 503"), "{head}");
    let end = end_of(&site, "refused").await?;
    let reason = end["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("the recording cannot be written"), "{end}");
    let asked = site.stub.seen().asked();
    let execs = asked.iter().filter(|it| it.contains("/exec")).count();
    ensure!(execs == 2, "{asked:?}");

    bystander.show("still here").await?;
    bystander.shows("still here").await?;
    drop(bystander);
    let end = end_of(&site, "bystander").await?;
    ensure!(
        end["recording"].is_null() && end["reason"].is_null(),
        "{end}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_that_a_killed_replica_has_left_is_told_at_the_next_start() -> Result<()> {
    let place = tempfile::tempdir()?;
    let folder = place.path().display();
    let more = format!(", recording: {{folder: {folder}, sessions: all}}");
    let mut site = Site::start("", &more).await?;
    site.is_served().await?;
    let (_, own) = site.bearer.rsplit_once(':').context("no token")?;
    let (mut echo, _) = Echo::open(&site, "ana", own, "the-exec").await?;
    echo.show("before the end").await?;
    echo.shows("before the end").await?;
    let written = async || {
        let mut files = fs::read_dir(place.path()).ok()?.filter_map(Result::ok);
        let mut texts = files
            .by_ref()
            .filter_map(|it| fs::read_to_string(it.path()).ok());
        texts.any(|it| it.contains("before the end")).then_some(())
    };
    until("the recording", LIMIT, written).await?;

    site.kas.restart().await?;

    let told = async || {
        let text = fs::read_to_string(site.file()).ok()?;
        let mut lines = text.lines();
        let told = lines.find(|it| it.contains("\"kind\":\"recording\""))?;
        serde_json::from_str::<Value>(told).ok()
    };
    let told = until("the record of what is left", LIMIT, told).await?;
    let begin = &site.records("the-exec")?[0];
    ensure!(
        told["recording"]["file"] == begin["recording"]["file"],
        "{told}"
    );
    let verify = ["verify", "--recordings", &folder.to_string()];
    let (ok, said) = site.audit(&verify).await?;
    ensure!(
        ok && said.contains("1 recordings are as they were"),
        "{said}"
    );
    Ok(())
}

/// A server with recordings before a real cluster.
struct Real {
    kas: Kas,
    _agent: Agentk,
    folder: PathBuf,
    server: Server,
}

impl Real {
    async fn start(cluster: &Cluster, folder: &Path) -> Result<Self> {
        let certs = Certs::create(&folder.join("certs"))?;
        let more = format!(
            "audit: {{sinks: [{{file: {{path: {0}/audit.jsonl}}}}], recording: {{folder: {0}/recordings}}}}",
            folder.display()
        );
        let options = Options {
            more: &more,
            user_tls: Some(&certs),
            ..Options::default()
        };
        let kas = Kas::start(options, folder).await?;
        let token = kas.create_agent("site").await?;
        let links = Links {
            kas: format!("ws://127.0.0.1:{}/", kas.agents),
            ca: None,
            kubeconfig: cluster.agent_kubeconfig(),
        };
        Ok(Self {
            _agent: Agentk::start("agentk", &links, &token, folder)?,
            server: Server {
                url: format!("https://localhost:{}/k8s-proxy/", kas.users),
                ca: certs.ca.clone(),
            },
            kas,
            folder: folder.to_owned(),
        })
    }

    async fn user(&self, name: &str, access: &[&str]) -> Result<Kubectl> {
        let token = self.kas.create_user(name, "site", access).await?;
        let kubectl = self
            .kas
            .kubectl("site", ["--user", name], &token, &self.server);
        let kubectl = kubectl.await?;
        let serves = async || kubectl.ok(&["get", "--raw", "/version"]).await.ok();
        let serves = until("the agent to serve", LIMIT, serves).await;
        serves.with_context(|| self.kas.process.tail())?;
        Ok(kubectl)
    }

    /// The end records of a user's sessions, once there are so many.
    async fn ends(&self, user: &str, count: usize) -> Result<Vec<Value>> {
        let ended = async || {
            let text = fs::read_to_string(self.folder.join("audit.jsonl")).ok()?;
            let records = text
                .lines()
                .filter_map(|it| serde_json::from_str::<Value>(it).ok());
            let is_session = |it: &Value| {
                let what = it["subresource"].as_str();
                it["kind"] == "end" && it["user"] == user && matches!(what, Some("exec" | "attach"))
            };
            let ends: Vec<_> = records.filter(is_session).collect();
            (ends.len() >= count).then_some(ends)
        };
        let ended = until("the end records", LIMIT, ended).await;
        ended.with_context(|| self.kas.process.tail())
    }

    async fn audit(&self, args: &[&str]) -> Result<(bool, Vec<u8>)> {
        let mut command = Command::new(programs::kas()?);
        let output = command.arg("audit").args(args).kill_on_drop(true).output();
        let output = output.await?;
        Ok((
            output.status.success(),
            [output.stdout, output.stderr].concat(),
        ))
    }

    fn recordings(&self) -> String {
        self.folder.join("recordings").display().to_string()
    }

    /// What is played of the recording of an end record.
    async fn played(&self, end: &Value) -> Result<String> {
        let file = end["recording"]["file"].as_str().context("no recording")?;
        let session = file.trim_end_matches(".cast");
        let folder = self.recordings();
        let play = ["play", session, "--folder", &folder, "--no-wait"];
        let (ok, said) = self.audit(&play).await?;
        let said = String::from_utf8(said)?;
        ensure!(ok, "{said}");
        Ok(said)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_kubectl_showed_is_played_again_and_a_flipped_byte_is_found() -> Result<()> {
    const NAME: &str = "what_kubectl_showed_is_played_again_and_a_flipped_byte_is_found";
    if skipped(NAME, &[Part::Cluster]) {
        return Ok(());
    }
    Cluster::with_box(record).await
}

async fn record(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let site = Real::start(cluster, folder.path()).await?;
    let eve = site.user("eve", &["agent", "--record", "required"]).await?;
    let bystander = site.user("ana", &["agent"]).await?;
    let mut ends = 0;
    for over in [Streams::WebSocket, Streams::Spdy] {
        let kubectl = eve.over(over);
        let exec = ["exec", "box", "--"];

        let shown = kubectl.ok(&[&exec[..], &COMMAND].concat()).await?;
        let echoed = kubectl
            .ok_with(&["exec", "-i", "box", "--", "cat"], b"a secret\n")
            .await?;
        let command = "stty size; read word; echo terminal and $word";
        let name = format!("terminal-{over:?}");
        let words = ["exec", "-it", "box", "--", "sh", "-c", command];
        let mut terminal = kubectl.at_terminal(&name, &words, folder.path())?;
        terminal.write("hello\n").await?;
        terminal.wait_for("terminal and hello", LIMIT).await?;
        terminal.ended(LIMIT).await?;

        let name = format!("attach-{over:?}");
        let mut attached = kubectl.start(&name, &["attach", "box"], folder.path())?;
        attached.wait_for("tick", LIMIT).await?;
        attached.end_by("KILL", LIMIT).await?;

        let all = site.ends("user:eve", ends + 4).await?;
        let [exec, cat, tty, attach] = &all[ends..] else {
            anyhow::bail!("{all:#?}");
        };
        ends += 4;
        let verb = match over {
            Streams::WebSocket => "get",
            Streams::Spdy => "create",
        };
        ensure!(
            exec["verb"] == verb && exec["recording"]["reason"].is_null(),
            "{exec:#}"
        );
        ensure!(
            site.played(exec).await? == shown,
            "{over:?}: another text than {shown}"
        );
        // What is typed is not recorded; what `cat` shows is.
        ensure!(
            site.played(cat).await? == echoed,
            "{over:?}: another text than {echoed}"
        );
        let played = site.played(tty).await?;
        ensure!(played.contains("terminal and hello"), "{played}");
        let attached = site.played(attach).await?;
        ensure!(attached.contains("tick "), "{attached}");
        let file = tty["recording"]["file"].as_str().context("no file")?;
        let text = fs::read_to_string(folder.path().join("recordings").join(file))?;
        ensure!(
            text.contains("\"r\", \""),
            "no size of the terminal: {text}"
        );
        ensure!(!text.contains("\"i\""), "what is typed: {text}");
    }
    let seen = bystander.ok(&["exec", "box", "--", "echo", "mine"]).await?;
    let own = site.ends("user:ana", 1).await?;
    ensure!(
        seen == "mine\n" && own[0]["recording"].is_null(),
        "{own:#?}"
    );

    let trail = folder.path().join("audit.jsonl").display().to_string();
    let verify = ["verify", &trail, "--recordings", &site.recordings()];
    let (ok, said) = site.audit(&verify).await?;
    let said = String::from_utf8_lossy(&said);
    ensure!(
        ok && said.contains("8 recordings are as they were written"),
        "{said}"
    );
    let ended = site.ends("user:eve", ends).await?;
    let file = ended[0]["recording"]["file"].as_str().context("no file")?;
    let file = folder.path().join("recordings").join(file);
    let mut bytes = fs::read(&file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes)?;
    let (ok, said) = site.audit(&verify).await?;
    let said = String::from_utf8_lossy(&said);
    ensure!(!ok && said.contains("of this record was changed"), "{said}");
    Ok(())
}

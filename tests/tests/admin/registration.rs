//! Clusters that are added, and tokens that are made and taken away, through the operators' API: by who has proved who
//! they are, on a file that can be written; each token is told once and written down nowhere.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    agentk::{Agentk, Links},
    browser,
    http::{self as client, Socket},
    kas::{Kas, Options, run_cli},
    parts::{Part, skipped},
    ports,
    process::Process,
    programs,
    stub_api::StubApi,
    wait::{until, until_accepts},
};
use tokio::process::Command;

use super::{LIMIT, TOKEN, admin_section, ask, get, kas, text};

/// A server that lets in whoever has a token, and keeps an audit trail.
struct Site {
    kas: Kas,
    admin: u16,
    folder: TempDir,
}

impl Site {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let tokens = folder.path().join("tokens");
        fs::write(&tokens, format!("ana role=administrator {TOKEN}\n"))?;
        let admin = ports::free();
        let keys = format!("tokens_file: {}", tokens.display());
        let trail = folder.path().join("audit.jsonl");
        let audit = format!(
            "audit: {{sinks: [{{file: {{path: {}}}}}]}}",
            trail.display()
        );
        let more = admin_section(admin, &keys) + &audit;
        let options = Options {
            more: &more,
            ..Options::default()
        };
        let kas = Kas::start(options, folder.path()).await?;
        Ok(Self { kas, admin, folder })
    }

    async fn send(&self, method: Method, path: &str, content: &Value) -> Result<Response<Bytes>> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://127.0.0.1:{}{path}", self.admin))
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("content-type", "application/json");
        client::send(request.body(Bytes::from(content.to_string()))?).await
    }

    async fn done(&self, method: Method, path: &str, content: &Value) -> Result<Value> {
        let answer = self.send(method, path, content).await?;
        ensure!(answer.status() == 200, "{path}: {}", text(&answer));
        Ok(serde_json::from_slice(answer.body())?)
    }

    fn links(&self, stub: &StubApi) -> Result<Links> {
        Ok(Links {
            kas: format!("ws://127.0.0.1:{}/", self.kas.agents),
            ca: None,
            kubeconfig: stub.kubeconfig(self.folder.path())?,
        })
    }
}

fn word<'a>(answer: &'a Value, name: &str) -> Result<&'a str> {
    let word = answer[name].as_str();
    word.with_context(|| format!("no {name}: {answer:#}"))
}

/// An agentk with the join token that is there.
fn joining(site: &Site, links: &Links, token: &str) -> Result<Process> {
    let folder = site.folder.path();
    fs::write(folder.join("join-token"), token)?;
    let mut command = Command::new(programs::own_agentk()?);
    command
        .args(["--kas-address", &links.kas])
        .arg("--join-token-file")
        .arg(folder.join("join-token"))
        .arg("--token-file")
        .arg(folder.join("own-token"))
        .arg("--kubeconfig")
        .arg(&links.kubeconfig)
        .arg(format!(
            "--observability-listen-address=127.0.0.1:{}",
            ports::free()
        ))
        .envs([("POD_NAMESPACE", "default"), ("POD_NAME", "edge")])
        .env_remove("KUBECONFIG");
    Process::spawn("joining", &mut command, folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_added_its_agent_arrives_and_no_token_is_written_down() -> Result<()> {
    let site = Site::start().await?;
    let stub = StubApi::start().await?;
    let mut events = Socket::open(site.admin).await?;
    let asked = format!(
        "GET /v1/events HTTP/1.1\r\nHost: localhost:{}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n",
        site.admin
    );
    events.write(asked.as_bytes()).await?;
    events.read_until(": listening\n\n", LIMIT).await?;

    let wanted = json!({"name": "edge", "kas_address": "wss://kas.example.com"});
    let made = site.done(Method::POST, "/v1/agents", &wanted).await?;

    let join_token = word(&made, "token")?.to_owned();
    ensure!(
        made["agent"] == json!({"id": 2, "name": "edge"}),
        "{made:#}"
    );
    let helm = word(&made, "helm")?;
    let set = format!("config.kasAddress=wss://kas.example.com,config.joinToken={join_token}");
    ensure!(
        helm.starts_with("helm install edge ") && helm.contains(&set),
        "{helm}"
    );
    ensure!(word(&made, "agentk")?.contains(&join_token), "{made:#}");
    let _agentk = joining(&site, &site.links(&stub)?, &join_token)?;
    let event = events.read_until("\"missed\":0}\n\n", LIMIT).await?;
    ensure!(event.contains("event: agent.connected"), "{event}");
    ensure!(event.contains("\"name\":\"edge\""), "{event}");

    let rotated = site
        .done(Method::POST, "/v1/agents/2/rotate-token", &json!({}))
        .await?;
    let token = word(&rotated, "token")?.to_owned();
    ensure!(rotated["grace_seconds"] == 86_400, "{rotated:#}");
    let again = Agentk::start("again", &site.links(&stub)?, &token, site.folder.path())?;
    let both = async || {
        let told = site
            .done(Method::GET, "/v1/agents/edge", &json!({}))
            .await
            .ok()?;
        (told["agent"]["process_count"] == 2).then_some(())
    };
    let both = until("the new token to be good beside the old one", LIMIT, both).await;
    both.with_context(|| again.process.tail())?;

    let revoked = site
        .done(Method::DELETE, "/v1/agents/edge/tokens", &json!({}))
        .await?;
    ensure!(revoked["revoked"] == 2, "{revoked:#}");
    let gone = async || {
        let told = site
            .done(Method::GET, "/v1/agents/edge", &json!({}))
            .await
            .ok()?;
        (told["agent"]["state"] == "disconnected").then_some(())
    };
    let gone = until("the agent to be shut out", LIMIT, gone).await;
    gone.with_context(|| site.kas.process.tail())?;
    events.read_until("event: agent.refused\n", LIMIT).await?;
    let event = events.read_until("\"missed\":0}\n\n", LIMIT).await?;
    ensure!(event.contains("\"name\":\"edge\""), "{event}");
    ensure!(event.contains("\"remote_addr\":\"127.0.0.1"), "{event}");
    let wanted = json!({"lifetime_seconds": 60});
    let next = site
        .done(Method::POST, "/v1/agents/edge/join-token", &wanted)
        .await?;

    let trail = async || {
        let trail = fs::read_to_string(site.folder.path().join("audit.jsonl")).ok()?;
        let has = |verb: &str| {
            trail
                .lines()
                .any(|it| it.contains(verb) && it.contains("admin:ana"))
        };
        let verbs = [
            "add_agent",
            "rotate_agent_token",
            "revoke_agent",
            "create_join_token",
        ];
        verbs.into_iter().all(has).then_some(trail)
    };
    let trail = until("the trail to say who did what", LIMIT, trail).await?;
    let (log, file) = (
        site.kas.process.output(),
        fs::read_to_string(site.folder.path().join("agents.yaml"))?,
    );
    for secret in [&*join_token, &*token, word(&next, "token")?, TOKEN] {
        for (place, written) in [("trail", &trail), ("log", &log), ("file", &file)] {
            ensure!(!written.contains(secret), "a token is in the {place}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_said_in_one_sentence_and_changes_nothing() -> Result<()> {
    let site = Site::start().await?;
    let before = fs::read_to_string(site.folder.path().join("agents.yaml"))?;

    for (path, content, status, words) in [
        (
            "/v1/agents",
            json!({"name": "first"}),
            400,
            "exists already",
        ),
        (
            "/v1/agents",
            json!({"name": "42"}),
            400,
            "digits alone are an agent's number",
        ),
        (
            "/v1/agents",
            json!({"name": "No Name"}),
            400,
            "is not a name for an agent",
        ),
        (
            "/v1/agents",
            json!({"name": "x", "kas_address": "wss://kas;id"}),
            400,
            "wss://kas.example.com",
        ),
        (
            "/v1/agents",
            json!({"name": "x", "lifetime_seconds": 604_801}),
            400,
            "at most 168h",
        ),
        (
            "/v1/agents/frist/join-token",
            json!({}),
            404,
            "is registered",
        ),
        ("/v1/agents/9/rotate-token", json!({}), 404, "is registered"),
    ] {
        let refused = site.send(Method::POST, path, &content).await?;
        ensure!(
            refused.status() == status,
            "{path} {content}: {}",
            text(&refused)
        );
        ensure!(text(&refused).contains(words), "{}", text(&refused));
    }
    let refused = site
        .send(Method::DELETE, "/v1/agents/9/tokens", &json!({}))
        .await?;
    ensure!(refused.status() == 404, "{}", text(&refused));
    let possible = site
        .done(Method::GET, "/v1/registration", &json!({}))
        .await?;
    ensure!(
        possible == json!({"possible": true, "problem": ""}),
        "{possible:#}"
    );
    let stranger = get(site.admin, "/v1/registration").await?;
    ensure!(stranger.status() == 401, "{stranger:?}");

    let after = fs::read_to_string(site.folder.path().join("agents.yaml"))?;
    ensure!(before == after, "{after}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_not_proved_who_they_are_gets_a_kubeconfig_without_a_token_and_no_tokens()
-> Result<()> {
    let folder = tempfile::tempdir()?;
    let (kas, port) = kas("", folder.path()).await?;

    let told = ask(port, "/v1/registration").await?;
    ensure!(told["possible"] == false, "{told:#}");
    ensure!(
        word(&told, "problem")?.contains("admin.listen.tokens_file"),
        "{told:#}"
    );
    for (method, path) in [
        (Method::POST, "/v1/agents"),
        (Method::POST, "/v1/agents/first/join-token"),
        (Method::POST, "/v1/agents/first/rotate-token"),
        (Method::DELETE, "/v1/agents/first/tokens"),
    ] {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://127.0.0.1:{port}{path}"))
            .header("content-type", "application/json");
        let refused = client::send(request.body(Bytes::from(r#"{"name": "edge"}"#))?).await?;
        ensure!(refused.status() == 403, "{path}: {}", text(&refused));
    }
    let server = "https://kas.example.com/k8s-proxy/";
    let told = ask(
        port,
        &format!("/v1/agents/first/kubeconfig?server={server}"),
    )
    .await?;
    let file = word(&told, "kubeconfig")?;
    ensure!(file.contains("token: pat:1:YOUR-TOKEN"), "{file}");
    ensure!(file.contains(&format!("server: {server}")), "{file}");
    ensure!(told["credential"] == "placeholder", "{told:#}");
    let wrong = get(port, "/v1/agents/first/kubeconfig?server=kas").await?;
    ensure!(wrong.status() == 400, "{}", text(&wrong));

    const NAME: &str = "the page says why no tokens are made";
    if skipped(NAME, &[Part::Chromium]) {
        return Ok(());
    }
    for (view, words) in [
        ("#/add", "Not here: this needs the role administrator"),
        ("#/clusters/first", "Tokens are not changed here: "),
    ] {
        let url = format!("http://127.0.0.1:{port}/{view}");
        browser::shows(&url, &[words], folder.path()).await?;
    }
    drop(kas);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_agent_that_is_called_like_a_number_is_never_taken_for_another() -> Result<()> {
    let site = Site::start().await?;
    let file = site.folder.path().join("agents.yaml");
    let text_of_old = "agents: [{id: 7, name: '12'}, {id: 12, name: prod}, {id: 3, name: '99'}]\n";
    let new = site.folder.path().join("new");
    fs::write(&new, text_of_old)?;
    fs::rename(&new, &file)?;
    let known = async || {
        let told = site
            .done(Method::GET, "/v1/agents/prod", &json!({}))
            .await
            .ok()?;
        (told["agent"]["id"] == 12).then_some(())
    };
    until("the file to be read", LIMIT, known).await?;

    for (asked, name) in [("12", "prod"), ("7", "12"), ("99", "99"), ("3", "99")] {
        let told = site
            .done(Method::GET, &format!("/v1/agents/{asked}"), &json!({}))
            .await?;
        ensure!(told["agent"]["name"] == name, "{asked}: {told:#}");
    }
    let rotate = async |agent: &str| {
        let path = format!("/v1/agents/{agent}/rotate-token");
        site.send(Method::POST, &path, &json!({})).await
    };
    let refused = rotate("12").await?;
    ensure!(refused.status() == 400, "{}", text(&refused));
    ensure!(
        text(&refused).contains("is the number of agent prod"),
        "{}",
        text(&refused)
    );
    for (asked, id) in [("prod", 12), ("7", 7), ("99", 3)] {
        let answer = rotate(asked).await?;
        let said = text(&answer);
        // The first one's name is the second one's number in the file, too.
        if asked == "7" {
            ensure!(
                answer.status() == 400 && said.contains("another name in the file"),
                "{said}"
            );
            continue;
        }
        let told: Value = serde_json::from_slice(answer.body())?;
        ensure!(told["agent"]["id"] == id, "{asked}: {told:#}");
    }
    Ok(())
}

/// A server that sees the folder of its file as one that cannot be written.
async fn read_only(folder: &Path) -> Result<(Process, u16)> {
    let kept = folder.join("kept");
    fs::create_dir(&kept)?;
    let file = kept.join("agents.yaml");
    run_cli(&file, &["agent", "create", "first"]).await?;
    let tokens = folder.join("tokens");
    fs::write(&tokens, format!("ana role=administrator {TOKEN}\n"))?;
    let [agents, users, observability, admin] = [(); 4].map(|()| ports::free());
    let configuration = folder.join("kas.yaml");
    let text = format!(
        "standalone: {{file: {}}}\n\
         agent: {{listen: {{address: '127.0.0.1:{agents}'}}, kubernetes_api: {{listen: {{address: '127.0.0.1:{users}'}}}}}}\n\
         observability: {{listen: {{address: '127.0.0.1:{observability}'}}}}\n",
        file.display()
    ) + &admin_section(admin, &format!("tokens_file: {}", tokens.display()));
    fs::write(&configuration, text)?;
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && exec \"$2\" --configuration-file \"$3\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(&kept)
        .arg(programs::kas()?)
        .arg(&configuration);
    let process = Process::spawn("kas", &mut command, folder)?;
    let listens = until_accepts(admin, LIMIT).await;
    listens.with_context(|| process.tail())?;
    Ok((process, admin))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_cannot_write_the_file_says_so() -> Result<()> {
    const NAME: &str = "a_replica_that_cannot_write_the_file_says_so";
    if skipped(NAME, &[Part::Namespaces]) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let (process, admin) = read_only(folder.path()).await?;
    let url = |path: &str| format!("http://127.0.0.1:{admin}{path}");

    let told = client::get(&url("/v1/registration"), TOKEN).await?;
    let told: Value = serde_json::from_slice(told.body())?;
    let words = word(&told, "problem")?;
    ensure!(told["possible"] == false, "{told:#}");
    ensure!(
        words.contains("cannot change the file of agents"),
        "{told:#}"
    );
    ensure!(words.contains("Read-only file system"), "{told:#}");
    let request = Request::post(url("/v1/agents"))
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("content-type", "application/json");
    let refused = client::send(request.body(Bytes::from(r#"{"name": "edge"}"#))?).await?;
    ensure!(
        refused.status() == 503,
        "{}: {}",
        text(&refused),
        process.tail()
    );
    ensure!(
        text(&refused).contains("Read-only file system"),
        "{}",
        text(&refused)
    );
    Ok(())
}

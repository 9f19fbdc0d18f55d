//! Configuration files as GitLab's packages write them start kas, and
//! `check-config` says what they mean.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, Response};
use tests::{
    agentk::{Agentk, Links},
    gitlab_double::{GitLabDouble, Scenario},
    gitlab_rig::start_kas,
    http::{get, send},
    kas::run_cli,
    parts::{self, Part, skipped},
    ports,
    process::Process,
    programs,
    stub_api::StubApi,
    wait::until,
};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(60);
const OMNIBUS: &str = include_str!("../../kas/tests/configuration/omnibus.yml");
const CHART: &str = include_str!("../../kas/tests/configuration/chart.yaml");

/// A file of a package, with its addresses and paths put where the test is:
/// no key is added, removed or changed.
struct Package {
    text: String,
    ports: [u16; 5],
    prefix: &'static str,
}

impl Package {
    fn omnibus(folder: &Path, gitlab: &str) -> Self {
        let ports = free();
        let [agents, users, observability, api, peers] = ports;
        let text = replace(
            OMNIBUS,
            &[
                ("http://localhost:8080", gitlab.to_owned()),
                ("/var/opt/gitlab/gitlab-kas", folder.display().to_string()),
                ("/var/opt/gitlab/redis", folder.display().to_string()),
                ("localhost:8150", format!("localhost:{agents}")),
                ("localhost:8151", format!("localhost:{observability}")),
                ("localhost:8153", format!("localhost:{api}")),
                ("localhost:8154", format!("localhost:{users}")),
                ("localhost:8155", format!("localhost:{peers}")),
            ],
        );
        let prefix = "/-/kubernetes-agent/k8s-proxy";
        Self {
            text,
            ports,
            prefix,
        }
    }

    fn chart(folder: &Path, gitlab: &str, redis: u16) -> Self {
        let ports = free();
        let [agents, users, observability, api, peers] = ports;
        let text = replace(
            CHART,
            &[
                (
                    "http://gitlab-webservice-default.gitlab.svc:8181",
                    gitlab.to_owned(),
                ),
                (
                    "gitlab-redis-master.gitlab.svc:6379",
                    format!("127.0.0.1:{redis}"),
                ),
                ("/etc/kas/redis", folder.display().to_string()),
                ("/etc/kas", folder.display().to_string()),
                (":8150", format!(":{agents}")),
                (":8151", format!(":{observability}")),
                (":8153", format!(":{api}")),
                (":8154", format!(":{users}")),
                (":8155", format!(":{peers}")),
            ],
        );
        let prefix = "/k8s-proxy";
        Self {
            text,
            ports,
            prefix,
        }
    }

    /// Starts kas with it, connects an agent, and asks through it.
    async fn works(&self, folder: &Path) -> Result<()> {
        let [agents, users, observability, _, peers] = self.ports;
        let own = format!("grpc://127.0.0.1:{peers}");
        let kas = start_kas(&self.text, folder, &[("OWN_PRIVATE_API_URL", &own)]).await?;
        let stub = StubApi::start().await?;
        let links = Links {
            kas: format!("ws://127.0.0.1:{agents}/"),
            ca: None,
            kubeconfig: stub.kubeconfig(folder)?,
        };
        let agentk = Agentk::start("production", &links, "agent-5-a", folder)?;
        let url = format!("http://127.0.0.1:{users}{}/version", self.prefix);
        let serves = async || get(&url, "pat:5:pat-alice").await.ok().filter(is_ok);
        let served = until("the agent", SOON, serves).await;
        served.with_context(|| format!("{}\n{}", kas.tail(), agentk.process.tail()))?;
        let probe = format!("http://127.0.0.1:{observability}/readiness");
        let ready = send(Request::get(probe).body(Bytes::new())?).await?;
        ensure!(is_ok(&ready), "{ready:?}");
        let log = kas.output();
        ensure!(log.contains("GitLab's port is up"), "{log}");
        ensure!(!log.contains("unknown key"), "{log}");
        Ok(())
    }
}

fn replace(text: &str, pairs: &[(&str, String)]) -> String {
    pairs
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

fn free() -> [u16; 5] {
    std::array::from_fn(|_| ports::free())
}

fn is_ok(answer: &Response<Bytes>) -> bool {
    answer.status() == 200
}

/// The secrets that the packages write.
async fn gitlab(folder: &Path) -> Result<GitLabDouble> {
    let double = GitLabDouble::start(Scenario::sample()).await?;
    for name in ["authentication_secret_file", ".gitlab_kas_secret"] {
        double.write_secret(&folder.join(name))?;
    }
    for name in [
        "private_api_authentication_secret_file",
        ".gitlab_kas_private_api_secret",
        "websocket_token_secret_file",
        ".gitlab_kas_websocket_token_secret",
    ] {
        std::fs::write(
            folder.join(name),
            "c2VjcmV0IG9mIHRoZSByZXBsaWNhcywgMzIgYnl0ZXM=\n",
        )?;
    }
    for name in ["redis_password_file", "redis-password"] {
        std::fs::write(folder.join(name), "hush")?;
    }
    Ok(double)
}

async fn redis(folder: &Path, port: u16) -> Result<Process> {
    let program = parts::program("redis-server").context("no redis-server")?;
    let mut command = Command::new(program);
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args([
            "--requirepass",
            "hush",
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
        ])
        .arg(folder)
        .arg("--unixsocket")
        .arg(folder.join("redis.socket"));
    let mut redis = Process::spawn("redis", &mut command, folder)?;
    redis.wait_for("eady to accept connections", SOON).await?;
    Ok(redis)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_agents_tells_who_is_connected() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (file, secret) = (
        folder.path().join("agents.yaml"),
        folder.path().join("secret"),
    );
    std::fs::write(&secret, "c2VjcmV0IG9mIHRoZSByZXBsaWNhcywgMzIgYnl0ZXM=\n")?;
    let token = run_cli(&file, &["agent", "create", "demo"]).await?;
    run_cli(&file, &["agent", "create", "away"]).await?;
    let [agents, observability, api, ..] = free();
    let text = format!(
        "standalone: {{file: {file}}}\nagent: {{listen: {{address: ':{agents}'}}}}\n\
         observability: {{listen: {{address: 'localhost:{observability}'}}}}\n\
         api: {{listen: {{address: ':{api}', authentication_secret_file: {secret}}}}}\n",
        file = file.display(),
        secret = secret.display(),
    );
    let kas = start_kas(&text, folder.path(), &[]).await?;
    let stub = StubApi::start().await?;
    let links = Links {
        kas: format!("ws://127.0.0.1:{agents}/"),
        ca: None,
        kubeconfig: stub.kubeconfig(folder.path())?,
    };
    let _agentk = Agentk::start("demo", &links, &token, folder.path())?;
    let configuration = folder.path().join("kas.yaml").display().to_string();
    let list = ["agent", "list", "--configuration-file", &configuration];
    let line = |list: &str, agent: &str| {
        let of = |line: &&str| line.contains(agent);
        list.lines().find(of).unwrap_or_default().to_owned()
    };

    let connected = async || {
        let list = run_cli(&file, &list).await.ok()?;
        let demo = line(&list, "demo");
        (!demo.is_empty() && !demo.contains("not connected")).then_some(list)
    };
    let list = until("the agent in the list", SOON, connected).await;
    let list = list.with_context(|| kas.tail())?;
    std::fs::write(
        &secret,
        "YW5vdGhlciBzZWNyZXQgb2YgdGhlIHJlcGxpY2FzLCB0b28=\n",
    )?;
    let refused = run_cli(
        &file,
        &["agent", "list", "--configuration-file", &configuration],
    )
    .await;

    ensure!(line(&list, "away").contains("not connected"), "{list}");
    let demo = line(&list, "demo");
    ensure!(demo.contains(env!("CARGO_PKG_VERSION")), "{list}");
    let words = format!("{:#}", refused.err().context("with another secret")?);
    ensure!(words.contains("JWT validation failed"), "{words}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_omnibus_starts_kas() -> Result<()> {
    if skipped("the_file_of_omnibus_starts_kas", &[Part::Redis]) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let double = gitlab(folder.path()).await?;
    let _redis = redis(folder.path(), ports::free()).await?;

    Package::omnibus(folder.path(), &double.url())
        .works(folder.path())
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_the_chart_starts_kas() -> Result<()> {
    if skipped("the_file_of_the_chart_starts_kas", &[Part::Redis]) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let double = gitlab(folder.path()).await?;
    let port = ports::free();
    let _redis = redis(folder.path(), port).await?;

    Package::chart(folder.path(), &double.url(), port)
        .works(folder.path())
        .await
}

/// Runs `kas check-config` on a text: what it prints, and whether it is content.
async fn check(text: &str) -> Result<(String, bool)> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("kas.yaml");
    std::fs::write(&file, text)?;
    let mut command = Command::new(programs::kas()?);
    command.arg("check-config").arg(&file).kill_on_drop(true);
    let output = tokio::time::timeout(SOON, command.output()).await??;
    let said = [output.stdout, output.stderr].concat();
    Ok((String::from_utf8(said)?, output.status.success()))
}

#[tokio::test(flavor = "multi_thread")]
async fn check_config_says_what_counts_and_what_does_not() -> Result<()> {
    let text = format!("{OMNIBUS}agnet: {{}}\n").replace(
        "    dsn: \"\"",
        "    dsn: \"https://very-secret@sentry.example.com/1\"",
    );

    let (said, content) = check(&text).await?;

    ensure!(content, "{said}");
    for part in [
        "address: http://localhost:8080",
        "url_path_prefix: /-/kubernetes-agent/k8s-proxy/",
        "callers: 600s",
        "refill_rate_per_second: 50.0",
        "dsn: \"<hidden>\"",
        "agnet is ignored: unknown key `agnet`, did you mean `agent`?",
        "redis.pool_size is ignored: accepted and without effect, as in GitLab's kas",
        "there is no file /var/opt/gitlab/gitlab-kas/authentication_secret_file",
    ] {
        ensure!(said.contains(part), "{part}\n{said}");
    }
    ensure!(!said.contains("very-secret"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn check_config_refuses_what_a_start_would_refuse() -> Result<()> {
    for (text, part) in [
        ("agent: {}", "no control plane is configured"),
        (
            "gitlab: {address: http://g, authentication_secret_file: s}\nstandalone: {file: a}",
            "both given",
        ),
        (
            "gitlab: {address: http://g}",
            "`authentication_secret_file` is missing",
        ),
        (
            "standalone: {file: a}\nagent: {info_cache_ttl: 5m}",
            "not a duration",
        ),
    ] {
        let (said, content) = check(text).await?;
        ensure!(!content && said.contains(part), "{text}\n{said}");
    }
    Ok(())
}

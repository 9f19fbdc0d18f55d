//! Secrets that are too short, tokens where others see them, and log lines made of what strangers send.

use std::{os::unix::fs::PermissionsExt, path::Path, process::Stdio, time::Duration};

use ::http::Request;
use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use tests::{
    gitlab_double::{GitLabDouble, Scenario},
    gitlab_member::Member,
    http::{self, Socket},
    ports,
    process::Process,
    programs,
    redis::Redis,
    rig::Rig,
    wait::until,
};
use tokio::{io::AsyncWriteExt, process::Command, time::Instant};

const SOON: Duration = Duration::from_secs(60);

/// Starts kas by a configuration that it cannot use, and gives its last words.
async fn refusal(configuration: &str, folder: &Path) -> Result<String> {
    let file = folder.join("kas.yaml");
    std::fs::write(&file, configuration)?;
    let mut command = Command::new(programs::kas()?);
    command.arg("--configuration-file").arg(&file);
    let mut process = Process::spawn("kas", &mut command, folder)?;
    let status = process
        .ended(SOON)
        .await
        .with_context(|| configuration.to_owned())?;
    let output = process.output();
    ensure!(!status.success(), "{output}");
    let last = output
        .lines()
        .find(|line| line.starts_with("Program aborted: "));
    Ok(last.with_context(|| output.clone())?.to_owned())
}

/// Anybody could sign with an empty one.
#[tokio::test(flavor = "multi_thread")]
async fn a_short_secret_refuses_the_start_in_one_sentence() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let secret = folder.path().join("secret");
    let agents = folder.path().join("agents.yaml");
    tests::kas::run_cli(&agents, &["agent", "create", "first"]).await?;
    let at = || format!("address: '127.0.0.1:{}'", ports::free());
    let file = secret.display();
    let standalone = format!(
        "standalone: {{file: {}}}\nobservability: {{listen: {{{}}}}}\n",
        agents.display(),
        at()
    );
    let listens = format!("agent: {{listen: {{{}}}}}\n", at());
    let configurations = [
        format!(
            "{standalone}{listens}private_api: {{listen: {{{}, authentication_secret_file: {file}}}}}",
            at()
        ),
        format!(
            "{standalone}{listens}api: {{listen: {{{}, authentication_secret_file: {file}}}}}",
            at()
        ),
        format!(
            "gitlab: {{address: 'http://127.0.0.1:1', authentication_secret_file: {file}}}\n{listens}"
        ),
        format!(
            "{standalone}agent: {{listen: {{{}}}, kubernetes_api: {{websocket_token_secret_file: {file}, listen: {{{}}}}}}}",
            at(),
            at()
        ),
        format!(
            "{standalone}agent: {{listen: {{{}}}, events: {{webhooks: [{{url: 'http://127.0.0.1:1/', secret_file: {file}}}]}}}}",
            at()
        ),
    ];

    for contents in [String::new(), BASE64_STANDARD.encode([7; 31])] {
        std::fs::write(&secret, &contents)?;
        for configuration in &configurations {
            let words = refusal(configuration, folder.path()).await?;
            ensure!(words.contains(&file.to_string()), "{words}");
            ensure!(words.contains("at least 32 are needed"), "{words}");
        }
    }
    Ok(())
}

/// A token among a command's arguments can be read by everybody on the machine.
#[tokio::test(flavor = "multi_thread")]
async fn a_kubeconfigs_token_can_come_by_standard_input() -> Result<()> {
    let rig = Rig::start().await?;
    let _agent = rig.kas.create_agent("production").await?;
    let token = rig.kas.create_user("jo", "production", &["agent"]).await?;

    let mut command = Command::new(programs::kas()?);
    command
        .args([
            "kubeconfig",
            "production",
            "--server",
            "https://kas/k8s-proxy/",
        ])
        .args(["--user", "jo", "--token", "-", "--file"])
        .arg(rig.folder().join("agents.yaml"))
        .env_remove("KAS_TOKEN")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut kas = command.kill_on_drop(true).spawn()?;
    let mut stdin = kas.stdin.take().context("standard input is ours")?;
    stdin.write_all(format!("{token}\n").as_bytes()).await?;
    drop(stdin);
    let output = tokio::time::timeout(SOON, kas.wait_with_output()).await??;

    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success() && text.contains(&token), "{text}");
    Ok(())
}

/// One that was there already had the mode that it had.
#[tokio::test(flavor = "multi_thread")]
async fn a_kubeconfig_is_for_its_owners_eyes_only() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, "old")?;
    std::fs::set_permissions(&kubeconfig, PermissionsExt::from_mode(0o644))?;
    let [agents, users] = [(); 2].map(|()| ports::free().to_string());

    let mut command = Command::new(programs::kas()?);
    command
        .args([
            "up",
            "--agent-port",
            &agents,
            "--api-port",
            &users,
            "--data-dir",
        ])
        .arg(folder.path())
        .env_remove("KUBECONFIG");
    let mut process = Process::spawn("kas-up", &mut command, folder.path())?;
    process.wait_for("replicas are up", SOON).await?;

    let mode = std::fs::metadata(&kubeconfig)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "{mode:o}");
    let text = std::fs::read_to_string(&kubeconfig)?;
    ensure!(text.contains("clusters"), "{text}");
    Ok(())
}

/// Whoever has seen a token of a browser's WebSocket comes too late with it, wherever.
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_token_is_good_once_whichever_replica_is_asked() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let double = GitLabDouble::start(Scenario::sample()).await?;
    double.write_secret(&folder.path().join("secret"))?;
    let redis = Redis::start(folder.path()).await?;
    let start = |number| Member::start(number, 20, &double, redis.port(), folder.path());
    let (one, other) = (start(0).await?, start(1).await?);
    let request = |member: &Member, path: &str| {
        Request::get(format!("http://127.0.0.1:{}/k8s-proxy{path}", member.users))
            .header("cookie", "_gitlab_kas=session%20alice%2B1")
            .header("origin", "https://gitlab.example.com")
    };
    let asked = request(&one, "/exec?command=ls&kas-websocket-token-request=true")
        .header("gitlab-agent-id", "5")
        .header("x-csrf-token", "csrf-alice");
    let given = http::send(asked.body(Bytes::new())?).await?;
    let answer: serde_json::Value = serde_json::from_slice(given.body())?;
    let token = answer["token"].as_str();
    let token = token.with_context(|| format!("{given:?}"))?;
    let shows = async |member: &Member, path: &str| {
        let protocols = format!("v4.channel.k8s.io, websocket-token.kas.gitlab.com.{token}");
        let request = request(member, path)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-protocol", protocols);
        let answer = http::send(request.body(Bytes::new())?).await?;
        let words = String::from_utf8_lossy(answer.body()).into_owned();
        anyhow::Ok((answer.status().as_u16(), words))
    };

    let (status, words) = shows(&one, "/exec?command=rm").await?;
    ensure!(
        status == 401 && words.contains("another path, query"),
        "{words}"
    );
    // Let in, and held: the agent is not there.
    let first = shows(&one, "/exec?command=ls");
    let again = async {
        let held = async || {
            let held = one.sample("k8s_api_proxy_requests_held ").await;
            held.filter(|held| *held == 1)
        };
        until("the request to be held", SOON, held).await?;
        for member in [&one, &other] {
            let (status, words) = shows(member, "/exec?command=ls").await?;
            ensure!(status == 401 && words.contains("used already"), "{words}");
        }
        anyhow::Ok(())
    };
    tokio::select! {
        answered = first => anyhow::bail!("{answered:?}"),
        again = again => again,
    }
}

/// 500 requests without credentials, whose paths are long.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_write_few_and_short_lines_into_the_log() -> Result<()> {
    let mut rig = Rig::start().await?;
    let agent = rig.agent("bystander").await?;
    let before = rig.kas.process.output().len();
    let path = "x".repeat(3000);
    let began = Instant::now();

    for _ in 0..500 {
        let mut socket = Socket::open(rig.kas.users).await?;
        let request =
            format!("GET /k8s-proxy/{path} HTTP/1.1\r\nHost: kas\r\nConnection: close\r\n\r\n");
        socket.write(request.as_bytes()).await?;
        let (answer, _) = socket.read_to_end(SOON).await;
        ensure!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }

    rig.kas.process.wait_for("\"suppressed\":", SOON).await?;
    let output = rig.kas.process.output();
    let written = &output[before..];
    ensure!(!written.contains(&path[..256]), "a path is not cut");
    ensure!(written.contains(&path[..200]), "no path is shown");
    let audit = |line: &&str| line.contains("\"audit\"") && line.contains("xxx");
    let lines = written.lines().filter(audit).count();
    // Fifty in ten seconds.
    let most = 50 * (began.elapsed().as_secs() as usize / 10 + 2);
    ensure!((50..=most).contains(&lines), "{lines} lines of {most}");
    rig.check_serves(&agent).await
}

//! A person with a real provider: `kas login`, then kubectl by its exec plugin.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use serde_json::Value;
use tests::{
    agentk::{Agentk, Links},
    certs::Certs,
    kas::{Kas, Options},
    kube::Cluster,
    kubectl::Kubectl,
    parts::{Part, skipped},
    process::Process,
    programs,
    rig::Rig,
    wait::until,
};
use tokio::process::Command;

use crate::provider::{DEVICE_SECRET, EMAIL, Provider};

const SOON: Duration = Duration::from_secs(60);

/// kas's command line as a person has it at home.
struct Home {
    folder: PathBuf,
    server: String,
}

impl Home {
    fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(programs::kas()?);
        command
            .args(args)
            .args(["--server", &self.server])
            .env("KAS_LOGINS", self.folder.join("logins"))
            .kill_on_drop(true);
        Ok(command)
    }

    fn login(&self, args: &[&str]) -> Result<Process> {
        let mut command = self.command(&[&["login", "--no-browser"], args].concat())?;
        Process::spawn("login", &mut command, &self.folder)
    }

    async fn run(&self, args: &[&str]) -> Result<Output> {
        let run = self.command(args)?.output();
        let output = run.await;
        Ok(output?)
    }

    async fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.run(args).await?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{args:?}: {errors}");
        Ok(String::from_utf8(output.stdout)?)
    }

    async fn token(&self) -> Result<String> {
        let text = self.ok(&["credential", "--agent", "1"]).await?;
        let credential: Value = serde_json::from_str(&text)?;
        ensure!(
            credential["apiVersion"] == "client.authentication.k8s.io/v1",
            "{text}"
        );
        let token = credential["status"]["token"].as_str();
        Ok(token.context(text)?.to_owned())
    }

    /// What kubectl calls: kas with this person's logins.
    fn plugin(&self) -> Result<PathBuf> {
        let file = self.folder.join("kas-plugin");
        let (logins, kas) = (self.folder.join("logins"), programs::kas()?);
        let script = format!(
            "#!/bin/sh\nKAS_LOGINS='{}' exec '{}' \"$@\"\n",
            logins.display(),
            kas.display()
        );
        std::fs::write(&file, script)?;
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755))?;
        Ok(file)
    }

    /// The file of the login, and its rights.
    fn session(&self) -> Result<(String, u32)> {
        let logins = std::fs::read_dir(self.folder.join("logins"))?;
        let files = logins.filter_map(Result::ok).map(|entry| entry.path());
        let mut files = files.filter(|file| file.extension().is_some_and(|it| it == "json"));
        let file = files.next().context("no login is kept")?;
        let rights = std::fs::metadata(&file)?.permissions().mode() & 0o777;
        Ok((std::fs::read_to_string(file)?, rights))
    }
}

async fn log_in_with_browser(home: &Home, provider: &Provider, args: &[&str]) -> Result<Process> {
    let mut login = home.login(args)?;
    let line = login.wait_for(&provider.url, SOON).await?;
    provider
        .log_in(line.trim())
        .await
        .with_context(|| login.tail())?;
    let ended = login.ended(SOON).await?;
    ensure!(ended.success(), "{}", login.tail());
    Ok(login)
}

fn trust(file: &Path, entry: &str) -> Result<()> {
    let text = std::fs::read_to_string(file)?;
    Ok(std::fs::write(
        file,
        format!("{text}issuers: [{{{entry}}}]\n"),
    )?)
}

#[tokio::test]
async fn kubectl_acts_as_who_logged_in_in_every_cluster_that_they_may_use() -> Result<()> {
    let test = "kubectl_acts_as_who_logged_in_in_every_cluster_that_they_may_use";
    if skipped(test, &[Part::Cluster, Part::Go]) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let provider = Provider::start(folder.path(), Duration::from_secs(3600)).await?;
    let cluster = Cluster::up().await?;
    let seen = everywhere(folder.path(), &provider, &cluster).await;
    cluster.down().await?;
    seen
}

async fn everywhere(folder: &Path, provider: &Provider, cluster: &Cluster) -> Result<()> {
    let certs = Certs::create(&folder.join("certs"))?;
    let options = Options {
        user_tls: Some(&certs),
        ..Options::default()
    };
    let kas = Kas::start(options, folder).await?;
    let mut agents = Vec::new();
    for name in ["prod", "test", "other"] {
        let token = kas.create_agent(name).await?;
        let links = Links {
            kas: format!("ws://127.0.0.1:{}/", kas.agents),
            ca: None,
            kubeconfig: cluster.agent_kubeconfig(),
        };
        agents.push(Agentk::start(name, &links, &token, folder)?);
    }
    let entry = format!(
        "issuer: '{}', client_id: kas, username_claim: email, groups_claim: groups",
        provider.url
    );
    for agent in ["prod", "test"] {
        let grant = ["access", "grant", "--agent", agent, "--as", "user"];
        kas.cli(&[&grant[..], &["--group", "people"]].concat())
            .await?;
    }
    // Last, so that whoever can log in finds the rules.
    trust(&folder.join("agents.yaml"), &entry)?;
    let home = Home {
        folder: folder.to_owned(),
        server: format!("https://localhost:{}/k8s-proxy/", kas.users),
    };
    let ca = certs.ca.display().to_string();

    let login = log_in_with_browser(&home, provider, &["--certificate-authority", &ca]).await?;
    let said = login.output();
    ensure!(
        said.contains(EMAIL) && said.contains("2 agent(s)"),
        "{said}"
    );
    let plugin = home.plugin()?.display().to_string();
    let kubeconfig = home
        .ok(&["kubeconfig", "--all", "--exec-command", &plugin])
        .await?;
    let file = folder.join("kubeconfig-all");
    std::fs::write(&file, &kubeconfig)?;

    let kubectl = Kubectl::new(&file);
    for context in ["prod", "test"] {
        let whoami = ["--context", context, "auth", "whoami", "-o", "json"];
        let served = async || kubectl.ok(&whoami).await.ok();
        let who = until(&format!("kubectl in {context}"), SOON, served).await;
        let who: Value = serde_json::from_str(&who.with_context(|| kas.process.tail())?)?;
        let who = &who["status"]["userInfo"];
        ensure!(who["username"] == format!("gitlab:user:{EMAIL}"), "{who}");
        ensure!(
            who["groups"].to_string().contains("gitlab:group:people"),
            "{who}"
        );
    }
    ensure!(!kubeconfig.contains("name: other"), "{kubeconfig}");
    ensure!(
        home.token().await? == home.token().await?,
        "the token is kept"
    );
    let (session, rights) = home.session()?;
    ensure!(rights == 0o600, "{rights:o}");
    let session: Value = serde_json::from_str(&session)?;
    let secrets = ["id_token", "refresh_token"].map(|it| session[it].as_str().unwrap_or("?"));
    for log in [kas.process.output(), said, kubeconfig] {
        for secret in secrets {
            ensure!(!log.contains(secret), "a token is in a log or a kubeconfig");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_token_that_ends_is_refreshed_by_one_of_many_who_ask_at_once() -> Result<()> {
    if skipped("a_token_that_ends_is_refreshed", &[Part::Go]) {
        return Ok(());
    }
    let rig = Rig::start().await?;
    // Less than what kas wants left, so that each question refreshes.
    let provider = Provider::start(rig.folder(), Duration::from_secs(20)).await?;
    let entry = format!(
        "issuer: '{}', client_id: kas, audiences: [kas, kas-device], username_claim: email",
        provider.url
    );
    trust(&rig.folder().join("agents.yaml"), &entry)?;
    let home = Home {
        folder: rig.folder().to_owned(),
        server: format!("http://127.0.0.1:{}/k8s-proxy", rig.kas.users),
    };
    let before = home.run(&["credential", "--agent", "1"]).await?;
    let said = String::from_utf8_lossy(&before.stderr).into_owned();
    ensure!(
        !before.status.success() && said.contains("kas login"),
        "{said}"
    );

    log_in_with_browser(&home, &provider, &[]).await?;
    let at_once = join_all((0..4).map(|_| home.token())).await;
    let tokens = at_once.into_iter().collect::<Result<Vec<_>>>()?;
    let last = home.token().await?;
    ensure!(
        !tokens.contains(&last),
        "the token is another one each time"
    );

    let secret = rig.folder().join("device-secret");
    std::fs::write(&secret, DEVICE_SECRET)?;
    let secret = secret.display().to_string();
    let client = ["--client-id", "kas-device", "--client-secret-file", &secret];
    let mut login = home.login(&[&["--device"], &client[..]].concat())?;
    let line = login.wait_for("enter the code", SOON).await?;
    let code = line.trim_end_matches('.').rsplit(' ').next();
    provider.allow_device(code.unwrap_or_default()).await?;
    let ended = login.ended(SOON).await?;
    ensure!(ended.success(), "{}", login.tail());
    ensure!(login.output().contains(EMAIL), "{}", login.tail());

    home.ok(&["logout"]).await?;
    ensure!(
        !home
            .run(&["credential", "--agent", "1"])
            .await?
            .status
            .success()
    );
    Ok(())
}

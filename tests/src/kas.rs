//! A kas process with its configuration, and the command line that keeps its standalone file.

use std::{
    ffi::OsStr,
    fmt::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::{
    certs::Certs, kubectl::Kubectl, ports, process::Process, programs, wait::until_accepts,
};

/// Which of its listeners speak TLS, and what else is put into the configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Certificate of the agents' listener.
    pub agent_tls: Option<&'a Certs>,
    /// Certificate of the users' listener.
    pub user_tls: Option<&'a Certs>,
    /// More lines under `agent.listen`, in YAML's flow style: `key: value`.
    pub agent_listen: &'a str,
    /// The same for `agent`.
    pub agent: &'a str,
    /// The same for the whole file.
    pub more: &'a str,
    /// The same for `agent.kubernetes_api`.
    pub users: &'a str,
    /// The same for `agent.kubernetes_api.listen`.
    pub users_listen: &'a str,
    /// `agent.kubernetes_api.url_path_prefix`; empty: `/k8s-proxy/`.
    pub users_prefix: &'a str,
    /// How many files it may have open; as many as the test if absent.
    pub open_files: Option<u32>,
}

/// Headers of answers in which tests' agents say what they were asked.
const SEEN: &str =
    "X-Seen-accept, X-Seen-method, X-Seen-path, X-Seen-query, X-Seen-via, X-Seen-x-custom";

/// A running kas.
#[derive(Debug)]
pub struct Kas {
    /// The process itself.
    pub process: Process,
    /// Where agents connect.
    pub agents: u16,
    /// Where kubectl connects.
    pub users: u16,
    /// Metrics and probes.
    pub observability: u16,
    file: PathBuf,
    folder: PathBuf,
}

impl Kas {
    /// Starts kas in `folder` and waits until it listens.
    ///
    /// # Errors
    /// When it is not built, refuses its configuration or does not listen.
    pub async fn start(options: Options<'_>, folder: &Path) -> Result<Self> {
        let (agents, users, observability) = (ports::free(), ports::free(), ports::free());
        let file = folder.join("agents.yaml");
        run_cli(&file, &["agent", "create", "first"]).await?;
        let configuration = folder.join("kas.yaml");
        std::fs::write(
            &configuration,
            yaml(options, &file, [agents, users, observability])?,
        )?;
        let command = limited(&programs::kas()?, options.open_files);
        let ports = [agents, users, observability];
        let process = run(command, &configuration, ports, folder).await?;
        Ok(Self {
            process,
            agents,
            users,
            observability,
            file,
            folder: folder.to_owned(),
        })
    }

    /// Kills it and starts it again, with the same configuration.
    ///
    /// # Errors
    /// When it does not listen.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.end_by("KILL", Duration::from_secs(60)).await?;
        let command = Command::new(programs::kas()?);
        let ports = [self.agents, self.users, self.observability];
        let configuration = self.folder.join("kas.yaml");
        self.process = run(command, &configuration, ports, &self.folder).await?;
        Ok(())
    }

    /// Runs `kas ARGS --file …` and gives what it prints.
    ///
    /// # Errors
    /// When it exits with an error.
    pub async fn cli<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<String> {
        run_cli(&self.file, args).await
    }

    /// Makes an agent and gives its token.
    ///
    /// # Errors
    /// When the command line refuses.
    pub async fn create_agent(&self, name: &str) -> Result<String> {
        self.cli(&["agent", "create", name]).await
    }

    /// The number of an agent.
    ///
    /// # Errors
    /// When there is no agent of this name.
    pub async fn agent_id(&self, name: &str) -> Result<String> {
        let list = self.cli(&["agent", "list", "-o", "json"]).await?;
        let agents: Vec<serde_json::Value> = serde_json::from_str(&list)?;
        let agent = agents.iter().find(|agent| agent["name"] == name);
        Ok(agent.with_context(|| list.clone())?["id"].to_string())
    }

    /// Makes a user that may use the agent in the way that `access` says, and gives the user's token.
    ///
    /// # Errors
    /// When the command line refuses.
    pub async fn create_user(&self, name: &str, agent: &str, access: &[&str]) -> Result<String> {
        let token = self.cli(&["user", "create", name]).await?;
        let grant = ["access", "grant", "--agent", agent, "--user", name, "--as"];
        self.cli(&[&grant[..], access].concat()).await?;
        Ok(token)
    }

    /// The same for a service token.
    ///
    /// # Errors
    /// When the command line refuses.
    pub async fn create_service(&self, name: &str, agent: &str, access: &[&str]) -> Result<String> {
        let token = self.cli(&["service", "create", name]).await?;
        let grant = [
            "access",
            "grant",
            "--agent",
            agent,
            "--service",
            name,
            "--as",
        ];
        self.cli(&[&grant[..], access].concat()).await?;
        Ok(token)
    }

    /// kubectl as this user or service (`["--user", "NAME"]`) through this server.
    ///
    /// # Errors
    /// When the kubeconfig cannot be made.
    pub async fn kubectl(
        &self,
        agent: &str,
        who: [&str; 2],
        token: &str,
        server: &Server,
    ) -> Result<Kubectl> {
        let ca = server.ca.display().to_string();
        let place = [
            "kubeconfig",
            agent,
            "--server",
            &server.url,
            "--certificate-authority",
            &ca,
        ];
        let text = self
            .cli(&[&place[..], &who, &["--token", token]].concat())
            .await?;
        let file = self.folder.join(format!("kubeconfig-{}", who[1]));
        std::fs::write(&file, text + "\n")?;
        Ok(Kubectl::new(&file))
    }
}

async fn run(
    mut command: Command,
    configuration: &Path,
    ports: [u16; 3],
    folder: &Path,
) -> Result<Process> {
    command.arg("--configuration-file").arg(configuration);
    let process = Process::spawn("kas", &mut command, folder)?;
    for port in ports {
        let listens = until_accepts(port, Duration::from_secs(60)).await;
        listens.with_context(|| process.tail())?;
    }
    Ok(process)
}

/// What a user's kubeconfig points at.
#[derive(Debug, Clone)]
pub struct Server {
    /// The URL, `https` because kubectl sends no token otherwise.
    pub url: String,
    /// The authority of its certificate.
    pub ca: PathBuf,
}

/// A command that runs a program with so many open files at most, soft and hard.
fn limited(program: &Path, open_files: Option<u32>) -> Command {
    let Some(limit) = open_files else {
        return Command::new(program);
    };
    let mut command = Command::new("sh");
    let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
    command.args(["-c", &script]).arg(program);
    command
}

/// Runs kas's command line on a standalone file; gives what it prints, without the line's end.
///
/// # Errors
/// When it exits with an error.
pub async fn run_cli<S: AsRef<OsStr>>(file: &Path, args: &[S]) -> Result<String> {
    let mut command = Command::new(programs::kas()?);
    command.args(args);
    if args.first().is_some_and(|arg| arg.as_ref() != "up") {
        command.arg("--file").arg(file);
    }
    let run = tokio::time::timeout(Duration::from_secs(60), command.kill_on_drop(true).output());
    let output = run
        .await
        .with_context(|| format!("{command:?} takes too long"))??;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

fn yaml(options: Options<'_>, file: &Path, ports: [u16; 3]) -> Result<String> {
    let [agents, users, observability] = ports;
    let mut text = String::new();
    writeln!(text, "standalone: {{file: {}}}", file.display())?;
    writeln!(text, "agent:")?;
    writeln!(
        text,
        "  listen:\n    address: 127.0.0.1:{agents}\n    websocket: true"
    )?;
    write_tls(&mut text, "    ", options.agent_tls)?;
    if !options.agent_listen.is_empty() {
        writeln!(text, "    {}", options.agent_listen)?;
    }
    writeln!(text, "  {}", options.agent)?;
    let prefix = match options.users_prefix {
        "" => "/k8s-proxy/",
        prefix => prefix,
    };
    writeln!(text, "  kubernetes_api:\n    url_path_prefix: {prefix}")?;
    // In these the interop agent says what it was asked.
    writeln!(text, "    extra_allowed_response_headers: [{SEEN}]")?;
    writeln!(text, "    {}", options.users)?;
    writeln!(text, "    listen:\n      address: 127.0.0.1:{users}")?;
    writeln!(text, "      {}", options.users_listen)?;
    write_tls(&mut text, "      ", options.user_tls)?;
    writeln!(
        text,
        "observability:\n  listen: {{address: 127.0.0.1:{observability}}}"
    )?;
    writeln!(text, "  logging: {{level: debug}}")?;
    writeln!(text, "{}", options.more)?;
    Ok(text)
}

fn write_tls(text: &mut String, indent: &str, certs: Option<&Certs>) -> Result<()> {
    let Some(certs) = certs else { return Ok(()) };
    writeln!(
        text,
        "{indent}certificate_file: {}",
        certs.certificate.display()
    )?;
    writeln!(text, "{indent}key_file: {}", certs.key.display())?;
    Ok(())
}

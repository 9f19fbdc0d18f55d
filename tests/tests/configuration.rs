//! Configuration files as GitLab's packages write them start kas, and
//! `check-config` says what they mean.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, Response};
use runtime::{
    connect::{ConnectOptions, Target, connect},
    tls::{ClientTls, ClientTlsOptions},
};
use tests::{
    agentk::{Agentk, Links},
    certs::Certs,
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
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UnixStream,
    process::Command,
};

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
        let ready = async || {
            let answer = send(Request::get(&probe).body(Bytes::new()).ok()?).await;
            answer.ok().filter(is_ok)
        };
        let ready = until("kas to be ready", SOON, ready).await;
        ready.with_context(|| kas.tail())?;
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
    // Ours, because its version is looked at.
    let agentk = programs::own_agentk()?;
    let _agentk = Agentk::run(agentk, "demo", &links, &token, folder.path())?;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_ready_once_it_has_reached_redis_and_stays_so() -> Result<()> {
    let name = "a_replica_is_ready_once_it_has_reached_redis_and_stays_so";
    if skipped(name, &[Part::Redis]) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let double = gitlab(folder).await?;
    let port = ports::free();
    let package = Package::chart(folder, &double.url(), port);
    let kas = start_kas(&package.text, folder, &[("POD_IP", "127.0.0.1")]).await?;
    let readiness = async || {
        let url = format!("http://127.0.0.1:{}/readiness", package.ports[2]);
        let answer = send(Request::get(url).body(Bytes::new()).ok()?)
            .await
            .ok()?;
        let body = String::from_utf8_lossy(answer.body()).into_owned();
        Some((answer.status().as_u16(), body))
    };
    let is = async |wanted: u16| readiness().await.filter(|(status, _)| *status == wanted);

    let before = until("an answer", SOON, async || readiness().await).await?;
    let mut redis = redis(folder, port).await?;
    let reached = until("kas to be ready", SOON, async || is(200).await).await;
    reached.with_context(|| kas.tail())?;
    redis.end_by("KILL", SOON).await?;
    let lost = async || {
        kas.output()
            .contains("connection to the routing store lost")
            .then_some(())
    };
    until("kas to lose Redis", SOON, lost).await?;

    ensure!(
        before.0 == 500 && before.1.contains("Redis was not reached yet"),
        "{before:?}"
    );
    ensure!(is(200).await.is_some(), "{:?}", readiness().await);
    Ok(())
}

/// A file that a package or chart renders: what differs from the one that is kept here, and the environment.
struct Variant {
    name: &'static str,
    chart: bool,
    /// What is replaced by what.
    edits: &'static [(&'static str, &'static str)],
    environment: &'static [(&'static str, &'static str)],
}

/// Of 2022 to 2026, as far as their keys are known.
const VARIANTS: &[Variant] = &[
    Variant {
        name: "Linux package 15: no WebSocket tokens, no workspaces",
        chart: false,
        edits: &[
            (
                "    websocket_token_secret_file: \"{folder}/websocket_token_secret_file\"\n",
                "",
            ),
            ("workspaces:\n  enabled: false\nconfig:\n", ""),
        ],
        environment: &[],
    },
    Variant {
        name: "Linux package 18: no gitops, Redis by TCP, keys of features that kas does not have",
        chart: false,
        edits: &[
            (
                "  gitops:\n    poll_period: \"20s\"\n    project_info_cache_ttl: \"300s\"\n    project_info_cache_error_ttl: \"60s\"\n    max_manifest_file_size: 5242880\n    max_total_manifest_file_size: 20971520\n    max_number_of_paths: 100\n    max_number_of_files: 1000\n",
                "  receptive_agent:\n    poll_period: \"300s\"\n",
            ),
            ("\"{folder}/redis.socket\"", "\"127.0.0.1:{redis}\""),
            (
                "network: \"unix\"",
                "network: \"tcp\"\n  username: \"default\"\n  tls:\n    enabled: false",
            ),
            (
                "workspaces:\n  enabled: false\nconfig:\n",
                "workspaces:\n  enabled: true\n  listen: {network: tcp, address: 'localhost:8160'}\nautoflow: {temporal: {host_port: 't:7233'}}\nevents_platform: {enabled: true}\nconfig:\n  command: \"/opt/gitlab/bin/redis-config\"\n",
            ),
        ],
        environment: &[("GODEBUG", "tlsmlkem=0")],
    },
    Variant {
        name: "Linux package: Unix sockets on all listeners",
        chart: false,
        edits: &[
            ("network: \"tcp\"", "network: \"unix\""),
            ("localhost:{agents}", "{folder}/agents.sock"),
            ("localhost:{users}", "{folder}/users.sock"),
            ("localhost:{observability}", "{folder}/observability.sock"),
            ("localhost:{api}", "{folder}/api.sock"),
            ("localhost:{peers}", "{folder}/peers.sock"),
        ],
        environment: &[],
    },
    Variant {
        name: "chart 2022: the pod's URL, no WebSocket tokens",
        chart: true,
        edits: &[(
            "    websocket_token_secret_file: {folder}/.gitlab_kas_websocket_token_secret\n",
            "",
        )],
        environment: &[("OWN_PRIVATE_API_URL", "grpc://127.0.0.1:{peers}")],
    },
    Variant {
        name: "chart with TLS between replicas: the pod's URL",
        chart: true,
        edits: &[(
            "    authentication_secret_file: {folder}/.gitlab_kas_private_api_secret\n",
            "    authentication_secret_file: {folder}/.gitlab_kas_private_api_secret\n    certificate_file: {certificate}\n    key_file: {key}\n    ca_certificate_file: {ca}\n",
        )],
        environment: &[
            ("OWN_PRIVATE_API_URL", "grpcs://127.0.0.1:{peers}"),
            ("OWN_PRIVATE_API_HOST", "localhost"),
        ],
    },
    Variant {
        name: "chart 2026 with TLS between replicas: the networks of pods, no scheme",
        chart: true,
        edits: &[(
            "    authentication_secret_file: {folder}/.gitlab_kas_private_api_secret\n",
            "    authentication_secret_file: {folder}/.gitlab_kas_private_api_secret\n    certificate_file: {certificate}\n    key_file: {key}\n    ca_certificate_file: {ca}\n",
        )],
        environment: &[
            ("OWN_PRIVATE_API_CIDR", "127.0.0.0/8,::1/128"),
            ("OWN_PRIVATE_API_HOST", "localhost"),
        ],
    },
    Variant {
        name: "chart with TLS on the ports for agents, users, GitLab and metrics",
        chart: true,
        edits: &[
            (
                "address: :{agents}",
                "address: :{agents}\n    certificate_file: {certificate}\n    key_file: {key}",
            ),
            (
                "address: :{users}",
                "address: :{users}\n      certificate_file: {certificate}\n      key_file: {key}",
            ),
            (
                "address: :{api}",
                "address: :{api}\n    certificate_file: {certificate}\n    key_file: {key}",
            ),
            (
                "address: :{observability}",
                "address: :{observability}\n    certificate_file: {certificate}\n    key_file: {key}",
            ),
        ],
        environment: &[("POD_IP", "127.0.0.1")],
    },
    Variant {
        name: "chart on IPv6 alone",
        chart: true,
        edits: &[
            (
                "network: tcp\n    address: :{agents}",
                "network: tcp6\n    address: :{agents}",
            ),
            (
                "address: :{users}",
                "network: tcp6\n      address: :{users}",
            ),
            (
                "address: :{observability}",
                "network: tcp6\n    address: :{observability}",
            ),
            ("address: :{api}", "network: tcp6\n    address: :{api}"),
            ("address: :{peers}", "network: tcp6\n    address: :{peers}"),
        ],
        environment: &[("OWN_PRIVATE_API_CIDR", "::1/128")],
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn what_packages_and_charts_have_rendered_since_2022_starts_and_becomes_ready() -> Result<()>
{
    let name = "what_packages_and_charts_have_rendered_since_2022_starts_and_becomes_ready";
    if skipped(name, &[Part::Redis]) {
        return Ok(());
    }
    for variant in VARIANTS {
        variant.becomes_ready().await.context(variant.name)?;
    }
    Ok(())
}

impl Variant {
    async fn becomes_ready(&self) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let folder = folder.path();
        let double = gitlab(folder).await?;
        let port = ports::free();
        let _redis = redis(folder, port).await?;
        let certs = Certs::create(&folder.join("certs"))?;
        let package = if self.chart {
            Package::chart(folder, &double.url(), port)
        } else {
            Package::omnibus(folder, &double.url())
        };
        let [agents, users, observability, api, peers] = package.ports;
        let here = |text: &str| {
            replace(
                text,
                &[
                    ("{folder}", folder.display().to_string()),
                    ("{redis}", port.to_string()),
                    ("{agents}", agents.to_string()),
                    ("{users}", users.to_string()),
                    ("{observability}", observability.to_string()),
                    ("{api}", api.to_string()),
                    ("{peers}", peers.to_string()),
                    ("{certificate}", certs.certificate.display().to_string()),
                    ("{key}", certs.key.display().to_string()),
                    ("{ca}", certs.ca.display().to_string()),
                ],
            )
        };
        let mut text = package.text;
        for (from, to) in self.edits {
            ensure!(text.contains(&here(from)), "{from} is not in\n{text}");
            text = text.replace(&here(from), &here(to));
        }
        let environment: Vec<_> = self
            .environment
            .iter()
            .map(|(name, value)| (*name, here(value)))
            .collect();
        let environment: Vec<_> = environment
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();

        let kas = start_kas(&text, folder, &environment).await?;

        let socket = folder.join("observability.sock");
        let secure = text.contains(&here(":{observability}\n    certificate_file"));
        let asked = async || {
            let answer = if text.contains("observability.sock") {
                first_line(UnixStream::connect(&socket).await.ok()?).await
            } else {
                let scheme = if secure { "https" } else { "http" };
                let host = if text.contains("tcp6") {
                    "[::1]"
                } else {
                    "localhost"
                };
                let target = format!("{scheme}://{host}:{observability}");
                first_line(probe(&target, &certs).await.ok()?).await
            };
            answer.ok().filter(|line| line.starts_with("HTTP/1.1 200"))
        };
        until("kas to be ready", SOON, asked)
            .await
            .with_context(|| kas.tail())?;
        let log = kas.output();
        ensure!(
            !log.contains("the self-test of the private API failed"),
            "{log}"
        );
        ensure!(!log.contains("unknown key"), "{log}");
        Ok(())
    }
}

async fn probe(target: &str, certs: &Certs) -> Result<runtime::io::ByteStream> {
    let options = ConnectOptions {
        tls: Some(ClientTls::load(&ClientTlsOptions {
            ca_files: vec![certs.ca.clone()],
            ..ClientTlsOptions::default()
        })?),
        ..ConnectOptions::default()
    };
    Ok(connect(&Target::parse_http(target)?, &options).await?.io)
}

/// The first line of the answer to a readiness probe.
async fn first_line(mut io: impl AsyncRead + AsyncWrite + Unpin) -> Result<String> {
    io.write_all(b"GET /readiness HTTP/1.1\r\nHost: kas\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    io.read_to_end(&mut answer).await?;
    let answer = String::from_utf8(answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
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

    ensure!(!content, "{said}");
    for part in [
        "address: http://localhost:8080",
        "url_path_prefix: /-/kubernetes-agent/k8s-proxy/",
        "callers: 600s",
        "refill_rate_per_second: 50.0",
        "dsn: \"<hidden>\"",
        "agnet is ignored: unknown key `agnet`, did you mean `agent`?",
        "redis.pool_size is ignored: accepted and without effect, as in GitLab's kas",
        "the server would not start with ",
        "/var/opt/gitlab/gitlab-kas/authentication_secret_file",
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
        (
            "gitlab: {address: http://g, authentication_secret_file: /nowhere/secret}",
            "/nowhere/secret",
        ),
        (
            "standalone: {file: a}\nagent: {listen: {certificate_file: /nowhere/c, key_file: /nowhere/k}}",
            "agent.listen: ",
        ),
        (
            "standalone: {file: a}\nredis: {server: {address: 'r:1'}, password_file: /nowhere/p}",
            "redis.password_file: cannot read /nowhere/p",
        ),
        (
            "standalone: {file: a}\nadmin: {listen: {tokens_file: /nowhere/t}}",
            "admin.listen.tokens_file: ",
        ),
        (
            "standalone: {file: a}\nadmin: {listen: {certificate_file: /nowhere/c, key_file: /nowhere/k}}",
            "admin.listen: ",
        ),
        (
            "standalone: {file: a}\nobservability: {tracing: {otlp_endpoint: 'https://t/', otlp_token_secret_file: /nowhere/t}}",
            "observability.tracing.otlp_token_secret_file: cannot read /nowhere/t",
        ),
        (
            "standalone: {file: a}\nobservability: {tracing: {otlp_endpoint: 'https://t/', otlp_ca_certificate_file: /nowhere/c}}",
            "observability.tracing: ",
        ),
    ] {
        let (said, content) = check(text).await?;
        ensure!(!content && said.contains(part), "{text}\n{said}");
    }
    Ok(())
}

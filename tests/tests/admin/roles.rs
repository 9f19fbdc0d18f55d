//! Who may do what: each role at each operation, by REST and gRPC, whether a token, a certificate or the machine gives it.

use std::{fs, path::Path};

use admin::{Client, ClientOptions, v1};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    browser,
    certs::Certs,
    http as client,
    kas::{Kas, Options},
    parts::{Part, skipped},
    ports, programs,
    wait::until,
};
use tokio::process::Command;
use tonic::Code;

use super::{LIMIT, TOKEN, ask, authentication::secured, text};

/// The roles, the least first.
const ROLES: [&str; 3] = ["viewer", "operator", "administrator"];
/// Who has a token, and what stands between their name and it.
const HOLDERS: [(&str, &str, &str); 4] = [
    ("vic", "role=viewer", "viewer"),
    ("old", "", "operator"),
    ("ola", "role=operator", "operator"),
    ("ada", "role=administrator", "administrator"),
];

fn rank(role: &str) -> Result<usize> {
    let rank = ROLES.iter().position(|it| *it == role);
    rank.with_context(|| format!("`{role}` is no role"))
}

fn token(holder: &str) -> String {
    format!("{TOKEN}-{holder}")
}

/// A server with a token for each of the holders.
struct Site {
    kas: Kas,
    admin: u16,
    folder: TempDir,
}

impl Site {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let tokens = folder.path().join("tokens");
        let line =
            |(name, role, _): &(&str, &str, &str)| format!("{name} {role} {}\n", token(name));
        fs::write(&tokens, HOLDERS.iter().map(line).collect::<String>())?;
        let admin = ports::free();
        let more = format!(
            "admin: {{listen: {{address: '127.0.0.1:{admin}', tokens_file: {}}}}}\n\
             audit: {{sinks: [{{file: {{path: {}}}}}]}}",
            tokens.display(),
            folder.path().join("audit.jsonl").display()
        );
        let options = Options {
            more: &more,
            ..Options::default()
        };
        let kas = Kas::start(options, folder.path()).await?;
        Ok(Self { kas, admin, folder })
    }

    fn request(
        &self,
        holder: &str,
        method: Method,
        path: &str,
        content: &Value,
    ) -> Result<Request<Bytes>> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://127.0.0.1:{}{path}", self.admin))
            .header("authorization", format!("Bearer {}", token(holder)))
            .header("content-type", "application/json");
        Ok(request.body(Bytes::from(content.to_string()))?)
    }

    async fn send(
        &self,
        holder: &str,
        method: Method,
        path: &str,
        content: &Value,
    ) -> Result<Response<Bytes>> {
        client::send(self.request(holder, method, path, content)?).await
    }

    /// The head of the answer: some do not end.
    async fn open(
        &self,
        holder: &str,
        method: Method,
        path: &str,
        content: &Value,
    ) -> Result<Response<Incoming>> {
        client::open(self.request(holder, method, path, content)?).await
    }

    async fn grpc(&self, holder: &str) -> Result<Client> {
        let file = self.folder.path().join(format!("token-of-{holder}"));
        fs::write(&file, token(holder))?;
        let options = ClientOptions {
            server: format!("http://127.0.0.1:{}", self.admin),
            token_file: Some(file),
            ..ClientOptions::default()
        };
        Ok(Client::connect(&options).await?)
    }

    fn agents(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.path().join("agents.yaml"))?)
    }

    /// The records of what operators did, when there are so many.
    async fn records(&self, count: usize) -> Result<Vec<Value>> {
        let records = async || {
            let text = fs::read_to_string(self.folder.path().join("audit.jsonl")).ok()?;
            let all = text.lines().map(serde_json::from_str::<Value>);
            let all: Vec<_> = all
                .filter_map(Result::ok)
                .filter(|it| it["kind"] == "admin")
                .collect();
            (all.len() >= count).then_some(all)
        };
        until("the trail to have it", LIMIT, records).await
    }
}

/// What the document says: method, path, and the least role that may use them.
async fn operations(site: &Site) -> Result<Vec<(Method, String, String)>> {
    let document = site
        .send("vic", Method::GET, "/openapi.json", &Value::Null)
        .await?;
    let document: Value = serde_json::from_slice(document.body())?;
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().context("paths")? {
        for (method, operation) in methods.as_object().context("methods")? {
            let role = operation["x-kas-role"].as_str();
            let role = role.with_context(|| format!("{method} {path} names no role"))?;
            let refusal = operation["responses"]["403"].is_object();
            ensure!(refusal == (role != "viewer"), "{method} {path}");
            let path = path.replace("{agent}", "first").replace("{id}", "unknown");
            all.push((method.to_uppercase().parse()?, path, role.to_owned()));
        }
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_may_what_the_document_says_by_rest_and_no_more() -> Result<()> {
    let site = Site::start().await?;
    let operations = operations(&site).await?;
    let administrators: Vec<_> = operations
        .iter()
        .filter(|it| it.2 == "administrator")
        .collect();
    let operators: Vec<_> = operations.iter().filter(|it| it.2 == "operator").collect();
    ensure!(
        (administrators.len(), operators.len()) == (4, 2),
        "{operations:?}"
    );
    ensure!(
        operations
            .iter()
            .all(|it| (it.0 == Method::GET) == (it.2 == "viewer")),
        "{operations:?}"
    );
    let before = site.agents()?;

    for (holder, _, role) in HOLDERS {
        for (method, path, needed) in &operations {
            let content = json!({"name": "edge", "level": "info"});
            let what = format!("{holder}: {method} {path}");
            let answer = site.open(holder, method.clone(), path, &content).await?;
            let status = answer.status();
            drop(answer);
            if rank(role)? >= rank(needed)? {
                ensure!(![401, 403].contains(&status.as_u16()), "{what}: {status}");
                continue;
            }
            ensure!(status == 403, "{what}: {status}");
            let answer = site.send(holder, method.clone(), path, &content).await?;
            let said = text(&answer);
            for words in [
                format!("needs the role {needed}"),
                format!("the token `{holder}` has {role}"),
                "admin.listen.tokens_file".to_owned(),
            ] {
                ensure!(said.contains(&words), "{what}: {said}");
            }
        }
        let changed = site.agents()? != before;
        ensure!(
            changed == (role == "administrator"),
            "{holder} has changed the file"
        );
        let me = site
            .send(holder, Method::GET, "/v1/caller", &Value::Null)
            .await?;
        let me: Value = serde_json::from_slice(me.body())?;
        ensure!(
            me["name"] == holder && me["role"] == role && me["proof"] == "token",
            "{me:#}"
        );
        let held = me["roles"]
            .as_array()
            .context("roles")?
            .iter()
            .filter(|it| it["held"] == true);
        ensure!(held.count() == rank(role)? + 1, "{me:#}");
        let registration = site
            .send(holder, Method::GET, "/v1/registration", &Value::Null)
            .await?;
        let registration: Value = serde_json::from_slice(registration.body())?;
        ensure!(
            registration["possible"] == (role == "administrator"),
            "{registration:#}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_may_the_same_by_grpc_and_the_trail_names_it() -> Result<()> {
    let site = Site::start().await?;
    let before = site.agents()?;
    let agent = || "first".to_owned();

    for (holder, _, role) in HOLDERS {
        let mut client = site.grpc(holder).await?;
        let me = client
            .grpc()
            .get_caller(v1::GetCallerRequest {})
            .await?
            .into_inner();
        ensure!(me.role == role && me.name == holder, "{me:?}");
        client.grpc().get_status(v1::GetStatusRequest {}).await?;
        client
            .grpc()
            .list_sessions(v1::ListSessionsRequest::default())
            .await?;
        let level = v1::SetLogLevelRequest {
            level: "info".to_owned(),
            ..v1::SetLogLevelRequest::default()
        };
        let session = v1::EndSessionRequest {
            id: "unknown".to_owned(),
        };
        let add = v1::AddAgentRequest {
            name: "edge".to_owned(),
            ..v1::AddAgentRequest::default()
        };
        let join = v1::CreateJoinTokenRequest {
            agent: agent(),
            ..v1::CreateJoinTokenRequest::default()
        };
        let rotate = v1::RotateAgentTokenRequest {
            agent: agent(),
            grace_seconds: None,
        };
        let revoke = v1::RevokeAgentRequest { agent: agent() };
        let grpc = client.grpc();
        let results = [
            ("operator", grpc.set_log_level(level).await.map(drop)),
            ("operator", grpc.end_session(session).await.map(drop)),
            ("administrator", grpc.add_agent(add).await.map(drop)),
            (
                "administrator",
                grpc.create_join_token(join).await.map(drop),
            ),
            (
                "administrator",
                grpc.rotate_agent_token(rotate).await.map(drop),
            ),
            ("administrator", grpc.revoke_agent(revoke).await.map(drop)),
        ];
        for (number, (needed, result)) in results.into_iter().enumerate() {
            let code = result.as_ref().err().map(tonic::Status::code);
            let refused = code == Some(Code::PermissionDenied);
            ensure!(
                refused == (rank(role)? < rank(needed)?),
                "{holder}, {number}: {result:?}"
            );
            if let Err(status) = result
                && refused
            {
                ensure!(
                    status
                        .message()
                        .contains(&format!("needs the role {needed}")),
                    "{status:?}"
                );
            }
        }
        let changed = site.agents()? != before;
        ensure!(
            changed == (role == "administrator"),
            "{holder} has changed the file"
        );
    }

    let records = site.records(20).await?;
    for (holder, _, role) in HOLDERS {
        let user = format!("admin:{holder}");
        let mut own = records
            .iter()
            .filter(|it| it["user"] == user.as_str())
            .peekable();
        ensure!(own.peek().is_some(), "{holder} has no records");
        ensure!(own.all(|it| it["role"] == role), "{records:#?}");
    }
    let of = |holder: &str, verb: &str| -> Vec<Value> {
        let user = format!("admin:{holder}");
        let own = records
            .iter()
            .filter(|it| it["user"] == user.as_str() && it["verb"] == verb);
        own.map(|it| it["status"].clone()).collect()
    };
    // A refusal is one record; what was done is one before and one after.
    ensure!(of("vic", "set_log_level") == [json!(403)], "{records:#?}");
    ensure!(of("old", "add_agent") == [json!(403)], "{records:#?}");
    ensure!(
        of("ola", "set_log_level") == [Value::Null, json!(200)],
        "{records:#?}"
    );
    ensure!(
        of("ada", "add_agent") == [Value::Null, json!(200)],
        "{records:#?}"
    );
    ensure!(
        site.kas
            .process
            .output()
            .contains("an operator's change was refused or failed")
    );
    Ok(())
}

/// Runs the command line with a certificate, and gives whether it succeeded and all that it said.
async fn by_certificate(
    port: u16,
    certs: &Path,
    name: &str,
    args: &[&str],
) -> Result<(bool, String)> {
    let file = |name: &str| certs.join(name).display().to_string();
    let mut command = Command::new(programs::kas()?);
    command
        .args(args)
        .args(["--server", &format!("https://localhost:{port}")])
        .args(["--ca-file", &file("ca.crt")])
        .args(["--client-certificate-file", &file(&format!("{name}.crt"))])
        .args(["--client-key-file", &file(&format!("{name}.key"))]);
    let output = tokio::time::timeout(LIMIT, command.output()).await??;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_has_the_role_of_its_subject() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = folder.path().join("certs");
    let clients = [("ana", "admins"), ("olaf", "support"), ("vic", "support")];
    let certs = Certs::with_clients(&place, &clients)?;
    let port = ports::free();
    let section = format!(
        "admin: {{default_role: viewer, certificate_roles: [{{role: administrator, organization: admins}}, \
         {{role: operator, common_name: olaf, organization: support}}], listen: {{address: '0.0.0.0:{port}', \
         certificate_file: {}, key_file: {}, client_ca_certificate_file: {}}}}}",
        certs.certificate.display(),
        certs.key.display(),
        certs.ca.display()
    );
    let options = Options {
        more: &section,
        ..Options::default()
    };
    let kas = Kas::start(options, folder.path()).await?;

    for (name, role) in [
        ("ana", "administrator"),
        ("olaf", "operator"),
        ("vic", "viewer"),
    ] {
        let (ok, said) = by_certificate(port, &place, name, &["whoami"]).await?;
        ensure!(ok, "{said}\n{}", kas.process.tail());
        let line = said.lines().nth(1).unwrap_or_default();
        let words: Vec<_> = line.split_whitespace().collect();
        ensure!(words == [name, role, "certificate"], "{said}");
        let (ok, said) = by_certificate(port, &place, name, &["log-level", "info"]).await?;
        ensure!(ok == (role != "viewer"), "{name}: {said}");
        if !ok {
            ensure!(said.contains("admin.certificate_roles"), "{said}");
            ensure!(said.contains("needs the role operator"), "{said}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_that_cannot_be_are_refused_at_the_start() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let certs = Certs::create(&folder.path().join("certs"))?;
    let tokens = folder.path().join("tokens");
    fs::write(&tokens, format!("ana role=adminstrator {TOKEN}\n"))?;
    let more = format!("tokens_file: {}", tokens.display());

    let Err(error) = secured(folder.path(), &certs, &more).await else {
        bail!("it has started");
    };

    let said = format!("{error:#}");
    ensure!(said.contains("did you mean administrator?"), "{said}");
    ensure!(said.contains("line 1") && !said.contains(TOKEN), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_says_what_the_role_of_who_looks_does_not_allow() -> Result<()> {
    const NAME: &str = "the_page_says_what_the_role_of_who_looks_does_not_allow";
    if skipped(NAME, &[Part::Chromium]) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let port = ports::free();
    let section =
        format!("admin: {{default_role: viewer, listen: {{address: '127.0.0.1:{port}'}}}}");
    let options = Options {
        more: &section,
        ..Options::default()
    };
    let kas = Kas::start(options, folder.path()).await?;
    let me = ask(port, "/v1/caller").await?;
    ensure!(me["role"] == "viewer" && me["proof"] == "none", "{me:#}");

    for (view, words) in [
        (
            "#/sessions",
            "Sessions are not ended here: this needs the role operator",
        ),
        ("#/add", "Not here: this needs the role administrator"),
        (
            "#/clusters/first",
            "Tokens are not changed here: this needs the role administrator",
        ),
    ] {
        let url = format!("http://127.0.0.1:{port}/{view}");
        browser::shows(&url, &[words, "this machine: viewer"], folder.path()).await?;
    }
    drop(kas);
    Ok(())
}

//! GitLab's command line, `glab`, shows the graph of a cluster.

mod page;

use std::{
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use serde_json::json;
use tests::{
    http::send,
    kube::Cluster,
    kubectl::Kubectl,
    parts::{Part, skipped},
    process::Process,
    programs,
};
use tokio::process::Command;

use super::{API, SOON, Site, WEB};
use page::{Page, Picture, shown_by_a_browser};

/// Its token, and the project and the agent that it is asked for.
const TOKEN: &str = "pat-alice";
const PROJECT: &str = "group/config";
const AGENT: &str = "6";
/// Objects as its pictures have them.
const WEB_ITSELF: &str = "apps/deployments/web";
const SETTINGS: &str = "/configmaps/settings";
const PASSWORD: &str = "/secrets/password";
const PASSWORD_ITSELF: &str =
    r#"{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "password"}}"#;
/// The other ways to ask: one namespace by its name and an expression, and what is reached from a root.
const ROOTED: [&str; 9] = [
    "--core",
    "--apps",
    "-n",
    "default",
    "--ns-expression",
    "name != 'kube-system'",
    "--root-expression",
    "resource == 'deployments' && name == 'web'",
    "--ignore-arc-direction",
];

/// `GLAB_BIN` names it; 18.1 was the first GitLab with graphs. It serves a page of pictures, for each of which it asks
/// kas.
#[tokio::test(flavor = "multi_thread")]
async fn gitlabs_command_line_shows_the_graph_of_a_cluster() -> Result<()> {
    let name = "gitlabs_command_line_shows_the_graph_of_a_cluster";
    let Some(program) = programs::given("GLAB_BIN", name)? else {
        return Ok(());
    };
    if skipped(name, &[Part::Cluster, Part::Nginx, Part::Chromium]) {
        return Ok(());
    }
    let cluster = Cluster::up().await?;

    let checked = async {
        let folder = tempfile::tempdir()?;
        let site = Site::start(&cluster, folder.path()).await?;
        let admin = cluster.admin().patient(SOON);
        let home = Home::make(program, &site, folder.path())?;
        let checked = async {
            admin.apply(WEB).await?;
            live(&home, &admin).await.context("the usual graph")?;
            rooted(&home, &admin).await.context("from a root")?;
            refused(&home).await.context("a wrong question")
        };
        checked.await.with_context(|| site.tails())
    };
    let checked = checked.await;

    cluster.down().await?;
    checked
}

/// The picture follows what becomes of the cluster, and a browser shows it.
async fn live(home: &Home, admin: &Kubectl) -> Result<()> {
    let mut glab = home.start("usual", &[]).await?;
    let checked = async {
        let mut page = Page::open(glab.port).await?;
        let all = page.until("the deployment", |it| is_whole(it, 1)).await?;
        let seen = shown_by_a_browser(glab.port, &all, &home.folder).await?;
        let names = all.objects().filter_map(|it| it.rsplit('/').next());
        for name in names.filter(|name| name.starts_with("web")) {
            ensure!(seen.contains(&format!("[{name}]")), "{name}: {seen}");
        }

        admin.apply(PASSWORD_ITSELF).await?;
        glab.says("Set Vertex /v1/secrets ns=default n=password")
            .await?;
        admin.ok(&["delete", "secret", "password"]).await?;
        glab.says("Delete Vertex /v1/secrets ns=default n=password")
            .await?;
        admin.ok(&scaled("--replicas=2")).await?;
        let two = "two pods, and what is used and is gone";
        page.until(two, |it| is_whole(it, 2)).await?;
        admin.ok(&scaled("--replicas=1")).await?;
        page.until("one pod", |it| is_whole(it, 1))
            .await
            .map(|_| ())
    };
    checked.await.with_context(|| glab.process.tail())
}

/// What is reached from the deployment, until it is gone.
async fn rooted(home: &Home, admin: &Kubectl) -> Result<()> {
    let glab = home.start("rooted", &ROOTED).await?;
    let checked = async {
        let mut page = Page::open(glab.port).await?;
        let some = page.until("the root", |it| is_whole(it, 1)).await?;
        ensure!(!some.has("/configmaps/other"), "{some}");
        admin.ok(&["delete", "deployment", "web"]).await?;
        let gone = |it: &Picture| !it.has(WEB_ITSELF) && web_pods(it).is_empty();
        page.until("nothing", gone).await.map(|_| ())
    };
    checked.await.with_context(|| glab.process.tail())
}

/// What kas has against a question is on the page.
async fn refused(home: &Home) -> Result<()> {
    let glab = home.start("refused", &["--root-expression", "1 +"]).await?;
    let page = Request::get(format!("http://127.0.0.1:{}/", glab.port));
    let answer = send(page.body(Bytes::new())?).await?;
    let said = String::from_utf8_lossy(answer.body());
    let is_told = said.contains("InvalidArgument (3)") && said.contains("is not valid");
    ensure!(answer.status() == 500 && is_told, "{said}");
    Ok(())
}

/// Whether the deployment is drawn with its replica set and so many pods, each with the arc to its owner, and what it
/// uses, of which one does not exist.
fn is_whole(picture: &Picture, pods: usize) -> bool {
    let sets = picture.objects();
    let sets: Vec<_> = sets
        .filter(|it| it.starts_with("apps/replicasets/web-"))
        .collect();
    let [set] = &sets[..] else { return false };
    let all = web_pods(picture);
    all.len() == pods
        && all.iter().all(|pod| picture.has_arc(pod, set))
        && picture.has_arc(set, WEB_ITSELF)
        && [SETTINGS, PASSWORD]
            .iter()
            .all(|it| picture.has_arc(WEB_ITSELF, it))
}

fn web_pods(picture: &Picture) -> Vec<&str> {
    let pods = picture.objects().filter(|it| it.starts_with("/pods/web-"));
    pods.collect()
}

fn scaled(replicas: &str) -> [&str; 4] {
    ["scale", "deployment", "web", replicas]
}

/// Where `glab` finds what it is configured by.
struct Home {
    program: PathBuf,
    front: String,
    folder: PathBuf,
}

impl Home {
    /// For a GitLab behind TLS; what that says of itself tells `glab` where kas is.
    fn make(program: PathBuf, site: &Site, folder: &Path) -> Result<Self> {
        let host = format!("localhost:{}", site.nginx.port());
        let front = format!("https://{host}");
        let metadata = folder.join("pages/api/v4");
        std::fs::create_dir_all(&metadata)?;
        let known = json!({
            "version": "18.4.0", "revision": "0", "enterprise": false,
            "kas": {"enabled": true, "version": "18.4.0", "externalUrl": front,
                    "externalK8sProxyUrl": format!("{front}{API}/")},
        });
        std::fs::write(metadata.join("metadata"), known.to_string())?;
        let ca = folder.join("certs/ca.crt");
        let settings = json!({
            "check_update": false, "telemetry": false,
            "hosts": {host: {"token": TOKEN, "ca_cert": ca}},
        });
        std::fs::create_dir_all(folder.join("glab"))?;
        // It reads no file that others may read; JSON is YAML.
        let file = std::fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(folder.join("glab/config.yml"))?;
        serde_json::to_writer(file, &settings)?;
        let folder = folder.to_owned();
        Ok(Self {
            program,
            front,
            folder,
        })
    }

    /// Asks for a graph. Without a search path no browser is found, which would be opened.
    async fn start(&self, name: &str, options: &[&str]) -> Result<Glab> {
        let mut command = Command::new(&self.program);
        command
            .args(["cluster", "graph", "-R", PROJECT, "-a", AGENT])
            .args(["--listen-addr", "127.0.0.1:0"])
            .args(options)
            .envs([("GITLAB_HOST", self.front.as_str()), ("PATH", "")])
            .env("GLAB_CONFIG_DIR", self.folder.join("glab"))
            .env("GLAB_NO_PROMPT", "true")
            .current_dir(&self.folder);
        let mut process = Process::spawn(&format!("glab-{name}"), &mut command, &self.folder)?;
        let listens = process.wait_for("Listening on http://", SOON).await?;
        let port = listens.rsplit(':').next().unwrap_or_default().trim();
        let port = port.parse().with_context(|| listens.clone())?;
        Ok(Glab { process, port })
    }
}

/// One that serves its page.
struct Glab {
    process: Process,
    port: u16,
}

impl Glab {
    /// Waits until it says that kas has told it this.
    async fn says(&mut self, what: &str) -> Result<()> {
        self.process.wait_for(what, SOON).await.map(|_| ())
    }
}

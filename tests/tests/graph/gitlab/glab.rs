//! GitLab's command line, `glab`, shows the graph of a cluster.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::{
    browser,
    kube::Cluster,
    parts::{Part, skipped},
    ports,
    process::Process,
    programs,
    wait::{until, until_accepts},
};
use tokio::process::Command;

use super::{API, SOON, Site, WEB};

/// Its token, and the project and the agent that it is asked for.
const TOKEN: &str = "pat-alice";
const PROJECT: &str = "group/config";
const AGENT: &str = "6";
/// What a deployment with its pods takes at least.
const MIN_SENT_BYTES: u64 = 1000;

/// `GLAB_BIN` names it; 18.1 was the first GitLab with graphs. It serves a page, which asks through it for the graph.
/// What kas told it counts here: how the page draws that is its own matter.
#[tokio::test(flavor = "multi_thread")]
async fn gitlabs_command_line_shows_the_graph_of_a_cluster() -> Result<()> {
    let name = "gitlabs_command_line_shows_the_graph_of_a_cluster";
    let Some(glab) = programs::given("GLAB_BIN", name)? else {
        return Ok(());
    };
    if skipped(name, &[Part::Cluster, Part::Nginx, Part::Chromium]) {
        return Ok(());
    }
    let cluster = Cluster::up().await?;

    let checked = async {
        let folder = tempfile::tempdir()?;
        let site = Site::start(&cluster, folder.path()).await?;
        cluster.admin().patient(SOON).apply(WEB).await?;
        let front = format!("http://127.0.0.1:{}", site.nginx.plain());
        // What GitLab says of itself, from which glab knows where kas is.
        let metadata = folder.path().join("pages/api/v4");
        std::fs::create_dir_all(&metadata)?;
        let known = json!({
            "version": "18.4.0", "revision": "0", "enterprise": false,
            "kas": {"enabled": true, "version": "18.4.0", "externalUrl": front,
                    "externalK8sProxyUrl": format!("{front}{API}/")},
        });
        std::fs::write(metadata.join("metadata"), known.to_string())?;
        let port = ports::free();
        let mut command = Command::new(glab);
        command
            .args(["cluster", "graph", "-R", PROJECT, "-a", AGENT])
            .args(["--core", "--apps", "-n", "default", "--listen-net", "tcp"])
            .args(["--listen-addr", &format!("127.0.0.1:{port}")])
            .envs([("GITLAB_HOST", front.as_str()), ("GITLAB_TOKEN", TOKEN)])
            .envs([("GLAB_CHECK_UPDATE", "false"), ("NO_PROMPT", "true")])
            .env("BROWSER", "true")
            .env("GLAB_CONFIG_DIR", folder.path().join("glab"))
            .current_dir(folder.path());
        let glab = Process::spawn("glab", &mut command, folder.path())?;
        let shown = show(&site, port, folder.path()).await;
        shown.with_context(|| glab.tail())
    };
    let checked = checked.await;

    cluster.down().await?;
    checked
}

/// Opens the page until kas has told it of the cluster, which is recorded when the page is closed.
async fn show(site: &Site, port: u16, folder: &Path) -> Result<()> {
    until_accepts(port, SOON).await.context("glab's page")?;
    let page = format!("http://127.0.0.1:{port}/");
    let shown = async || {
        browser::open(&page, &["--virtual-time-budget=5000", "--dump-dom"], folder)
            .await
            .ok()?;
        let log = site.kas.output();
        let lines = log.lines().filter_map(|it| serde_json::from_str(it).ok());
        let told = |line: &Value| {
            let sent = line["sent"].as_u64().unwrap_or_default();
            line["path"] == "/graph" && line["status"] == 101 && sent >= MIN_SENT_BYTES
        };
        lines.into_iter().any(|it| told(&it)).then_some(())
    };
    let shown = until("the graph on glab's page", SOON, shown).await;
    shown.with_context(|| site.tails())
}

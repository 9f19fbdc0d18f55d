//! `kas up`: the one command, and kubectl as it prints.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{
    chaos::Chaos,
    parts::{Part, skipped},
    ports, programs,
    redis::Redis,
    stub_api::{StubApi, kubeconfig_of},
    terminal::Terminal,
    up::Up,
    wait::until,
};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_works_on_the_demo_cluster() -> Result<()> {
    if skipped("kubectl_works_on_the_demo_cluster", &[Part::Kubectl]) {
        return Ok(());
    }
    let up = Up::start(&[]).await?;
    let kubectl = up.kubectl();

    let namespaces = kubectl.ok(&["get", "ns"]).await?;
    let mut watch = kubectl.start("watch", &["get", "pods", "-w"], up.folder())?;
    let applied = kubectl.apply(DEPLOYMENT).await?;
    watch.wait_for("Running", SOON).await?;
    kubectl
        .ok(&["rollout", "status", "deployment/shop", "--timeout=120s"])
        .await?;
    let pods = kubectl
        .ok(&["get", "pods", "-l", "app=shop", "-o", "name"])
        .await?;
    let pod = pods.lines().next().unwrap_or_default();
    let described = kubectl.ok(&["describe", pod]).await?;
    let logs = kubectl.ok(&["logs", pod]).await?;
    let deleted = kubectl.ok(&["delete", "deployment", "shop"]).await?;

    ensure!(namespaces.contains("default"), "{namespaces}");
    ensure!(applied.contains("created"), "{applied}");
    ensure!(described.contains("shop"), "{described}");
    ensure!(!logs.is_empty(), "no logs");
    ensure!(deleted.contains("deleted"), "{deleted}");
    up.interrupt().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_leaves_no_core_behind() -> Result<()> {
    let up = Up::start(&["--replicas", "1"]).await?;
    let id = up.process.id().context("it has ended")?;

    let limits = std::fs::read_to_string(format!("/proc/{id}/limits"))?;

    let mut lines = limits.lines();
    let core = lines.find_map(|line| line.strip_prefix("Max core file size"));
    let core: Vec<_> = core.unwrap_or_default().split_whitespace().collect();
    // Cores that are piped to a program are none at 1 only, see `runtime::core_dumps`.
    ensure!(core.starts_with(&["1", "1"]), "{limits}");
    up.interrupt().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_line_works_as_it_is() -> Result<()> {
    if skipped("the_printed_line_works_as_it_is", &[Part::Kubectl]) {
        return Ok(());
    }
    let up = Up::start(&["--replicas", "1"]).await?;

    let output = up.process.output();
    let line = output
        .lines()
        .find(|line| line.starts_with("ready"))
        .context("no line starts with ready")?;
    let command = line
        .split_once("kubectl ")
        .with_context(|| line.to_owned())?
        .1;
    let args: Vec<_> = command.split_whitespace().collect();
    let namespaces = up.kubectl().ok(&args).await?;

    ensure!(namespaces.contains("kube-system"), "{namespaces}");
    up.interrupt().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_fail_no_request() -> Result<()> {
    if skipped("cut_connections_fail_no_request", &[Part::Kubectl]) {
        return Ok(());
    }
    gets(Up::start(&["--drop-every", "1s"]).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_fail_no_request_with_a_table_in_redis() -> Result<()> {
    let name = "cut_connections_fail_no_request_with_a_table_in_redis";
    if skipped(name, &[Part::Kubectl, Part::Redis]) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let redis = Redis::start(folder.path()).await?;
    let url = format!("redis://127.0.0.1:{}", redis.port());
    gets(Up::start(&["--replicas", "3", "--redis", &url, "--drop-every", "1s"]).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_when_a_request_went_the_whole_way_to_the_cluster() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let stub = StubApi::start().await?;
    let port = ports::free();
    let file = kubeconfig_of(port, folder.path())?.display().to_string();
    // Replicas, agent and tunnels are there; the cluster is not.
    let mut up = Up::begin(&["--kubeconfig", &file])?;
    let why = up.process.wait_for("not yet ready: ", SOON).await?;
    ensure!(!up.process.output().contains("ready: kubectl"), "{why}");

    let _reachable = Chaos::on(port, &[stub.port()]).await?;

    up.ready().await?;
    let asked = stub.seen().asked();
    ensure!(asked.iter().any(|path| path == "/version"), "{asked:?}");
    up.interrupt().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_one_on_the_same_data_says_which_process_holds_it() -> Result<()> {
    let up = Up::start(&["--replicas", "1"]).await?;
    let holder = up.process.id().context("it runs")?;

    let said = up.second().await?;

    ensure!(
        said.contains(&format!("process {holder}")) && said.contains("--data-dir"),
        "{said}"
    );
    up.interrupt().await
}

#[tokio::test(flavor = "multi_thread")]
async fn its_own_requests_are_counted_while_connections_are_cut() -> Result<()> {
    let mut up = Up::start(&["--drop-every", "500ms"]).await?;
    let counts = |line: &str| -> Option<[u64; 3]> {
        let words: Vec<_> = line.split(' ').collect();
        let [
            requests,
            "requests,",
            failed,
            "failed,",
            cut,
            "connections",
            "cut",
        ] = words[..]
        else {
            return None;
        };
        let number = |text: &str| text.replace(',', "").parse().ok();
        Some([number(requests)?, number(failed)?, number(cut)?])
    };
    // Lines come now and then; one of the first is from before anything was cut.
    let cut = until("connections to be cut", SOON, async || {
        let output = up.process.output();
        let mut lines = output.lines().filter_map(counts);
        lines.find(|[_, _, cut]| *cut > 2)
    });
    cut.await.with_context(|| up.process.tail())?;

    let status = up.process.end_by("INT", SOON).await?;

    let output = up.process.output();
    let last = output.lines().filter_map(counts).next_back();
    let [requests, failed, cut] = last.with_context(|| output.clone())?;
    ensure!(status.success(), "{status}");
    ensure!(requests > 20 && failed == 0 && cut > 2, "{output}");
    ensure!(!output.contains('\r'), "{output}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_its_counter_is_the_last_line_and_replaced_in_place() -> Result<()> {
    let name = "on_a_terminal_its_counter_is_the_last_line_and_replaced_in_place";
    if skipped(name, &[Part::Pty]) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let kas = programs::kas()?.display().to_string();
    let data = folder.path().join("kas-data").display().to_string();
    let command = format!(
        "{kas} up --replicas 2 --agent-port 0 --api-port 0 --drop-every 500ms --data-dir {data}"
    );
    let mut terminal = Terminal::start(&command, [40, 140], folder.path())?;
    terminal.shows("Press Ctrl-C to stop").await?;
    // Several figures on one line, and none of them is there for long.
    let more = async |than: u64| {
        let found = |shown: &str| {
            let (before, _) = shown.rsplit_once(" connections cut")?;
            let (_, cut) = before.rsplit_once(" 0 failed, ")?;
            let cut = cut.parse::<u64>().ok().filter(|cut| *cut > than)?;
            Some((cut, shown.to_owned()))
        };
        let what = format!("more than {than} connections cut");
        terminal.shows_what(&what, found).await
    };
    let (cut, _) = more(1).await?;

    let (_, shown) = more(cut + 1).await?;

    let counters = shown.matches("connections cut").count();
    ensure!(counters == 1, "{shown}");
    ensure!(shown.trim_end().ends_with("connections cut"), "{shown}");
    terminal.press("\x03").await?;
    let shown = terminal.shows("stopped").await?;
    ensure!(shown.matches("connections cut").count() == 1, "{shown}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn top_shows_on_terminals_what_runs_and_leaves_them_as_they_were() -> Result<()> {
    let name = "top_shows_on_terminals_what_runs_and_leaves_them_as_they_were";
    if skipped(name, &[Part::Pty]) {
        return Ok(());
    }
    let up = Up::start(&["--replicas", "2"]).await?;
    let kas = programs::kas()?.display().to_string();
    let top = format!("{kas} top --server {}", up.admin()?);
    let script = format!(
        "before=$(stty -g); {top}; echo exit $?; test \"$(stty -g)\" = \"$before\" && echo as it was"
    );
    for (size, key) in [([24, 80], "q"), ([40, 140], "\x03")] {
        let mut terminal = Terminal::start(&script, size, up.folder())?;
        let fleet = [
            "1 of 1 agents connected, 2 replicas, store memory",
            "demo  connected  1",
            "q: leave",
        ];
        terminal.shows_all(&fleet).await?;
        terminal.press("2").await?;
        let replicas = ["replica-2  serving", "IDLE/TUNNELS"];
        terminal.shows_all(&replicas).await?;
        terminal.press("3").await?;
        terminal.shows("nobody has anything open").await?;
        terminal.press("4").await?;
        terminal.shows("no requests are in progress").await?;
        ensure!(terminal.screen().screen().alternate_screen());

        terminal.press(key).await?;

        let left = terminal.shows("as it was").await?;
        ensure!(left.contains("exit 0"), "{left}");
        let parser = terminal.screen();
        let screen = parser.screen();
        ensure!(
            !screen.alternate_screen() && !screen.hide_cursor(),
            "{left}"
        );
    }
    up.interrupt().await
}

#[tokio::test(flavor = "multi_thread")]
async fn top_without_a_terminal_or_a_server_says_so() -> Result<()> {
    if skipped("top_without_a_terminal_or_a_server_says_so", &[Part::Pty]) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let nobody = format!("http://127.0.0.1:{}", ports::free());
    let program = programs::kas()?;

    let mut command = Command::new(&program);
    let output = command.args(["top", "--server", &nobody]).output().await?;

    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && output.stdout.is_empty(),
        "{output:?}"
    );
    ensure!(said.contains("kas top needs a terminal"), "{said}");
    let script = format!("{} top --server {nobody}; echo exit $?", program.display());
    let terminal = Terminal::start(&script, [24, 80], folder.path())?;
    let said = terminal.shows("exit 1").await?;
    ensure!(said.contains("cannot ask the server's admin API"), "{said}");
    Ok(())
}

async fn gets(up: Up) -> Result<()> {
    let kubectl = up.kubectl();

    for number in 0..100 {
        let pods = kubectl.ok(&["get", "--raw", "/api/v1/namespaces"]).await;
        let pods = pods.with_context(|| format!("request {number}\n{}", up.process.tail()))?;
        ensure!(pods.contains("kube-system"), "{pods}");
    }

    up.interrupt().await
}

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      containers:
      - {name: shop, image: "example/shop:1"}
"#;

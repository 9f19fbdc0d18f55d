//! What an operator's Prometheus and Grafana are given: metrics that are in order, alerts that are raised when they
//! should be, panels that show something.

mod queries;

use std::{collections::BTreeSet, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use serde_json::Value;
use tests::{
    agentk::{Agentk, Links},
    http as client,
    parts::{self, Part, skipped},
    pod_set::{PodSet, Settings},
    stub_api::StubApi,
    wait::until,
};
use tokio::{io::AsyncWriteExt, process::Command};

const LIMIT: Duration = Duration::from_secs(60);
const ALERTS: &str = include_str!("../../../deploy/k8s/charts/kas/alerts.yaml");
const DASHBOARD: &str = include_str!("../../../deploy/k8s/charts/kas/dashboard.json");
const RUNBOOK: &str = include_str!("../../../docs/runbook.md");
const REFERENCE: &str = include_str!("../../../docs/reference/metrics.md");
const RULE_TESTS: &str = include_str!("alerts.yaml");
/// Names that GitLab's dashboards expect, whatever promtool thinks of them.
const NAMES_OF_GITLAB: [&str; 2] = [
    "limiter_block_duration_milliseconds",
    "connected_agents_count",
];
/// What Prometheus itself exports of a target.
const OF_PROMETHEUS: &str = "up";

/// Runs promtool with this on its standard input, and gives whether it is content, and what it says.
async fn promtool(args: &[&str], folder: &Path, stdin: &str) -> Result<(bool, String)> {
    let program = parts::program("promtool").context("no promtool")?;
    let mut child = Command::new(program)
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut input = child.stdin.take().context("standard input")?;
    input.write_all(stdin.as_bytes()).await?;
    drop(input);
    let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await??;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

#[tokio::test]
async fn each_alert_is_raised_when_it_should_be_and_only_then() -> Result<()> {
    for alert in ALERTS.lines().filter_map(|it| it.strip_prefix("- alert: ")) {
        let tested = RULE_TESTS.contains(&format!("alertname: {alert}\n"));
        ensure!(tested, "no test raises {alert}");
        let explained = RUNBOOK.contains(&format!("\n## {alert}\n"));
        ensure!(explained, "the runbook has no entry for {alert}");
    }
    let name = "each_alert_is_raised_when_it_should_be_and_only_then";
    if skipped(name, &[Part::Promtool]) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let rules = ALERTS.replace("JOB", "job=\"kas-metrics\"");
    let rules: String = rules
        .lines()
        .map(|line| format!("      {line}\n"))
        .collect();
    let rules = format!("groups:\n  - name: kas\n    rules:\n{rules}");
    std::fs::write(folder.path().join("rules.yaml"), rules)?;
    std::fs::write(folder.path().join("alerts.yaml"), RULE_TESTS)?;

    let (content, said) = promtool(&["test", "rules", "alerts.yaml"], folder.path(), "").await?;

    ensure!(content, "{said}");
    Ok(())
}

/// The metrics at a port as Prometheus before `OpenMetrics` wants them.
async fn metrics(port: u16) -> Result<String> {
    let request = Request::get(format!("http://127.0.0.1:{port}/metrics"));
    let request = request.header("accept", "text/plain;version=0.0.4");
    let answer = client::send(request.body(Bytes::new())?).await?;
    ensure!(answer.status().is_success(), "{answer:?}");
    Ok(String::from_utf8_lossy(answer.body()).into_owned())
}

/// What promtool finds wrong with metrics, without the names that are GitLab's.
async fn faults(metrics: &str, folder: &Path) -> Result<Vec<String>> {
    let (content, said) = promtool(&["check", "metrics"], folder, metrics).await?;
    let ours = |line: &&str| {
        let name = line.split_whitespace().next().unwrap_or_default();
        !name.is_empty() && !NAMES_OF_GITLAB.contains(&name)
    };
    ensure!(content || !said.trim().is_empty());
    Ok(said.lines().filter(ours).map(str::to_owned).collect())
}

/// The names of metrics in a query: each has a selector.
fn queried(query: &str) -> impl Iterator<Item = &str> {
    let parts: Vec<_> = query.split('{').collect();
    let before = parts.len().saturating_sub(1);
    parts.into_iter().take(before).filter_map(|part| {
        let start = part.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let name = &part[start.map_or(0, |at| at + 1)..];
        (!name.is_empty()).then_some(name)
    })
}

/// The queries of all panels.
fn panels(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let of_panel = |panel: &Value| {
        let title = panel["title"].as_str().unwrap_or_default().to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        let queries = targets.into_iter().filter_map(|target| {
            let query = target["expr"].as_str()?.to_owned();
            Some((title.clone(), query))
        });
        queries.collect::<Vec<_>>()
    };
    panels.flat_map(of_panel).collect()
}

/// The queries of all alerts, each with its name.
fn alerts() -> Vec<(String, String)> {
    let mut alerts = Vec::new();
    let mut name = String::new();
    for line in ALERTS.lines() {
        if let Some(alert) = line.strip_prefix("- alert: ") {
            alert.clone_into(&mut name);
        } else if let Some(query) = line.strip_prefix("  expr: ") {
            alerts.push((name.clone(), query.to_owned()));
        }
    }
    alerts
}

/// The names under which metrics have samples.
fn exported(metrics: &str) -> BTreeSet<&str> {
    let samples = metrics.lines().filter(|line| !line.starts_with('#'));
    let names = samples.filter_map(|line| line.split(['{', ' ']).next());
    names.collect()
}

/// What a running program tells otherwise than the reference, which is made from its source.
fn not_in_reference(metrics: &str) -> Vec<String> {
    let types = metrics.lines().filter_map(|it| it.strip_prefix("# TYPE "));
    let kinds = types.filter_map(|line| line.split_once(' '));
    let kinds =
        kinds.filter(|(name, kind)| !REFERENCE.contains(&format!("\n| `{name}` | {kind} |")));
    let mut unknown: Vec<_> = kinds
        .map(|(name, kind)| format!("{name}, {kind}"))
        .collect();
    for sample in metrics.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, labels)) = sample.split_once('{') else {
            continue;
        };
        let endings = ["_bucket", "_sum", "_count"].map(|ending| name.strip_suffix(ending));
        let names = endings.into_iter().flatten().chain([name]);
        let rows = names.filter_map(|name| {
            let start = format!("| `{name}` |");
            REFERENCE.lines().find(|row| row.starts_with(&start))
        });
        let known: String = rows.collect();
        let labels = labels
            .split("\",")
            .filter_map(|label| label.split('=').next());
        let labels =
            labels.filter(|label| *label != "le" && !known.contains(&format!("`{label}`")));
        unknown.extend(labels.map(|label| format!("the label {label} of {name}")));
    }
    unknown.sort();
    unknown.dedup();
    unknown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_in_order_and_every_panel_and_alert_asks_for_one_that_there_is() -> Result<()> {
    let name = "metrics_are_in_order_and_every_panel_and_alert_asks_for_one_that_there_is";
    if skipped(name, &[Part::Promtool, Part::Haproxy, Part::Redis]) {
        return Ok(());
    }
    let settings = Settings {
        audit: true,
        ..Settings::default()
    };
    let replicas = PodSet::with(1, &settings).await?;
    let folder = replicas.folder();
    let token = replicas.cli(&["agent", "create", "site"]).await?;
    let user = replicas.cli(&["user", "create", "ana"]).await?;
    let grant = ["access", "grant", "--agent", "*", "--user", "ana"];
    replicas
        .cli(&[&grant[..], &["--as", "agent"]].concat())
        .await?;
    let stub = StubApi::start().await?;
    let links = Links {
        kas: format!("ws://127.0.0.1:{}/", replicas.agents),
        ca: None,
        kubeconfig: stub.kubeconfig(folder)?,
    };
    let agentk = Agentk::with_flags(&[], "agentk", &links, &token, folder)?;
    let url = format!("http://127.0.0.1:{}/k8s-proxy/version", replicas.users);
    let bearer = format!("pat:2:{user}");
    let served = async || {
        let answer = client::get(&url, &bearer).await.ok()?;
        answer.status().is_success().then_some(())
    };
    let served = until("the agent", LIMIT, served).await;
    served.with_context(|| replicas.tails())?;

    let of_kas = metrics(replicas.replica(0).observability()).await?;
    let of_agentk = metrics(agentk.observability).await?;
    for metrics in [&of_kas, &of_agentk] {
        let faults = faults(metrics, folder).await?;
        ensure!(faults.is_empty(), "{faults:#?}");
        let unknown = not_in_reference(metrics);
        ensure!(
            unknown.is_empty(),
            "not in docs/reference/metrics.md: {unknown:#?}"
        );
    }
    for name in ["process_start_time_seconds", "process_cpu_seconds_total"] {
        ensure!(exported(&of_agentk).contains(name), "{of_agentk}");
    }

    let there = exported(&of_kas);
    let dashboard: Value = serde_json::from_str(DASHBOARD)?;
    let panels = panels(&dashboard);
    ensure!(panels.len() > 20, "{panels:?}");
    for (place, query) in panels.into_iter().chain(alerts()) {
        let names: Vec<_> = queried(&query).collect();
        ensure!(!names.is_empty(), "{place} asks for nothing: {query}");
        for name in names {
            // No port has TLS here.
            let is_there = there.contains(name)
                || name == OF_PROMETHEUS
                || (name == "tls_certificate_not_after_timestamp_seconds"
                    && of_kas.contains("config_last_reload_successful"));
            ensure!(is_there, "{place}: there is no {name}\n{of_kas}");
        }
    }

    // Of those who were let in, and of nobody else.
    let nobody = client::get(&url, "pat:2:kasuser-that-nobody-has").await?;
    ensure!(nobody.status() == 401, "{nobody:?}");
    let of_kas = replicas.metrics(0).await?;
    let callers: Vec<_> = of_kas
        .lines()
        .filter(|it| it.starts_with("k8s_api_proxy_caller_requests_total{"))
        .collect();
    ensure!(callers.len() == 2, "{callers:?}");
    for caller in ["user:ana", "other"] {
        let start = format!("k8s_api_proxy_caller_requests_total{{caller=\"{caller}\"}}");
        ensure!(
            callers.iter().any(|it| it.starts_with(&start)),
            "{callers:?}"
        );
    }

    let up = "agent_up{agent_id=\"2\",agent_name=\"site\"}";
    ensure!(of_kas.contains(&format!("{up} 1")), "{of_kas}");
    ensure!(of_kas.contains("agent_up{agent_id=\"1\",agent_name=\"first\"} 0"));
    drop(agentk);
    let gone = async || {
        let of_kas = replicas.metrics(0).await.ok()?;
        of_kas.contains(&format!("{up} 0")).then_some(of_kas)
    };
    let of_kas = until("the agent to be gone", LIMIT, gone).await?;
    let seen = "agent_last_seen_timestamp_seconds{agent_id=\"2\"";
    ensure!(of_kas.contains(seen), "{of_kas}");
    Ok(())
}

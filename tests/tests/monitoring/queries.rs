//! The queries of the dashboard and of the alerts: Prometheus can read each, and each asks for labels that there are.

use std::{collections::BTreeSet, fmt::Write as _};

use anyhow::{Context, Result, ensure};
use tests::parts::{Part, skipped};

use super::{DASHBOARD, OF_PROMETHEUS, REFERENCE, alerts, panels, promtool};

/// What Prometheus adds to each metric of a target, and `le`, which the buckets of a histogram have.
const OF_ALL: [&str; 3] = ["job", "instance", "le"];
/// The variables of the dashboard, with what Grafana may put in their place.
const VARIABLES: [(&str, &str); 3] = [
    ("$job", "kas-metrics"),
    ("$__rate_interval", "5m"),
    ("JOB", "job=\"kas-metrics\""),
];

/// The parts of a query that names of metrics, labels and functions are in: what is quoted is none.
fn unquoted(query: &str) -> String {
    let mut text = String::new();
    let mut quoted = false;
    let mut escaped = false;
    for character in query.chars() {
        if quoted {
            quoted = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else if character == '"' {
            quoted = true;
        } else {
            text.push(character);
        }
    }
    text
}

/// The names in a text, each with what follows the last of them.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    parts.filter(|it| it.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))
}

/// The selectors of a query: the name of a metric, and the labels that are compared.
fn selectors(query: &str) -> Vec<(String, Vec<String>)> {
    let text = unquoted(query);
    let mut selectors = Vec::new();
    let mut rest = &*text;
    while let Some((before, after)) = rest.split_once('{') {
        let name = words(before).last().unwrap_or_default().to_owned();
        let (matchers, following) = after.split_once('}').unwrap_or((after, ""));
        let labels = words(matchers).map(str::to_owned).collect();
        selectors.push((name, labels));
        rest = following;
    }
    selectors
}

/// The labels by which a query groups and joins.
fn groups(query: &str) -> BTreeSet<String> {
    let text = unquoted(query);
    let mut groups = BTreeSet::new();
    for keyword in [
        "by",
        "on",
        "without",
        "ignoring",
        "group_left",
        "group_right",
    ] {
        for (at, _) in text.match_indices(keyword) {
            let before = text[..at].chars().next_back();
            let stands_alone = before.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_');
            let list = text[at + keyword.len()..].trim_start().strip_prefix('(');
            let list = list.filter(|_| stands_alone);
            let list = list.and_then(|it| it.split_once(')'));
            groups.extend(
                list.into_iter()
                    .flat_map(|(it, _)| words(it))
                    .map(str::to_owned),
            );
        }
    }
    groups
}

/// The labels that the reference tells of a metric; nothing if it does not know it.
fn labels_of(metric: &str) -> Option<Vec<&'static str>> {
    let endings = ["_bucket", "_sum", "_count"].map(|ending| metric.strip_suffix(ending));
    let mut names = endings.into_iter().flatten().chain([metric]);
    let row = names.find_map(|name| {
        let start = format!("| `{name}` |");
        REFERENCE.lines().find(|row| row.starts_with(&start))
    })?;
    let labels = row.split('|').nth(3)?;
    Some(labels.split('`').skip(1).step_by(2).collect())
}

/// What is asked of metrics that they do not have.
fn strange(query: &str) -> Vec<String> {
    let mut strange = Vec::new();
    let mut of_any: BTreeSet<String> = OF_ALL.map(str::to_owned).into();
    for (metric, asked) in selectors(query) {
        let known = match labels_of(&metric) {
            Some(known) => known,
            None if metric == OF_PROMETHEUS => Vec::new(),
            None => {
                strange.push(format!("the metric {metric}"));
                continue;
            }
        };
        // JOB stands for a whole matcher.
        let is_known = |label: &&String| {
            OF_ALL.contains(&&***label) || known.contains(&&***label) || *label == "JOB"
        };
        let others = asked.iter().filter(|label| !is_known(label));
        strange.extend(others.map(|label| format!("the label {label} of {metric}")));
        of_any.extend(known.into_iter().map(str::to_owned));
    }
    let groups = groups(query).into_iter().filter(|it| !of_any.contains(it));
    strange.extend(groups.map(|label| format!("the label {label} of none of its metrics")));
    strange
}

/// All queries, each with its place.
fn queries() -> Result<Vec<(String, String)>> {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD)?;
    let all: Vec<_> = panels(&dashboard).into_iter().chain(alerts()).collect();
    ensure!(all.len() > 40, "{all:#?}");
    Ok(all)
}

#[test]
fn labels_that_no_metric_has_are_found() {
    let fine = "max by (agent_id) (agent_up{JOB,agent_name!=\"by (x) {\"}) == 0";
    assert_eq!(strange(fine), Vec::<String>::new());
    let bucket =
        "sum by (le) (rate(k8s_api_proxy_request_duration_seconds_bucket{verb=\"a\"}[5m]))";
    assert_eq!(strange(bucket), Vec::<String>::new());

    let wrong = "sum by (cluster) (agent_up{agent=\"}\",agent_id=\"1\"} and on (pod) nothing{JOB})";
    let expected = [
        "the label agent of agent_up",
        "the metric nothing",
        "the label cluster of none of its metrics",
        "the label pod of none of its metrics",
    ];
    assert_eq!(strange(wrong), expected);
}

#[test]
fn every_query_asks_for_metrics_and_labels_of_the_reference() -> Result<()> {
    for (place, query) in queries()? {
        let strange = strange(&query);
        ensure!(strange.is_empty(), "{place}: {query}: {strange:#?}");
    }
    Ok(())
}

#[tokio::test]
async fn prometheus_can_read_every_query() -> Result<()> {
    let name = "prometheus_can_read_every_query";
    if skipped(name, &[Part::Promtool]) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let mut rules = "groups:\n- name: queries\n  rules:\n".to_owned();
    let queries = queries()?;
    for (number, (place, query)) in queries.iter().enumerate() {
        let put_in =
            |query: String, (variable, value): (&str, &str)| query.replace(variable, value);
        let query = VARIABLES.into_iter().fold(query.clone(), put_in);
        ensure!(
            !query.contains('$'),
            "{place}: which variable is in {query}?"
        );
        let query = serde_json::to_string(&query)?;
        writeln!(rules, "  - record: query:{number}\n    expr: {query}").context("a text")?;
    }
    std::fs::write(folder.path().join("queries.yaml"), rules)?;

    let (content, said) = promtool(&["check", "rules", "queries.yaml"], folder.path(), "").await?;

    ensure!(content, "{said}");
    ensure!(
        said.contains(&format!("{} rules found", queries.len())),
        "{said}"
    );
    Ok(())
}

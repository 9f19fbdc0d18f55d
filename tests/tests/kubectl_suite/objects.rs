//! Objects: listed, applied, watched, refused.

use std::{fmt::Write, time::Duration};

use anyhow::{Result, ensure};
use tests::kubectl::{Kubectl, WEB};

use crate::site::Site;

const SOON: Duration = Duration::from_secs(60);
const MANY: usize = 1000;

pub(crate) async fn lists_namespaces(site: &Site) -> Result<()> {
    let names = site
        .kubectl
        .ok(&["get", "namespaces", "-o", "name"])
        .await?;

    ensure!(
        names.lines().any(|line| line == "namespace/kube-system"),
        "{names}"
    );
    Ok(())
}

pub(crate) async fn applies(site: &Site) -> Result<()> {
    let kubectl = &site.kubectl;

    let created = kubectl.apply(&config_map("applied", "first")).await?;
    let unchanged = kubectl.apply(&config_map("applied", "first")).await?;
    let changed = kubectl.apply(&config_map("applied", "second")).await?;
    kubectl
        .ok(&[
            "patch",
            "cm",
            "applied",
            "--type=merge",
            "-p",
            r#"{"data":{"more":"third"}}"#,
        ])
        .await?;
    let data = kubectl
        .ok(&[
            "get",
            "cm",
            "applied",
            "-o",
            "jsonpath={.data.value} {.data.more}",
        ])
        .await?;
    kubectl.ok(&["delete", "cm", "applied"]).await?;
    let gone = kubectl.refused(&["get", "cm", "applied"]).await?;

    ensure!(created.contains("created"), "{created}");
    ensure!(unchanged.contains("unchanged"), "{unchanged}");
    ensure!(changed.contains("configured"), "{changed}");
    ensure!(data == "second third", "{data}");
    ensure!(gone.contains("NotFound"), "{gone}");
    Ok(())
}

pub(crate) async fn rolls_out(site: &Site) -> Result<()> {
    let kubectl = &site.kubectl;

    kubectl.apply(WEB).await?;
    let rolled = kubectl
        .ok(&["rollout", "status", "deployment/web", "--timeout=120s"])
        .await?;
    let pods = kubectl
        .ok(&["get", "pods", "-l", "app=web", "-o", "name"])
        .await?;
    kubectl
        .ok(&["delete", "deployment", "web", "--wait=false"])
        .await?;

    ensure!(rolled.contains("successfully rolled out"), "{rolled}");
    ensure!(pods.lines().count() == 1, "{pods}");
    Ok(())
}

pub(crate) async fn refuses(site: &Site) -> Result<()> {
    let missing = site
        .kubectl
        .refused(&["get", "pod", "nobody-made-this"])
        .await?;
    let wrong = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"UPPER_CASE"}}"#;
    let invalid = site
        .kubectl
        .run_with(&["create", "-f", "-"], wrong.as_bytes())
        .await?;

    ensure!(
        missing.contains(r#"pods "nobody-made-this" not found"#),
        "{missing}"
    );
    ensure!(
        invalid.code == 1 && invalid.stderr.contains("RFC 1123"),
        "{invalid:?}"
    );
    Ok(())
}

pub(crate) async fn watches(site: &Site) -> Result<()> {
    let watch = ["get", "configmaps", "--watch", "--output-watch-events"];
    let mut watch = site.kubectl.start("watch", &watch, &site.folder)?;
    watch.wait_for("kube-root-ca.crt", SOON).await?;

    site.admin.apply(&config_map("watched", "first")).await?;
    let added = watch.wait_for("watched", SOON).await?;
    site.admin.ok(&["delete", "cm", "watched"]).await?;
    // Other scenarios delete other objects of the namespace meanwhile.
    let is_deletion = |line: &str| line.starts_with("DELETED") && line.contains("watched");
    let deleted = async || watch.output().lines().any(is_deletion).then_some(());
    tests::wait::until("the deletion", SOON, deleted).await?;

    ensure!(added.contains("ADDED"), "{added}");
    Ok(())
}

pub(crate) async fn lists_a_thousand(site: &Site) -> Result<()> {
    let many = site.kubectl.in_namespace("many");
    let list = ["get", "cm", "-l", "many=yes", "-o", "name"];

    let in_chunks = many.ok(&list).await?;
    let at_once = many.ok(&[&list[..], &["--chunk-size=0"]].concat()).await?;
    let whole = many
        .ok(&["get", "cm", "-l", "many=yes", "-o", "json"])
        .await?;

    ensure!(
        in_chunks.lines().count() == MANY,
        "{} in chunks",
        in_chunks.lines().count()
    );
    ensure!(
        at_once.lines().count() == MANY,
        "{} at once",
        at_once.lines().count()
    );
    let whole: serde_json::Value = serde_json::from_str(&whole)?;
    let items = whole["items"].as_array().map_or(0, Vec::len);
    ensure!(items == MANY, "{items} in whole");
    Ok(())
}

/// What [`lists_a_thousand`] lists; made once, by the direct way.
pub(crate) async fn create_a_thousand(admin: &Kubectl) -> Result<()> {
    admin.ok(&["create", "namespace", "many"]).await?;
    let mut manifest = String::from("apiVersion: v1\nkind: List\nitems:\n");
    for number in 0..MANY {
        writeln!(
            manifest,
            "- {{apiVersion: v1, kind: ConfigMap, metadata: {{name: item-{number}, labels: {{many: \"yes\"}}}}, \
             data: {{text: \"{}\"}}}}",
            "x".repeat(1000)
        )?;
    }
    let many = admin.in_namespace("many").patient(Duration::from_secs(180));
    many.ok_with(&["create", "-f", "-"], manifest.as_bytes())
        .await
        .map(drop)
}

pub(crate) fn config_map(name: &str, value: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}, data: {{value: {value}}}}}"
    )
}

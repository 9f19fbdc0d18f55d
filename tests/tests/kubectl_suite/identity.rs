//! Who the cluster sees, what that identity may do, and who is turned away.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{kubectl::Kubectl, wait::until};

use crate::site::Site;

pub(crate) async fn agent(site: &Site) -> Result<()> {
    let agent = whoami(&site.kubectl).await?;
    let other = site
        .kubectl
        .ok(&[
            "auth",
            "whoami",
            "--as=somebody",
            "--as-group=people",
            "-o",
            "json",
        ])
        .await?;
    let refused = site
        .kubectl
        .refused(&["get", "pods", "--as=somebody"])
        .await?;

    ensure!(agent["username"] == "agent", "{agent}");
    ensure!(
        other.contains(r#""username": "somebody""#) && other.contains("people"),
        "{other}"
    );
    ensure!(
        refused.contains(r#"User "somebody" cannot list"#),
        "{refused}"
    );
    Ok(())
}

pub(crate) async fn user(site: &Site) -> Result<()> {
    let alice = site
        .kas()?
        .user("alice", &["user"])
        .await?
        .in_namespace(site.kubectl.namespace());
    // kubectl shows the reason of a refused discovery only when it is verbose.
    let nested = alice
        .refused(&["get", "pods", "--as=somebody", "-v=8"])
        .await?;

    check(site, &alice, "gitlab:user:alice", "alice").await?;
    ensure!(nested.contains("nested impersonation"), "{nested}");
    Ok(())
}

pub(crate) async fn fixed(site: &Site) -> Result<()> {
    let access = [
        "impersonate",
        "--as-user",
        "reader",
        "--as-group",
        "readers",
    ];
    let carl = site
        .kas()?
        .user("carl", &access)
        .await?
        .in_namespace(site.kubectl.namespace());
    let identity = whoami(&carl).await?;

    ensure!(
        identity["groups"].to_string().contains("readers"),
        "{identity}"
    );
    check(site, &carl, "reader", "carl").await
}

pub(crate) async fn service(site: &Site) -> Result<()> {
    let deployer = site
        .kas()?
        .service("deployer", &["ci_job"])
        .await?
        .in_namespace(site.kubectl.namespace());
    let name = whoami(&deployer).await?["username"]
        .as_str()
        .unwrap_or_default()
        .to_owned();

    ensure!(name.starts_with("gitlab:ci_job:"), "{name}");
    check(site, &deployer, &name, "deployer").await
}

pub(crate) async fn strangers(site: &Site) -> Result<()> {
    let no_rights = site.kas()?.user_without_access("nobody").await?;

    let unknown = no_rights
        .refused(&["get", "pods", "--token=pat:1:not-a-token"])
        .await?;
    let forbidden = no_rights.refused(&["get", "pods"]).await?;

    ensure!(
        unknown.contains("nauthorized") || unknown.contains("logged in"),
        "{unknown}"
    );
    ensure!(
        !forbidden.is_empty() && !forbidden.contains("nable to connect"),
        "{forbidden}"
    );
    Ok(())
}

/// The cluster sees `name`, refuses it first, and lets it in once it has a right.
async fn check(site: &Site, kubectl: &Kubectl, name: &str, binding: &str) -> Result<()> {
    let identity = whoami(kubectl).await?;
    let refused = kubectl.refused(&["get", "pods"]).await?;
    let user = format!("--user={name}");
    site.admin
        .ok(&[
            "create",
            "rolebinding",
            binding,
            "--clusterrole=view",
            &user,
        ])
        .await?;
    // The API server learns of new rights a moment later.
    let allowed = async || kubectl.ok(&["get", "pods", "-o", "name"]).await.ok();
    let pods = until("the new right", Duration::from_secs(60), allowed).await?;
    let read_only = kubectl.refused(&["delete", "pod", "box"]).await?;

    ensure!(identity["username"] == name, "{identity}");
    ensure!(
        refused.contains(&format!(r#"User "{name}" cannot list"#)),
        "{refused}"
    );
    ensure!(pods.contains("pod/box"), "{pods}");
    ensure!(read_only.contains("cannot delete"), "{read_only}");
    Ok(())
}

async fn whoami(kubectl: &Kubectl) -> Result<Value> {
    let text = kubectl.ok(&["auth", "whoami", "-o", "json"]).await?;
    let review: Value = serde_json::from_str(&text)?;
    review.pointer("/status/userInfo").cloned().context(text)
}

//! Kubernetes' own conformance tests pass through kas as they do directly: through three replicas behind HAProxy, and
//! while all connections of the agent are reset every 20 seconds.
//!
//! `make conformance` runs them, in a network namespace of its own, and compares with `docs/conformance.md`, which
//! `UPDATE=1` writes. What fails directly on this cluster of one node is in `fails-directly`, with reasons; it is not
//! run through kas. Outcomes are kept in `target/reports/conformance/VERSION`, so that a run can be split:
//!
//! | variable | what it narrows |
//! |---|---|
//! | `CONFORMANCE_GROUPS` | groups of tests: `api-machinery,cli,auth,apps,node` |
//! | `CONFORMANCE_WAYS` | ways to the API server: `direct,kas,cuts`; `none` runs nothing and compares what is kept |
//! | `CONFORMANCE_FOCUS` | tests whose name has a match of this; nothing is kept or compared then |
//! | `CONFORMANCE_AT_ONCE` | tests at once (6) |

mod exceptions;
mod outcomes;
mod registry;
mod runner;
mod settings;
mod site;
mod table;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tests::{
    kube::Cluster,
    parts::{self, Part, say, skipped},
    ports,
};

use crate::{
    exceptions::Exceptions,
    outcomes::{Kept, Outcomes, is_unknown_write},
    registry::Registry,
    runner::Runner,
    settings::{Group, Settings, Way},
    site::Site,
};

const NAME: &str = "what_passes_directly_passes_through_kas";
const NEEDS: &[Part] = &[Part::Cluster, Part::Haproxy, Part::Redis, Part::Conformance];
/// The API server calls aggregated ones as a client of its own. One test waits until a version is compacted away.
const API_SERVER_FLAGS: &str = "--etcd-compaction-interval=1m --requestheader-client-ca-file=pki/ca.crt \
    --requestheader-allowed-names=kube-apiserver-kubelet-client \
    --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
    --requestheader-extra-headers-prefix=X-Remote-Extra- \
    --proxy-client-cert-file=pki/kubelet-client.crt --proxy-client-key-file=pki/kubelet-client.key";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes hours: make conformance"]
async fn what_passes_directly_passes_through_kas() -> Result<()> {
    if skipped(NAME, NEEDS) {
        return Ok(());
    }
    let settings = Settings::from_environment()?;
    let exceptions = Exceptions::committed()?;
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../reports/conformance");
    let folder = folder.join(parts::kubernetes_version());
    let kept = Kept::in_folder(&folder)?;
    if !settings.ways.is_empty() {
        run(&settings, &exceptions, &kept).await?;
    }
    if settings.focus.is_none() {
        compare(&kept, &exceptions)?;
    }
    Ok(())
}

async fn run(settings: &Settings, exceptions: &Exceptions, kept: &Kept) -> Result<()> {
    let logs = kept.logs(settings)?;
    let registry = ports::free();
    let cluster = Cluster::with_services(API_SERVER_FLAGS, registry).await?;

    let ran = async {
        // Only now there is a network.
        let _registry = Registry::start(registry, &logs).await?;
        all(&cluster, settings, exceptions, kept, &logs).await
    };
    let ran = ran.await;

    cluster.down().await?;
    ran
}

async fn all(
    cluster: &Cluster,
    settings: &Settings,
    exceptions: &Exceptions,
    kept: &Kept,
    folder: &Path,
) -> Result<()> {
    let site = Site::start(cluster, folder).await?;
    let runner = Runner::new(settings, folder)?;
    for group in &settings.groups {
        for way in &settings.ways {
            let skip = exceptions.of(*group, *way);
            let ran = site.during(*way, runner.run(*group, *way, site.kubeconfig(*way), &skip));
            let outcomes = ran.await.with_context(|| site.tails())?;
            summary(*group, *way, &outcomes);
            if settings.focus.is_none() {
                kept.keep(*group, *way, &outcomes)?;
            }
        }
    }
    Ok(())
}

fn summary(group: Group, way: Way, outcomes: &Outcomes) {
    let (passed, all) = (outcomes.passed().count(), outcomes.count());
    say(&format!("{group}, {way}: {passed} of {all} pass"));
    for (test, why) in outcomes.failed() {
        let line = why.lines().next().unwrap_or_default();
        say(&format!("  FAILS, {way}: {test}\n    {line}"));
    }
}

/// All that is kept, of this run and of earlier ones.
fn compare(kept: &Kept, exceptions: &Exceptions) -> Result<()> {
    let mut wrong = Vec::new();
    for group in Group::ALL {
        let Some(direct) = kept.of(group, Way::Direct)? else {
            continue;
        };
        for (test, _) in direct.failed().filter(|(test, _)| !exceptions.has(test)) {
            wrong.push(format!("not in fails-directly: {test}"));
        }
        for way in [Way::Kas, Way::Cuts] {
            let Some(through) = kept.of(group, way)? else {
                continue;
            };
            // ginkgo says nothing of tests that it did not come to.
            let skipped = exceptions.of(group, way);
            let missing = direct.passed().filter(|test| !through.has(test));
            let missing = missing.filter(|test| !skipped.contains(test));
            wrong.extend(missing.map(|test| format!("{way}: {test}: not run")));
            let is_told = |why| way == Way::Cuts && is_unknown_write(why);
            let fails = through.failed().filter(|(test, _)| direct.passes(test));
            let fails = fails.filter(|(_, why)| !is_told(why));
            wrong.extend(fails.map(|(test, why)| format!("{way}: {test}: {why}")));
        }
    }
    let compared = table::compare(kept);
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    compared
}

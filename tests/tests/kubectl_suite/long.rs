//! Streams that stay open for minutes, also when nothing happens on them.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::wait::until;

use crate::{
    objects::config_map,
    pods::{are_consecutive, ticks},
    site::Site,
};

/// Twice what load balancers let pass without traffic.
const MINUTES: u64 = 130;
const SOON: Duration = Duration::from_secs(60);

pub(crate) async fn watch_and_logs(site: &Site) -> Result<()> {
    let watch = [
        "get",
        "configmaps",
        "-l",
        "quiet=yes",
        "--watch",
        "--output-watch-events",
    ];
    let mut watch = site.kubectl.start("long-watch", &watch, &site.folder)?;
    let mut logs = site
        .kubectl
        .start("long-logs", &["logs", "-f", "box"], &site.folder)?;

    let enough = async || (ticks(&logs.output()).len() as u64 > MINUTES).then_some(());
    until("minutes of log", Duration::from_secs(MINUTES * 2), enough).await?;
    site.admin.apply(&config_map("quiet", "x")).await?;
    site.admin
        .ok(&["label", "cm", "quiet", "quiet=yes"])
        .await?;
    let event = watch.wait_for("quiet", SOON).await?;

    ensure!(event.contains("ADDED"), "{event}");
    ensure!(
        logs.is_running() && watch.is_running(),
        "{}\n{}",
        logs.tail(),
        watch.tail()
    );
    ensure!(are_consecutive(&ticks(&logs.output())), "{}", logs.tail());
    Ok(())
}

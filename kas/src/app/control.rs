//! Which control plane a configuration names.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use prometheus_client::registry::Registry as Metrics;
use runtime::connect::ProxySetting;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{self, Config, ControlPlaneConfig},
    control_plane::{
        ControlPlane, Memory,
        gitlab::{GitLab, Memories},
        standalone::Standalone,
    },
};

/// Who knows agents and users, and the task that keeps it up to date.
pub(super) fn open(
    config: &Config,
    stop: &CancellationToken,
    metrics: &mut Metrics,
) -> anyhow::Result<(Arc<dyn ControlPlane>, JoinHandle<()>)> {
    match &config.control_plane {
        ControlPlaneConfig::Standalone { file } => {
            let standalone = Arc::new(Standalone::open(file)?);
            let following = tokio::spawn(standalone.clone().follow(stop.clone()));
            Ok((standalone, following))
        }
        ControlPlaneConfig::GitLab(settings) => {
            let proxy = ProxySetting::from_environment().context("the HTTP proxy for GitLab")?;
            let gitlab = GitLab::new(settings, memories(config, settings), proxy)?;
            gitlab.client().metrics().register(metrics);
            let following = tokio::spawn(gitlab.clone().follow(stop.clone()));
            Ok((Arc::new(gitlab), following))
        }
    }
}

fn memories(config: &Config, gitlab: &config::GitLab) -> Memories {
    let proxy = config.agent.kubernetes_api.as_ref();
    Memories {
        agents: Memory {
            good: config.agent.info_cache_ttl,
            refused: config.agent.info_cache_error_ttl,
            grace: gitlab.agents_grace,
            ..Memory::default()
        },
        callers: Memory {
            good: proxy.map_or(Duration::ZERO, |it| it.allowed_agent_cache_ttl),
            refused: proxy.map_or(Duration::ZERO, |it| it.allowed_agent_cache_error_ttl),
            grace: gitlab.callers_grace,
            ..Memory::default()
        },
    }
}

/// GitLab's URL for people, if there is a GitLab.
pub(super) fn external_url(config: &Config) -> Option<String> {
    match &config.control_plane {
        ControlPlaneConfig::GitLab(gitlab) => gitlab.external_url.clone(),
        ControlPlaneConfig::Standalone { .. } => None,
    }
}

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
    usage::Usage,
};

/// A control plane, and what goes with it.
pub(super) struct Opened {
    pub(super) control_plane: Arc<dyn ControlPlane>,
    /// What is counted for it, if it wants to know.
    pub(super) usage: Option<Usage>,
    /// Keeps both up to date.
    pub(super) following: JoinHandle<()>,
}

/// Who knows agents and users.
pub(super) fn open(
    config: &Config,
    stop: &CancellationToken,
    metrics: &mut Metrics,
) -> anyhow::Result<Opened> {
    match &config.control_plane {
        ControlPlaneConfig::Standalone { file } => {
            let standalone = Arc::new(Standalone::open(file)?);
            let following = tokio::spawn(standalone.clone().follow(stop.clone()));
            Ok(Opened {
                control_plane: standalone,
                usage: None,
                following,
            })
        }
        ControlPlaneConfig::GitLab(settings) => {
            let proxy = ProxySetting::from_environment().context("the HTTP proxy for GitLab")?;
            let gitlab = GitLab::new(settings, memories(config, settings), proxy)?;
            gitlab.client().metrics().register(metrics);
            let usage = Usage::default();
            let period = config.observability.usage_reporting_period;
            let following = tokio::spawn({
                let follow = gitlab.clone().follow(stop.clone());
                let report = gitlab
                    .clone()
                    .report_usage(usage.clone(), period, stop.clone());
                async move {
                    tokio::join!(follow, report);
                }
            });
            Ok(Opened {
                control_plane: Arc::new(gitlab),
                usage: Some(usage),
                following,
            })
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

//! Which control plane a configuration names.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use control_plane::{
    CachePolicy, ControlPlane,
    gitaly::{self, Gitaly},
    gitlab::{CachePolicies, GitLab, ModuleApi, PollSharing, RepositorySettings},
    notifications::Notifications,
    standalone::Standalone,
    usage::Usage,
};
use prometheus_client::registry::Registry as Metrics;
use runtime::connect::ProxySetting;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use user_gateway::{Origins, origin_of};

use crate::{
    config::{self, Config, ControlPlaneConfig, Origin},
    version,
};

/// Who knows agents and users, and the tasks that keep it up to date.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) plane: Arc<dyn ControlPlane>,
    /// What is counted for it, if it wants to know.
    pub(super) usage: Option<Usage>,
    /// Where that is a GitLab.
    gitlab: Option<GitLab>,
    /// Where that is a file.
    standalone: Option<Arc<Standalone>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The one that a configuration names.
pub(super) fn open(
    config: &Config,
    stop: &CancellationToken,
    metrics: &mut Metrics,
) -> anyhow::Result<Control> {
    let (tasks, stop) = (TaskTracker::new(), stop.clone());
    let mut file_plane = None;
    let (plane, usage, gitlab): (Arc<dyn ControlPlane>, _, _) = match config.control_plane() {
        ControlPlaneConfig::Standalone(file) => {
            let standalone = Arc::new(Standalone::open(file)?);
            tasks.spawn(standalone.clone().follow(stop.clone()));
            tasks.spawn(standalone.clone().follow_issuers(stop.clone()));
            file_plane = Some(standalone.clone());
            (standalone, None, None)
        }
        ControlPlaneConfig::GitLab(settings) => {
            let proxy = ProxySetting::from_environment().context("the HTTP proxy for GitLab")?;
            let reading = reading(config, settings);
            let gitlab = GitLab::new(
                settings,
                cache_policies(config, settings),
                reading,
                proxy,
                version::server_header(),
            )?;
            gitlab.client().metrics().register(metrics);
            gitlab.gitaly().metrics().register(metrics);
            tasks.spawn(gitlab.clone().recheck_tokens(stop.clone()));
            let period = config.agent.receptive_agent.poll_period.0;
            let following = gitlab.clone();
            tasks.spawn(following.follow_receptive_agents(period, stop.clone()));
            let usage = Usage::default();
            let period = config.observability.usage_reporting_period.0;
            let reporting = gitlab.clone();
            tasks.spawn(reporting.report_usage(usage.clone(), period, stop.clone()));
            (Arc::new(gitlab.clone()), Some(usage), Some(gitlab))
        }
    };
    Ok(Control {
        plane,
        usage,
        gitlab,
        standalone: file_plane,
        tasks,
        stop,
    })
}

impl Control {
    /// Reads repositories, if that is where configurations are.
    pub(super) fn read_repositories(&self, sharing: Option<PollSharing>, pushes: &Notifications) {
        if let Some(gitlab) = self.gitlab.clone() {
            let reading = gitlab.read_repositories(sharing, pushes.clone(), self.stop.clone());
            self.tasks.spawn(reading);
        }
    }

    /// Where that is a GitLab.
    pub(super) fn gitlab(&self) -> Option<&GitLab> {
        self.gitlab.as_ref()
    }

    /// Where that is a file.
    pub(super) fn standalone(&self) -> Option<&Arc<Standalone>> {
        self.standalone.as_ref()
    }

    /// What reads repositories, if that is done.
    pub(super) fn gitaly(&self) -> Option<&Gitaly> {
        self.gitlab.as_ref().map(GitLab::gitaly)
    }

    /// GitLab's API for agents' modules, if there is a GitLab.
    pub(super) fn module_api(&self) -> Option<ModuleApi> {
        self.gitlab.as_ref().map(GitLab::module_api)
    }

    /// Waits until all that was to stop has.
    pub(super) async fn stopped(self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn reading(config: &Config, gitlab: &config::GitLab) -> RepositorySettings {
    let gitaly = gitaly::Settings {
        limits: config.gitaly.clone(),
        ca_files: gitlab.ca_certificate_file.iter().cloned().collect(),
        user_agent: version::server_header(),
    };
    let configuration = &config.agent.configuration;
    RepositorySettings {
        gitaly: Gitaly::new(gitaly),
        period: configuration.poll_period.0,
        max_file_size: configuration.max_configuration_file_size,
    }
}

fn cache_policies(config: &Config, gitlab: &config::GitLab) -> CachePolicies {
    let proxy = config.agent.kubernetes_api.as_ref();
    CachePolicies {
        agents: CachePolicy {
            ttl: config.agent.info_cache_ttl.0,
            error_ttl: config.agent.info_cache_error_ttl.0,
            grace: gitlab.outage_grace.agents.0,
            ..CachePolicy::default()
        },
        callers: CachePolicy {
            ttl: proxy.map_or(Duration::ZERO, |it| it.allowed_agent_cache_ttl.0),
            error_ttl: proxy.map_or(Duration::ZERO, |it| it.allowed_agent_cache_error_ttl.0),
            grace: gitlab.outage_grace.callers.0,
            ..CachePolicy::default()
        },
    }
}

/// GitLab's URL for people, if there is a GitLab.
pub(super) fn external_url(config: &Config) -> Option<String> {
    match config.control_plane() {
        ControlPlaneConfig::GitLab(gitlab) => gitlab.external_url.clone().map(String::from),
        ControlPlaneConfig::Standalone(_) => None,
    }
}

/// Whose pages may use what a browser adds by itself: those that are listed, or else GitLab's. Where
/// there is no GitLab, nobody has cookies, and the host that is called may have pages of its own.
pub(super) fn origins(config: &Config, listed: &[Origin]) -> Origins {
    match config.control_plane() {
        ControlPlaneConfig::GitLab(gitlab) if listed.is_empty() => {
            let url = gitlab.external_url.as_ref();
            Origins::These(url.and_then(|url| origin_of(&url.0)).into_iter().collect())
        }
        ControlPlaneConfig::Standalone(_) if listed.is_empty() => Origins::OwnHost,
        ControlPlaneConfig::GitLab(_) | ControlPlaneConfig::Standalone(_) => {
            Origins::These(listed.iter().map(|it| it.0.clone()).collect())
        }
    }
}

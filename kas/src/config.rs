//! The configuration of a replica: one tree of sections, read once, checked, with defaults filled in.
//!
//! A key is one field of one section, where it is used. Keys, defaults and rules are those of GitLab's kas;
//! `standalone`, `admin`, `agent.listen.proxy_protocol` and the default of `agent.listen.websocket` (on) are ours. Secrets
//! stay in the files that the tree names, so that it can be printed.

mod agent;
mod interfaces;
mod observability;
mod private_url;
mod redis;
mod secret;
mod servers;
mod unused;

pub use ::audit::config::AuditSection;
pub use admin::config::{AdminListen, AdminSection};
pub use agent::{Agent, Gitops};
pub use agent_gateway::config::{AgentListen, Events, Webhook};
pub use control_plane::config::{
    AgentConfiguration, GitLab, Gitaly, OutageGrace, RateLimit, Standalone,
};
pub use interfaces::interface_addresses;
pub use observability::{LogFormat, Observability, Tracing};
pub use private_url::{OwnAddress, OwnAddressError, OwnAddressVariables};
pub use redis::{Redis, RedisCompatibility, RedisNetwork, RedisServers, RedisTls};
pub use runtime::{
    listen::{ListenAddress, Listens, Network, TlsFiles},
    telemetry::LogLevel,
    yaml::Note,
};
pub use secret::Secret;
pub use servers::{Api, ApiListen, PrivateApi, PrivateApiListen};
pub use user_gateway::config::{Graph, KubernetesApi, KubernetesApiListen, Origin, ResponseHeader};

use std::path::{Path, PathBuf};

use runtime::{
    section,
    yaml::{At, NoEffect, YamlError, read_section},
};
use serde_json::Value;

section! {
    /// The configuration of a replica.
    pub struct Config {
        /// The embedded control plane.
        pub standalone: Option<Standalone> = None,
        /// A GitLab as the control plane.
        pub gitlab: Option<GitLab> = None,
        /// What concerns agents.
        pub agent: Agent = Agent::default(),
        /// Logs, metrics, probes, traces.
        pub observability: Observability = Observability::default(),
        /// Limits of calls to Gitaly.
        pub gitaly: Gitaly = Gitaly::default(),
        /// The shared routing table; without it a replica stands alone.
        pub redis: Option<Redis> = None,
        /// The API that GitLab calls.
        pub api: Option<Api> = None,
        /// The operator's API.
        pub admin: AdminSection = AdminSection::default(),
        /// Who did what in which cluster. Not among the keys of GitLab's kas.
        pub audit: AuditSection = AuditSection::default(),
        /// The API that other replicas call.
        pub private_api: Option<PrivateApi> = None,
        /// Only whether they are wanted: there are none here.
        #[serde(skip_serializing)]
        pub workspaces: unused::Workspaces = unused::Workspaces::default(),
        /// Only whether it is wanted: there is none here.
        #[serde(skip_serializing)]
        pub autoflow: NoEffect<Option<unused::Anything>, unused::NotBuilt> = NoEffect::new(None),
        /// Only whether it is wanted: there is none here.
        #[serde(skip_serializing)]
        pub events_platform: NoEffect<Option<unused::Anything>, unused::NotBuilt> = NoEffect::new(None),
        /// A command that prints more of the configuration.
        #[serde(skip_serializing)]
        pub config: NoEffect<Option<unused::Anything>, unused::NoCommand> = NoEffect::new(None),
    }
    check = check_sections;
}

/// Which control plane a replica uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ControlPlaneConfig<'a> {
    /// The embedded one, with its file.
    Standalone(&'a Path),
    /// A GitLab.
    GitLab(&'a GitLab),
}

/// Keys that count for GitLab only.
const FOR_GITLAB: [(&str, &str); 5] = [
    (
        "observability.usage_reporting_period",
        "usage is reported to a GitLab only",
    ),
    ("agent.info_cache_ttl", NOTHING_REMEMBERED),
    ("agent.info_cache_error_ttl", NOTHING_REMEMBERED),
    (
        "agent.kubernetes_api.allowed_agent_cache_ttl",
        NOTHING_REMEMBERED,
    ),
    (
        "agent.kubernetes_api.allowed_agent_cache_error_ttl",
        NOTHING_REMEMBERED,
    ),
];
const NOTHING_REMEMBERED: &str =
    "a change of the standalone file counts at once, so nothing is remembered";

impl Config {
    /// Which control plane it names.
    #[must_use]
    pub fn control_plane(&self) -> ControlPlaneConfig<'_> {
        match (&self.gitlab, &self.standalone) {
            (Some(gitlab), _) => ControlPlaneConfig::GitLab(gitlab),
            (None, Some(standalone)) => ControlPlaneConfig::Standalone(&standalone.file),
            (None, None) => unreachable!("a configuration that was checked names a control plane"),
        }
    }

    /// The effective configuration in the form of a file, every default written out. Secrets are in files of
    /// their own, and only those files are named.
    #[must_use]
    pub fn show(&self) -> Value {
        let mut all = serde_json::to_value(self).expect("its keys are texts");
        drop_absent(&mut all);
        all
    }

    fn check_sections(&self, at: &At<'_>) -> Result<(), YamlError> {
        self.check_control_plane(at)?;
        self.check_mixed_set(at)
    }

    /// GitLab's kas knows its own form of tokens only.
    fn check_mixed_set(&self, at: &At<'_>) -> Result<(), YamlError> {
        let compatibility = self.redis.as_ref().map(|it| it.compatibility);
        let tokens = self
            .private_api
            .as_ref()
            .is_some_and(|it| it.listen.gitlab_tokens);
        if compatibility == Some(RedisCompatibility::GitLab16_5) && !tokens {
            return Err(at.key("redis.compatibility").mistake(
                "redis.compatibility is gitlab-16.5, but replicas of GitLab's kas can be called with its own form of \
                 tokens only: set private_api.listen.gitlab_tokens: true as well",
            ));
        }
        Ok(())
    }

    fn check_control_plane(&self, at: &At<'_>) -> Result<(), YamlError> {
        match (&self.standalone, &self.gitlab) {
            (Some(_), Some(_)) => Err(at.key("gitlab").mistake(
                "`gitlab` and `standalone` are both given: only one control plane can be used, remove one",
            )),
            (None, None) => Err(at.mistake(
                "no control plane is configured: add `gitlab: {address: …, authentication_secret_file: …}`, \
                 or `standalone: {file: agents.yaml}`",
            )),
            (None, Some(_)) => Ok(()),
            (Some(_), None) => {
                for (path, why) in FOR_GITLAB {
                    let key = at.key(path);
                    if key.is_given() {
                        key.note(why);
                    }
                }
                Ok(())
            }
        }
    }
}

fn drop_absent(value: &mut Value) {
    if let Value::Object(section) = value {
        section.retain(|_, below| !below.is_null());
        section.values_mut().for_each(drop_absent);
    }
}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration file {}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It says something wrong.
    #[error(transparent)]
    Yaml(#[from] YamlError),
}

/// A configuration, and what its file says without effect.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// What has effect.
    pub config: Config,
    /// What has none, and why.
    pub notes: Vec<Note>,
}

/// Reads a configuration file.
///
/// # Errors
/// When it cannot be read, or says something wrong.
pub fn load(file: &Path) -> Result<Loaded, ConfigError> {
    let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable {
        file: file.to_owned(),
        source,
    })?;
    Ok(parse(file, &text)?)
}

/// Reads the text of a configuration file; `file` is for messages only.
///
/// # Errors
/// The first mistake, and where it is.
pub fn parse(file: &Path, text: &str) -> Result<Loaded, YamlError> {
    let (config, notes) = read_section(file, text)?;
    Ok(Loaded { config, notes })
}

#[cfg(test)]
mod tests;

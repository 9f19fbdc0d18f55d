//! The sections that switch an agent's modules on and set them up.

use std::time::Duration;

use proto::agent::agentcfg as wire;
use serde::{Deserialize, Serialize};

use runtime::{
    telemetry::LogLevel,
    yaml::{NonEmpty, PositiveSeconds},
};

/// Logs and profiles of the agent.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Observability {
    logging: Option<Logging>,
    google_profiler: Option<GoogleProfiler>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Logging {
    level: Option<LogLevel>,
    grpc_level: Option<LogLevel>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct GoogleProfiler {
    enabled: Option<bool>,
    project_id: Option<String>,
    credentials_file: Option<String>,
    debug_logging: Option<bool>,
}

/// Vulnerability scans of running images.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerScanning {
    cadence: NonEmpty,
    vulnerability_report: Option<VulnerabilityReport>,
    resource_requirements: Option<ResourceRequirements>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct VulnerabilityReport {
    namespaces: Option<Vec<String>>,
    filters: Option<Vec<Filter>>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Filter {
    namespaces: Option<Vec<String>>,
    resources: Option<Vec<String>>,
    containers: Option<Vec<String>>,
    kinds: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct ResourceRequirements {
    limits: Option<Resource>,
    requests: Option<Resource>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Resource {
    cpu: Option<String>,
    memory: Option<String>,
}

/// Workspaces.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RemoteDevelopment {
    enabled: Option<bool>,
    dns_zone: Option<String>,
    partial_sync_interval: Option<PositiveSeconds>,
    full_sync_interval: Option<PositiveSeconds>,
    gitlab_workspaces_proxy: Option<WorkspacesProxy>,
    network_policy: Option<NetworkPolicy>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct WorkspacesProxy {
    namespace: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct NetworkPolicy {
    enabled: Option<bool>,
}

/// Notifications for Flux.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Flux {
    webhook_receiver_url: Option<String>,
}

impl Observability {
    pub(super) fn to_message(&self) -> wire::ObservabilityCf {
        wire::ObservabilityCf {
            logging: self.logging.as_ref().map(|logging| wire::LoggingCf {
                level: logging.level.map_or(0, wire_level),
                grpc_level: logging.grpc_level.map(wire_level),
            }),
            google_profiler: self
                .google_profiler
                .as_ref()
                .map(|profiler| wire::GoogleProfilerCf {
                    enabled: profiler.enabled.unwrap_or_default(),
                    project_id: profiler.project_id.clone().unwrap_or_default(),
                    credentials_file: profiler.credentials_file.clone().unwrap_or_default(),
                    debug_logging: profiler.debug_logging.unwrap_or_default(),
                }),
        }
    }
}

impl ContainerScanning {
    pub(super) fn to_message(&self) -> wire::ContainerScanningCf {
        wire::ContainerScanningCf {
            cadence: self.cadence.0.clone(),
            vulnerability_report: self
                .vulnerability_report
                .as_ref()
                .map(VulnerabilityReport::to_message),
            resource_requirements: self.resource_requirements.as_ref().map(|needs| {
                wire::ResourceRequirements {
                    limits: needs.limits.as_ref().map(Resource::to_message),
                    requests: needs.requests.as_ref().map(Resource::to_message),
                }
            }),
        }
    }
}

impl VulnerabilityReport {
    fn to_message(&self) -> wire::VulnerabilityReport {
        wire::VulnerabilityReport {
            namespaces: self.namespaces.clone().unwrap_or_default(),
            filters: self
                .filters
                .iter()
                .flatten()
                .map(Filter::to_message)
                .collect(),
        }
    }
}

impl Filter {
    fn to_message(&self) -> wire::ContainerScanningFilter {
        wire::ContainerScanningFilter {
            namespaces: self.namespaces.clone().unwrap_or_default(),
            resources: self.resources.clone().unwrap_or_default(),
            containers: self.containers.clone().unwrap_or_default(),
            kinds: self.kinds.clone().unwrap_or_default(),
        }
    }
}

impl Resource {
    fn to_message(&self) -> wire::Resource {
        wire::Resource {
            cpu: self.cpu.clone().unwrap_or_default(),
            memory: self.memory.clone().unwrap_or_default(),
        }
    }
}

impl RemoteDevelopment {
    pub(super) fn to_message(&self) -> wire::RemoteDevelopmentCf {
        wire::RemoteDevelopmentCf {
            enabled: self.enabled.unwrap_or_default(),
            dns_zone: self.dns_zone.clone().unwrap_or_default(),
            partial_sync_interval: self.partial_sync_interval.map(|s| wire_duration(s.0)),
            full_sync_interval: self.full_sync_interval.map(|s| wire_duration(s.0)),
            gitlab_workspaces_proxy: self.gitlab_workspaces_proxy.as_ref().map(|proxy| {
                wire::GitLabWorkspacesProxy {
                    namespace: proxy.namespace.clone().unwrap_or_default(),
                }
            }),
            network_policy: self.network_policy.as_ref().map(|policy| {
                wire::WorkspaceNetworkPolicy {
                    enabled: policy.enabled,
                }
            }),
        }
    }
}

impl Flux {
    pub(super) fn to_message(&self) -> wire::FluxCf {
        wire::FluxCf {
            webhook_receiver_url: self.webhook_receiver_url.clone().unwrap_or_default(),
        }
    }
}

pub(super) fn wire_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

fn wire_level(level: LogLevel) -> i32 {
    let level = match level {
        LogLevel::Info => wire::LogLevelEnum::Info,
        LogLevel::Debug => wire::LogLevelEnum::Debug,
        LogLevel::Warn => wire::LogLevelEnum::Warn,
        LogLevel::Error => wire::LogLevelEnum::Error,
    };
    level as i32
}

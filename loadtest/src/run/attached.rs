//! A kas that runs already: only agents and traffic are ours.

use std::path::Path;

use anyhow::Context;

use super::{
    agents::{Agents, FleetOptions},
    environment::{Endpoints, Environment},
};
use crate::{
    faults::{FaultSubjects, ProcessTable, pid_of},
    scenario::{Attach, Scenario},
};

/// Starts the agents.
pub(super) fn start(
    scenario: &Scenario,
    attach: &Attach,
    logs: &Path,
) -> anyhow::Result<Environment> {
    let processes = ProcessTable::default();
    for (number, pid) in (1..).zip(&attach.pids) {
        processes.insert(&format!("replica {number}"), pid_of(*pid)?);
    }
    if let Some(pid) = attach.redis_pid {
        processes.insert("redis", pid_of(pid)?);
    }
    let bearer = std::fs::read_to_string(&attach.bearer_file).with_context(|| {
        format!(
            "cannot read the bearer file {}",
            attach.bearer_file.display()
        )
    })?;
    let names = (1..).map(|number| format!("replica {number}"));
    let endpoints = Endpoints {
        url: attach.url.trim_end_matches('/').to_owned(),
        bearer: bearer.trim().to_owned(),
        certificate: attach.ca_cert_file.clone(),
        redis: attach.redis.clone(),
        metrics: names.zip(attach.metrics.iter().cloned()).collect(),
    };
    let options = FleetOptions {
        addresses: vec![attach.kas_address.clone()],
        tokens: attach.token_file.clone(),
        certificate: attach.ca_cert_file.clone(),
    };
    let replicas = processes.all().into_iter();
    let replicas = replicas.filter(|(name, _)| name.starts_with("replica"));
    let empty = replicas.map(|(name, pid)| {
        let resident = crate::process::sample(pid).map_or(0, |sample| sample.resident);
        (name, resident)
    });
    let empty: Vec<_> = empty.collect();
    processes.insert("loadtest", rustix::process::getpid());
    let agents = Agents::start(scenario, &options, logs)?;
    processes.insert("fleet", agents.pid());
    Ok(Environment {
        endpoints,
        subjects: FaultSubjects {
            processes: processes.into(),
            ..FaultSubjects::default()
        },
        agents,
        empty_kib: empty,
        _gitlab: None,
    })
}

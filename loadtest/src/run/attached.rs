//! A kas that runs already: only agents and traffic are ours.

use std::path::Path;

use anyhow::{Context, bail};
use rustix::process::Pid;

use super::{
    agents::{Agents, Way},
    census::Census,
    stage::{Place, Stage},
};
use crate::scenario::{Attach, Scenario};

/// Starts the agents.
pub(super) fn start(scenario: &Scenario, attach: &Attach, logs: &Path) -> anyhow::Result<Stage> {
    let census = Census::default();
    for (number, pid) in (1..).zip(&attach.pids) {
        census.came(&format!("replica {number}"), pid_of(*pid)?);
    }
    let bearer = std::fs::read_to_string(&attach.bearer_file).with_context(|| {
        format!(
            "cannot read the bearer file {}",
            attach.bearer_file.display()
        )
    })?;
    let names = (1..).map(|number| format!("replica {number}"));
    let place = Place {
        url: attach.url.trim_end_matches('/').to_owned(),
        bearer: bearer.trim().to_owned(),
        certificate: attach.ca_cert_file.clone(),
        redis: attach.redis.clone(),
        metrics: names.zip(attach.metrics.iter().cloned()).collect(),
    };
    let way = Way {
        addresses: vec![attach.kas_address.clone()],
        tokens: attach.token_file.clone(),
        certificate: attach.ca_cert_file.clone(),
    };
    let empty = census.all().into_iter().map(|(name, pid)| {
        let resident = crate::process::sample(pid).map_or(0, |sample| sample.resident);
        (name, resident)
    });
    let empty: Vec<_> = empty.collect();
    census.came("loadtest", rustix::process::getpid());
    let agents = Agents::start(scenario, &way, logs)?;
    census.came("fleet", agents.pid());
    let mut stage = Stage::of_others(place, census, agents, logs);
    stage.empty_kib = empty;
    Ok(stage)
}

fn pid_of(pid: u32) -> anyhow::Result<Pid> {
    let known = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(known) = known.filter(|_| Path::new(&format!("/proc/{pid}")).exists()) else {
        bail!("there is no process {pid}");
    };
    Ok(known)
}

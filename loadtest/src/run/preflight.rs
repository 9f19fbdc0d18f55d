//! Whether this machine has room for a scenario: said before anything is started.

use std::path::Path;

use anyhow::{bail, ensure};
use rustix::process::{Resource, getrlimit};

use crate::{limits, scenario::Scenario};

/// Resident KiB that an agent may need here and in its kas together, and a replica for itself.
const KIB_PER_AGENT: u64 = 40 + 60;
const KIB_PER_REPLICA: u64 = 64 << 10;
/// Files of one process beside its connections.
const SPARE_KIB: u64 = 128;

/// Checks open files and memory; says what will be used.
///
/// # Errors
/// When something is too little, with what to set.
pub(super) fn check(scenario: &Scenario, program: &Path) -> anyhow::Result<String> {
    let topology = &scenario.topology;
    if topology.attach.is_none() {
        ensure!(
            program.is_file(),
            "there is no kas at {}; name one by --kas, or build it",
            program.display()
        );
    }
    limits::make_room(scenario.clients() * if topology.replicas > 1 { 3 } else { 1 })?;
    let agents = scenario.fleet.agents as u64;
    let most = most_files(scenario);
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    if most > hard {
        let instead = if topology.balancer {
            ", or `balancer: false`, which needs half of that"
        } else {
            ""
        };
        bail!(
            "one process will need {most} open files for {agents} agents, but the hard limit is \
             {hard}: raise it (`ulimit -Hn {most}` as root), ask for fewer agents (--agents){instead}"
        );
    }
    if topology.balancer {
        // It has one address, and a single replica may come to hold all agents.
        limits::check_ports(scenario.fleet.agents)?;
    }
    let needed = agents * KIB_PER_AGENT + topology.replicas as u64 * KIB_PER_REPLICA;
    if let Some(free) = available() {
        enough_memory(scenario, needed, free)?;
    }
    Ok(format!(
        "{}: {agents} agents on {} replicas of {} for {:.0} s; up to {most} of {hard} open files a process, about {} MiB",
        scenario.name,
        topology.replicas,
        topology.target.name(),
        scenario.seconds(),
        needed >> 10
    ))
}

fn enough_memory(scenario: &Scenario, needed: u64, free: u64) -> anyhow::Result<()> {
    ensure!(
        needed < free,
        "{} agents on {} replicas need about {} MiB of memory, but {} MiB are free: ask for fewer agents (--agents), or free some",
        scenario.fleet.agents,
        scenario.topology.replicas,
        needed >> 10,
        free >> 10
    );
    Ok(())
}

/// The open files of whichever process has most.
fn most_files(scenario: &Scenario) -> u64 {
    let topology = &scenario.topology;
    let agents = scenario.fleet.agents as u64;
    let clients = scenario.clients() as u64;
    // The load balancer of this process has two for each agent, and for each client.
    let own = if topology.balancer { 2 * agents } else { 0 }
        + if topology.replicas > 1 {
            3 * clients
        } else {
            clients
        };
    // A single replica may come to hold all agents when others are away.
    let replica = agents + clients;
    own.max(replica) + SPARE_KIB
}

/// KiB of memory that can be had.
fn available() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(agents: usize, balancer: bool) -> Scenario {
        let text = format!(
            "name: x\ntopology: {{balancer: {balancer}}}\nfleet: {{agents: {agents}}}\nphases: [{{name: a, seconds: 1}}]\n"
        );
        runtime::yaml::read(Path::new("s.yaml"), &text).unwrap()
    }

    fn own() -> std::path::PathBuf {
        std::env::current_exe().unwrap()
    }

    #[test]
    fn too_few_files_are_said_with_what_to_set() {
        let error = check(&scenario(1 << 40, true), &own())
            .unwrap_err()
            .to_string();

        assert!(error.contains("ulimit -Hn"), "{error}");
        assert!(error.contains("balancer: false"), "{error}");
    }

    #[test]
    fn too_little_memory_is_said_with_what_to_do() {
        let scenario = scenario(1000, false);

        let error = enough_memory(&scenario, 200 << 10, 100 << 10).unwrap_err();

        assert!(enough_memory(&scenario, 100 << 10, 200 << 10).is_ok());
        let error = error.to_string();
        assert!(
            error.contains("200 MiB") && error.contains("--agents"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_program_is_said() {
        let error = check(&scenario(1, false), Path::new("/no/kas")).unwrap_err();

        assert!(error.to_string().contains("--kas"), "{error}");
    }

    #[test]
    fn a_load_balancer_needs_two_files_for_each_agent() {
        assert_eq!(most_files(&scenario(1000, true)), 2000 + SPARE_KIB);
        assert_eq!(most_files(&scenario(1000, false)), 1000 + SPARE_KIB);
    }
}

//! What users do with kubectl, on a real Kubernetes, through every way that agents and users connect.
//!
//! Each test is one scenario in one topology: `wss_direct::copies_files_over_spdy`. The cluster is started for
//! the first test that runs and taken away after the last; a topology's kas and agentk live as long.

mod copy;
mod exec;
mod forward;
mod identity;
mod long;
mod objects;
mod pods;
mod scenario;
mod site;
mod through_kas;
mod topology;
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use crate::{scenario::Scenario, topology::Topology, world::World};

/// kubectl and the API server are what is slow here; more at once only adds waiting.
const AT_ONCE: usize = 4;
/// Besides these, tests that wait for minutes and do nothing.
const WAITING: usize = 3;

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(AT_ONCE + WAITING);
    if let Some(program) = tests::programs::other_agentk() {
        tests::parts::say(&format!(
            "AGENTK_BIN: the agent under test is {}",
            program.display()
        ));
    }
    let world: &World = Box::leak(Box::new(World::new(AT_ONCE)));

    let conclusion = libtest_mimic::run(&args, trials(world));

    world.end();
    conclusion.exit_code()
}

/// Long scenarios first, so that the others run meanwhile.
fn trials(world: &'static World) -> Vec<Trial> {
    let mut pairs: Vec<_> = topology::all()
        .into_iter()
        .flat_map(|topology| {
            scenario::all()
                .into_iter()
                .map(move |scenario| (topology, scenario))
        })
        .filter(|(topology, scenario)| scenario.belongs_to(topology))
        .collect();
    pairs.sort_by_key(|(_, scenario)| !scenario.is_long());
    pairs
        .into_iter()
        .map(|(topology, scenario)| trial(world, topology, scenario))
        .collect()
}

fn trial(world: &'static World, topology: Topology, scenario: Scenario) -> Trial {
    let name = format!("{}::{}", topology.name, scenario.name);
    let skip = tests::parts::skipped(&name, &[topology.needs(), scenario.needs.to_vec()].concat());
    Trial::test(name, move || {
        world
            .run(topology, scenario)
            .map_err(|error| format!("{error:?}").into())
    })
    .with_ignored_flag(skip)
}

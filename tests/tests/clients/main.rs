//! Other people's clients see the same through kas as they do directly, while the agent's connections are reset.
//!
//! Each client lists, watches, follows as its library has it for controllers, reads a log, runs a command and forwards a
//! port, by both ways at once. What it prints must be the same to the byte. `docs/clients.md` is the outcome: with
//! `UPDATE_CLIENTS=1` this writes it, else each row must be there already.
//!
//! A client made with a library is a small program in `tests/clients` that is called `… ACTION KUBECONFIG NAMESPACE`:
//!
//! | action | it prints |
//! |---|---|
//! | `list` | names of all ConfigMaps, read by pages of 100, sorted, one a line |
//! | `watch` | the label `round` of each ConfigMap with `watched=yes`, then of each event of a watch from there, without end |
//! | `informer` | the same by what the library has for controllers |
//! | `logs` | the log of the pod `box` |
//! | `exec` | `stdout: …`, `stderr: …`, `code: …` of a command in `box` that is told `hello` |
//! | `forward` | length and SHA-256 of what `/large` is at port 8080 of `box` |

mod client;
mod kube_rs;
mod run;
mod table;
mod world;

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, future::join_all, stream};
use libtest_mimic::{Arguments, Trial};
use tests::{
    kube::Cluster,
    parts::{self, Part},
    process::Process,
    wait::until,
};
use tokio::time::interval;

use crate::{
    client::{Action, Client},
    table::Outcome,
    world::{Way, World},
};

const NEEDS: &[Part] = &[Part::Cluster, Part::Haproxy, Part::Redis];
const NAME: &str = "clients_see_the_same_through_kas_as_directly";
const BETWEEN_CUTS: Duration = Duration::from_secs(2);
/// Changes of the object that is watched, each half a second.
const ROUNDS: usize = 20;
const BETWEEN_ROUNDS: Duration = Duration::from_millis(500);
const SOON: Duration = Duration::from_secs(60);
/// Lists until one comes whole, at most.
const LISTS: usize = 5;
/// Programs at once; more would only wait for processors.
const AT_ONCE: usize = 6;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    if let Some((kube_rs::ROLE, args)) = args.split_first().map(|(it, rest)| (it.as_str(), rest)) {
        return kube_rs::main(args);
    }
    let skip = parts::skipped(NAME, NEEDS);
    let trial = Trial::test(NAME, || {
        let runtime = tokio::runtime::Runtime::new()?;
        let done = runtime.block_on(all_see_the_same());
        done.map_err(|error| format!("{error:?}").into())
    });
    let trials = vec![trial.with_ignored_flag(skip)];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

async fn all_see_the_same() -> Result<()> {
    let clients = client::all()?;
    let folder = tempfile::tempdir()?;
    let cluster = Cluster::up().await?;
    let seen = async {
        let world = World::start(&cluster, folder.path()).await?;
        let mut outcomes = under_cuts(&world, &clients).await?;
        for action in [Action::Logs, Action::Exec, Action::Forward, Action::Release] {
            // A conversation ends with the connection that carries it: each begins right behind a cut.
            world.chaos.cut();
            outcomes.extend(by_both_ways(&world, &clients, action).await);
        }
        anyhow::Ok((outcomes, world.tails()))
    };
    let seen = seen.await;
    cluster.down().await?;
    let (outcomes, tails) = seen?;
    let compared = table::compare(&clients, &outcomes);
    let differing: Vec<_> = outcomes.iter().filter_map(Outcome::differs).collect();
    ensure!(differing.is_empty(), "{}\n{tails}", differing.join("\n"));
    compared
}

/// Watches and lists, while all connections of the agent are reset every two seconds.
async fn under_cuts(world: &World, clients: &[Client]) -> Result<Vec<Outcome>> {
    let seen = async {
        let watched = watched(world, clients);
        let listed = by_both_ways(world, clients, Action::List);
        let (watched, listed) = tokio::join!(watched, listed);
        anyhow::Ok([watched?, listed].concat())
    };
    tokio::select! {
        seen = seen => seen,
        never = world.chaos.cut_every(BETWEEN_CUTS) => match never {},
    }
}

/// One client that watches, by both ways.
struct Watcher<'a> {
    client: &'a Client,
    action: Action,
    by: [Process; 2],
}

async fn watched(world: &World, clients: &[Client]) -> Result<Vec<Outcome>> {
    let mut watchers = Vec::new();
    for client in clients {
        for action in client.actions().iter().copied().filter(|it| it.goes_on()) {
            let begin = |way: &Way| run::begun(client, action, way, &world.folder);
            let by = [begin(&world.ways[0])?, begin(&world.ways[1])?];
            watchers.push(Watcher { client, action, by });
        }
    }
    until_all_see(&watchers, 0).await?;
    let before = world.resumes().await?;
    let mut clock = interval(BETWEEN_ROUNDS);
    for round in 1..=ROUNDS {
        clock.tick().await;
        world.change(round).await?;
    }
    // What does not come is in the outcomes.
    until_all_see(&watchers, ROUNDS).await.ok();
    let resumed = world.resumes().await? - before;
    ensure!(
        resumed >= watchers.len() as f64,
        "cuts hit nothing: {resumed} resumes"
    );
    let outcome = |watcher: Watcher<'_>| {
        let [direct, through] = watcher.by.map(seen_by);
        Outcome::new(watcher.client, watcher.action, direct, through)
    };
    Ok(watchers.into_iter().map(outcome).collect())
}

async fn until_all_see(watchers: &[Watcher<'_>], round: usize) -> Result<()> {
    let round = round.to_string();
    let missing = |by: &Process| !rounds(by).contains(&round);
    let all = async || {
        let missing = watchers.iter().flat_map(|it| &it.by).find(|it| missing(it));
        missing.is_none().then_some(())
    };
    until(&format!("round {round}"), SOON, all)
        .await
        .with_context(|| {
            let missing = watchers.iter().flat_map(|it| &it.by).find(|it| missing(it));
            missing.map(Process::tail).unwrap_or_default()
        })
}

/// Libraries may say other things besides.
fn rounds(process: &Process) -> Vec<String> {
    let output = process.output();
    let whole = output.rfind('\n').map_or("", |end| &output[..end]);
    let rounds = whole.lines().filter(|line| line.parse::<u32>().is_ok());
    rounds.map(str::to_owned).collect()
}

fn seen_by(mut process: Process) -> Result<String> {
    ensure!(process.is_running(), "it has ended: {}", process.tail());
    Ok(rounds(&process).join(" "))
}

/// An API server announces no length of a list, and kas passes it on as it comes: where a cut ends one half-way the
/// client hears of it, and its user asks again.
async fn whole(client: &Client, action: Action, way: &Way, folder: &Path) -> Result<String> {
    let mut done = run::done(client, action, way, folder).await;
    for _ in 1..LISTS {
        if done.is_ok() || action != Action::List {
            break;
        }
        done = run::done(client, action, way, folder).await;
    }
    done
}

/// Of all clients that can do it.
async fn by_both_ways(world: &World, clients: &[Client], action: Action) -> Vec<Outcome> {
    let able = clients.iter().filter(|it| it.actions().contains(&action));
    let both = able.map(async |client| {
        let done = |way| whole(client, action, way, &world.folder);
        let mut done = join_all(world.ways.iter().map(done)).await.into_iter();
        let mut next = || done.next().context("two ways").flatten();
        let (direct, through) = (next(), next());
        Outcome::new(client, action, direct, through)
    });
    stream::iter(both).buffered(AT_ONCE / 2).collect().await
}

//! `loadtest faults`: links that misbehave and signals to processes, by a timetable.

mod inject;
mod process_table;
mod subjects;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use futures_util::{StreamExt, stream::FuturesUnordered};
use runtime::{
    signal::Termination,
    yaml::{self, Spanned, YamlError},
};
use rustix::process::Pid;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::{
    chaos::Chaos,
    output,
    scenario::{Fault, Subject},
};

pub(crate) use inject::inject;
pub(crate) use process_table::ProcessTable;
pub(crate) use subjects::{FaultSubjects, Links};

/// A timetable of faults.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// A YAML list of faults, as in a scenario: `- {at: 5, do: freeze, of: redis, for: 20}`.
    timetable: PathBuf,
    /// A link to be put between, as `NAME=LISTEN=TARGET[,TARGET]`: NAME is agents, users, redis
    /// or peers; it listens on LISTEN and passes each connection to one of the targets.
    #[arg(long, value_parser = link)]
    link: Vec<LinkOption>,
    /// A process of this machine, as `redis=PID`, `replica-1=PID`, …
    #[arg(long, value_parser = process)]
    process: Vec<(String, u32)>,
}

/// A link: whose, where it listens and where it leads.
#[derive(Debug, Clone)]
struct LinkOption {
    name: String,
    listen: SocketAddr,
    targets: Vec<SocketAddr>,
}

/// Makes all faults happen; links go on until a signal.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&options.timetable)
        .with_context(|| format!("cannot read {}", options.timetable.display()))?;
    let mut termination = Termination::listen()?;
    let subjects = options.subjects().await?;
    let faults = read(&options.timetable, &text, &subjects)?;
    output::line("ready");
    tokio::select! {
        result = all(&faults, &subjects) => result?,
        _ = termination.next() => return Ok(()),
    }
    if !options.link.is_empty() {
        output::progress("all faults are over; the links go on until Ctrl-C");
        termination.next().await;
    }
    Ok(())
}

impl Options {
    async fn subjects(&self) -> anyhow::Result<FaultSubjects> {
        let mut subjects = FaultSubjects::default();
        for LinkOption {
            name,
            listen,
            targets,
        } in &self.link
        {
            let link = Chaos::between(*listen, targets).await;
            let link = link.with_context(|| format!("cannot listen on {listen}"))?;
            match name.as_str() {
                "agents" => subjects.links.agents = Some(link),
                "users" => subjects.links.users = Some(link),
                "redis" => subjects.links.redis.push(link),
                _ => subjects.links.peers.push(link),
            }
        }
        for (name, pid) in &self.process {
            subjects.processes.insert(name, pid_of(*pid)?);
        }
        Ok(subjects)
    }
}

/// Reads the timetable; each fault must have what it happens to.
fn read(
    file: &Path,
    text: &str,
    subjects: &FaultSubjects,
) -> Result<Vec<Spanned<Fault>>, YamlError> {
    let faults: Vec<Spanned<Fault>> = yaml::read(file, text)?;
    let known: Vec<_> = subjects
        .processes
        .all()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    for fault in &faults {
        let has_link = |of: Subject| !subjects.links.of(of).is_empty();
        let has_process = |of: Subject| known.contains(&of.name());
        let checked = fault.value.check_of_others(has_link, has_process);
        checked.map_err(|message| YamlError::at(file, fault, message))?;
    }
    Ok(faults)
}

async fn all(faults: &[Spanned<Fault>], subjects: &FaultSubjects) -> anyhow::Result<()> {
    let began = Instant::now();
    let one = async |fault: &Fault| {
        let due = Duration::try_from_secs_f64(fault.at).unwrap_or(Duration::MAX);
        sleep_until(began + due).await;
        let from = began.elapsed().as_secs_f64();
        inject(fault, subjects).await?;
        let to = began.elapsed().as_secs_f64();
        output::line(&json!({ "fault": fault.name(), "from": from, "to": to }).to_string());
        anyhow::Ok(())
    };
    let mut injecting: FuturesUnordered<_> = faults.iter().map(|it| one(&it.value)).collect();
    while let Some(injected) = injecting.next().await {
        injected?;
    }
    Ok(())
}

/// The process of this number, if there is one.
///
/// # Errors
/// When there is none.
pub(crate) fn pid_of(pid: u32) -> anyhow::Result<Pid> {
    let known = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(known) = known.filter(|_| Path::new(&format!("/proc/{pid}")).exists()) else {
        bail!("there is no process {pid}");
    };
    Ok(known)
}

fn link(text: &str) -> Result<LinkOption, String> {
    let mut parts = text.split('=');
    let (Some(name), Some(listen), Some(targets), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("a link is NAME=LISTEN=TARGET[,TARGET]".to_owned());
    };
    let known = ["agents", "users", "redis", "peers"];
    if !known.contains(&name) {
        return Err(yaml::unknown("link", name, &known));
    }
    let address = |text: &str| {
        let address = text.parse::<SocketAddr>();
        address.map_err(|_| format!("{text:?} is not IP:PORT"))
    };
    Ok(LinkOption {
        name: name.to_owned(),
        listen: address(listen)?,
        targets: targets.split(',').map(address).collect::<Result<_, _>>()?,
    })
}

fn process(text: &str) -> Result<(String, u32), String> {
    let (name, pid) = text
        .split_once('=')
        .ok_or("a process is redis=PID or replica-1=PID")?;
    let pid = pid
        .parse()
        .map_err(|_| format!("{pid:?} is no process id"))?;
    match Subject::named(name) {
        Some(subject @ (Subject::Redis | Subject::Replica(_))) => Ok((subject.name(), pid)),
        _ => Err(yaml::unknown("process", name, &["redis", "replica-1"])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_processes_are_read() {
        let between = link("agents=127.0.0.1:9000=10.0.0.1:8150,10.0.0.2:8150").unwrap();

        assert_eq!((between.listen.port(), between.targets.len()), (9000, 2));
        assert!(
            link("agnets=127.0.0.1:1=127.0.0.1:2")
                .unwrap_err()
                .contains("`agents`")
        );
        assert!(
            link("agents=9000=127.0.0.1:2")
                .unwrap_err()
                .contains("IP:PORT")
        );
        assert_eq!(process("replica-2=17"), Ok(("replica 2".to_owned(), 17)));
        assert!(process("kas=17").is_err() && process("redis=x").is_err());
    }

    #[tokio::test]
    async fn a_fault_needs_what_it_happens_to() {
        let subjects = FaultSubjects::default();
        subjects
            .processes
            .insert("redis", rustix::process::getpid());
        let read =
            |text: &str| read(Path::new("t.yaml"), text, &subjects).map_err(|it| it.to_string());

        assert_eq!(read("- {at: 1, do: freeze, of: redis}").unwrap().len(), 1);
        let link = read("- {at: 1, do: cut, of: agents}").unwrap_err();
        assert!(
            link.contains("t.yaml:1:3") && link.contains("--link agents="),
            "{link}"
        );
        let process = read("- {at: 1, do: kill, of: replica-1}").unwrap_err();
        assert!(process.contains("--process replica-1="), "{process}");
        let typo = read("- {at: 1, do: frezee, of: redis}").unwrap_err();
        assert!(typo.contains("did you mean `freeze`?"), "{typo}");
        assert!(read("- {at: 1, do: rolling-restart}").is_err());
    }
}

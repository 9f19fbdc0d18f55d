//! Memory that a process holds.

use anyhow::{Context, Result, bail};
use tests::{
    process::Process,
    rig::{Rig, RigAgent},
};

/// Turns in a row in which the process does not grow; as many show that it keeps nothing of one.
const CALM: usize = 8;
/// By then each thread of the process has had the work, however busy the machine is.
const MOST_TURNS: usize = 100;
/// What is no growth, in KiB: 128 KiB a turn over those that are calm.
const NOISE_KIB: u64 = 1 << 10;
/// Requests of a bystander after a turn: what is freed is given back when something else is allocated.
const LOOKS: usize = 3;

/// Resident memory in KiB.
///
/// # Errors
/// When the process has ended.
pub(crate) fn resident_kib(process: &Process) -> Result<u64> {
    let id = process.id().context("the process has ended")?;
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.context("no VmRSS")?.parse()?)
}

/// The most that it ever held, in KiB.
///
/// # Errors
/// When the process has ended.
pub(crate) fn peak_kib(process: &Process) -> Result<u64> {
    let id = process.id().context("the process has ended")?;
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.context("no VmHWM")?.parse()?)
}

/// Does something again and again, until the process does not grow by it any more.
///
/// An allocator keeps some pages for each thread, and a thread takes its own when such work first comes to it: what a
/// process holds more after a few turns than before them is not lost. What is lost in each turn adds up.
///
/// # Errors
/// When it grows for ever.
pub(crate) async fn keeps_nothing(
    rig: &Rig,
    bystander: &RigAgent,
    mut turn: impl AsyncFnMut() -> Result<()>,
) -> Result<()> {
    let (mut highest, mut calm, mut all) = (0, 0, Vec::new());
    while calm < CALM {
        if all.len() == MOST_TURNS {
            bail!("it grows with each turn, in KiB: {all:?}");
        }
        turn().await?;
        let held = settled(rig, bystander).await?;
        all.push(held);
        if held > highest + NOISE_KIB {
            (highest, calm) = (held, 0);
        } else {
            calm += 1;
        }
    }
    Ok(())
}

async fn settled(rig: &Rig, bystander: &RigAgent) -> Result<u64> {
    let mut least = u64::MAX;
    for _ in 0..LOOKS {
        rig.check_serves(bystander).await?;
        least = least.min(resident_kib(&rig.kas.process)?);
    }
    Ok(least)
}

//! Memory that a process holds.

use std::time::Duration;

use anyhow::{Context, Result};
use tests::{process::Process, wait::until};

/// How long memory may take to be given back: what is freed waits for a purge.
const GIVEN_BACK: Duration = Duration::from_secs(30);
/// What any process may hold more after any work, in KiB: an allocator's first pages.
const NOISE_KIB: u64 = 8 << 10;

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

/// Waits until the process holds within a tenth of what it held before.
///
/// # Errors
/// When it keeps more.
pub(crate) async fn given_back(process: &Process, before_kib: u64) -> Result<u64> {
    let limit = before_kib + (before_kib / 10).max(NOISE_KIB);
    let small = async || resident_kib(process).ok().filter(|kib| *kib <= limit);
    let held = until("memory to be given back", GIVEN_BACK, small).await;
    held.with_context(|| format!("{before_kib} KiB before, {:?} after", resident_kib(process)))
}

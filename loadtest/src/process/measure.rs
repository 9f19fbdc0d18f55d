//! What a process uses, as the kernel counts it.

use std::{fs, time::Duration};

use anyhow::Context;
use rustix::process::Pid;

/// CPU time, resident memory and open files at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Time on a CPU since the process began, of the threads that still live.
    pub(crate) cpu: Duration,
    /// Resident memory, in KiB.
    pub(crate) resident: u64,
    /// Open file descriptors.
    pub(crate) files: usize,
}

/// Looks at the process.
///
/// # Errors
/// When it is gone.
pub(crate) fn sample(pid: Pid) -> anyhow::Result<Sample> {
    let pid = pid.as_raw_nonzero();
    Ok(Sample {
        cpu: cpu(&format!("/proc/{pid}/task"))?,
        resident: resident(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?)?,
        files: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
    })
}

fn cpu(tasks: &str) -> anyhow::Result<Duration> {
    let mut total = Duration::ZERO;
    for task in fs::read_dir(tasks)? {
        // A thread may end while the list is read.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        total += running(&text)?;
    }
    Ok(total)
}

/// The first number of `schedstat`: nanoseconds on a CPU.
fn running(schedstat: &str) -> anyhow::Result<Duration> {
    let nanos = schedstat.split_whitespace().next();
    let nanos = nanos.and_then(|nanos| nanos.parse().ok());
    nanos
        .map(Duration::from_nanos)
        .context("an unknown format of schedstat")
}

fn resident(rollup: &str) -> anyhow::Result<u64> {
    rollup
        .lines()
        .find_map(|line| line.strip_prefix("Rss:")?.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.trim().parse().ok())
        .context("an unknown format of smaps_rollup")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(running("1500 20 3\n").unwrap(), Duration::from_nanos(1500));
        assert_eq!(
            resident("00-ff ---p 0 0 0 [rollup]\nRss:            7388 kB\nPss: 1 kB\n").unwrap(),
            7388
        );
    }

    #[test]
    fn this_process_can_be_measured() {
        let sample = sample(rustix::process::getpid()).unwrap();

        assert!(sample.resident > 0 && sample.files > 2);
    }
}

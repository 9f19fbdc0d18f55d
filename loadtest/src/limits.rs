//! Open files: as many as the system allows, and a clear word when too few.

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that a process needs beside its connections.
const SPARE: u64 = 64;

/// Raises the soft limit to the hard one and checks that `connections` fit.
///
/// # Errors
/// When they do not fit, saying what to set.
pub(crate) fn make_room(connections: usize) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )
    .context("cannot raise the limit of open files")?;
    check(connections as u64 + SPARE, limit.maximum)
}

fn check(needed: u64, hard: Option<u64>) -> anyhow::Result<()> {
    match hard {
        Some(hard) if hard < needed => bail!(
            "{needed} open files are needed, but the hard limit is {hard}: \
             raise it (`ulimit -Hn {needed}` as root) or ask for fewer connections"
        ),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_files_are_named_with_what_to_set() {
        assert!(check(1000, Some(1000)).is_ok());
        assert!(check(1000, None).is_ok());

        let error = check(20_064, Some(20_000)).unwrap_err().to_string();

        assert!(error.contains("hard limit is 20000"), "{error}");
        assert!(error.contains("ulimit -Hn 20064"), "{error}");
    }
}

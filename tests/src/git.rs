//! A Git repository on disk, written by the `git` program.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use tokio::{io::AsyncWriteExt, process::Command};

/// A bare repository.
#[derive(Debug, Clone)]
pub struct Repository(PathBuf);

impl Repository {
    /// The repository in a folder; made there, empty, if there is none.
    ///
    /// # Errors
    /// When `git` fails or is not installed.
    pub async fn open(folder: &Path) -> Result<Self> {
        let repository = Self(folder.to_owned());
        if !folder.join("HEAD").exists() {
            std::fs::create_dir_all(folder)?;
            let arguments = ["init", "--quiet", "--bare", "--initial-branch=main"];
            repository.git(&arguments, b"").await?;
        }
        Ok(repository)
    }

    /// Commits files to a branch, those without content as removed; gives the
    /// commit's id.
    ///
    /// # Errors
    /// When `git` fails.
    pub async fn commit(&self, branch: &str, files: &[(&str, Option<&str>)]) -> Result<String> {
        let name = format!("refs/heads/{branch}");
        let parent = self
            .git(&["rev-parse", "--verify", "--quiet", &name], b"")
            .await;
        let mut script = format!("commit {name}\ncommitter T <t@example.com> 0 +0000\ndata 1\nx\n");
        if parent.is_ok() {
            script += &format!("from {name}^0\n");
        }
        for (path, content) in files {
            script += &match content {
                Some(text) => format!("M 100644 inline {path}\ndata {}\n{text}\n", text.len()),
                None => format!("D {path}\n"),
            };
        }
        self.git(
            &["fast-import", "--quiet", "--date-format=raw"],
            script.as_bytes(),
        )
        .await?;
        let id = self.git(&["rev-parse", &name], b"").await?;
        Ok(String::from_utf8(id)?.trim().to_owned())
    }

    /// What `git` prints.
    ///
    /// # Errors
    /// When it fails, with its own words.
    pub async fn git(&self, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
        let mut child = Command::new("git")
            .args(arguments)
            .current_dir(&self.0)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_DIR", &self.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("the program `git` is needed for repositories")?;
        let mut stdin = child.stdin.take().context("it has an input")?;
        let (written, output) = tokio::join!(
            async {
                let written = stdin.write_all(input).await;
                drop(stdin);
                written
            },
            child.wait_with_output()
        );
        let output = output?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "git {arguments:?}: {words}");
        written?;
        Ok(output.stdout)
    }
}

//! What is read from a repository, by the `git` program.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use proto::gitaly::{TreeEntry, tree_entry::EntryType};

use crate::git::Repository;

/// An object that a path names.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) content: Vec<u8>,
}

/// The refs as they are advertised for a fetch over HTTP.
pub(super) async fn advertisement(repository: &Repository) -> Result<Vec<u8>> {
    let arguments = ["upload-pack", "--stateless-rpc", "--advertise-refs", "."];
    let refs = repository.git(&arguments, b"").await?;
    let mut all = b"001e# service=git-upload-pack\n0000".to_vec();
    all.extend(refs);
    Ok(all)
}

/// What is at a path, if anything is.
pub(super) async fn object(
    repository: &Repository,
    revision: &str,
    path: &str,
) -> Result<Option<Object>> {
    let question = format!("{revision}:{path}\n");
    let answer = repository
        .git(&["cat-file", "--batch"], question.as_bytes())
        .await?;
    let end = answer.iter().position(|b| *b == b'\n');
    let end = end.context("git says nothing")?;
    let head = std::str::from_utf8(&answer[..end])?;
    let parts: Vec<_> = head.split(' ').collect();
    let [id, kind, size] = parts[..] else {
        return Ok(None);
    };
    if kind == "missing" || size == "missing" {
        return Ok(None);
    }
    let size: usize = size.parse()?;
    let content = answer.get(end + 1..end + 1 + size);
    Ok(Some(Object {
        id: id.to_owned(),
        kind: kind.to_owned(),
        content: content.context("git stopped early")?.to_vec(),
    }))
}

/// Whether a revision is there at all.
pub(super) async fn exists(repository: &Repository, revision: &str) -> bool {
    let name = format!("{revision}^{{commit}}");
    repository
        .git(&["rev-parse", "--verify", "--quiet", &name], b"")
        .await
        .is_ok()
}

/// What is in and below a directory.
pub(super) async fn entries(
    repository: &Repository,
    revision: &str,
    directory: &str,
    recursive: bool,
) -> Result<Vec<TreeEntry>> {
    let below = format!("{directory}/");
    let mut arguments = vec!["ls-tree", "-z"];
    if recursive {
        arguments.extend(["-r", "-t"]);
    }
    arguments.extend([revision, "--"]);
    if directory != "." && !directory.is_empty() {
        arguments.push(&below);
    }
    let listed = repository.git(&arguments, b"").await?;
    let lines = listed.split(|b| *b == 0).filter(|line| !line.is_empty());
    let entries: Result<Vec<_>> = lines.map(entry).collect();
    // The directory's own parents are listed too.
    let inside = |it: &TreeEntry| directory == "." || it.path.starts_with(below.as_bytes());
    Ok(entries?.into_iter().filter(inside).collect())
}

fn entry(line: &[u8]) -> Result<TreeEntry> {
    let tab = line.iter().position(|b| *b == b'\t').context("no tab")?;
    let head: Vec<_> = std::str::from_utf8(&line[..tab])?.split(' ').collect();
    let [mode, kind, id] = head[..] else {
        bail!("{head:?} is no entry");
    };
    let kind = match kind {
        "blob" => EntryType::Blob,
        "tree" => EntryType::Tree,
        _ => EntryType::Commit,
    };
    Ok(TreeEntry {
        oid: id.to_owned(),
        path: Bytes::copy_from_slice(&line[tab + 1..]),
        r#type: kind.into(),
        mode: i32::from_str_radix(mode, 8)?,
        commit_oid: String::new(),
    })
}

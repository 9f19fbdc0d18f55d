//! The advertisement of a repository's refs (Git's protocol, version 0), read
//! until the wanted branch is found. Pure: bytes in, an answer out.

use bytes::{Buf as _, BytesMut};

/// The name that an empty repository advertises in place of a ref.
const NO_REFS: &str = "capabilities^{}";
/// The longest line that Git writes.
const PKT_LINE_MAX_BYTES: usize = 65_520;

/// Where a branch is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// At this commit.
    Commit(String),
    /// Nowhere: nothing was ever pushed.
    Empty,
}

/// What the bytes so far say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing yet.
    More,
    /// The answer.
    Found(Head),
    /// There are refs, but not the wanted one.
    Missing,
}

/// What must come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Service,
    ServiceEnd,
    FirstRef,
    Ref,
}

/// An advertisement that is being read.
#[derive(Debug)]
pub(super) struct Advertisement {
    wanted: String,
    buffer: BytesMut,
    next: Next,
    any: bool,
}

/// A line, or the mark between sections.
enum Line {
    Flush,
    Text(String),
}

impl Advertisement {
    /// Looks for this branch.
    pub(super) fn new(branch: &str) -> Self {
        Self {
            wanted: format!("refs/heads/{branch}"),
            buffer: BytesMut::new(),
            next: Next::Service,
            any: false,
        }
    }

    /// Takes in more bytes; says what is wrong with them.
    pub(super) fn push(&mut self, data: &[u8]) -> Result<Progress, RefsError> {
        self.buffer.extend_from_slice(data);
        while let Some(line) = self.line()? {
            let progress = self.read(line)?;
            if progress != Progress::More {
                return Ok(progress);
            }
        }
        Ok(Progress::More)
    }

    fn line(&mut self) -> Result<Option<Line>, RefsError> {
        let Some(head) = self.buffer.get(..4) else {
            return Ok(None);
        };
        let bad = || RefsError::Length(String::from_utf8_lossy(head).into_owned());
        if !head.iter().all(u8::is_ascii_hexdigit) {
            return Err(bad());
        }
        let digits = std::str::from_utf8(head).map_err(|_| bad())?;
        let length = usize::from_str_radix(digits, 16).map_err(|_| bad())?;
        if length == 0 {
            self.buffer.advance(4);
            return Ok(Some(Line::Flush));
        }
        if !(4..=PKT_LINE_MAX_BYTES).contains(&length) {
            return Err(bad());
        }
        if self.buffer.len() < length {
            return Ok(None);
        }
        let line = self.buffer.split_to(length).split_off(4);
        let text = String::from_utf8_lossy(&line);
        Ok(Some(Line::Text(text.trim_end_matches('\n').to_owned())))
    }

    fn read(&mut self, line: Line) -> Result<Progress, RefsError> {
        match (self.next, line) {
            (Next::Service, Line::Text(text)) if text == "# service=git-upload-pack" => {
                self.next = Next::ServiceEnd;
                Ok(Progress::More)
            }
            (Next::ServiceEnd, Line::Flush) => {
                self.next = Next::FirstRef;
                Ok(Progress::More)
            }
            (Next::FirstRef, Line::Text(text)) => {
                self.next = Next::Ref;
                let (text, capabilities) = text.split_once('\0').unwrap_or((&text, ""));
                self.first(text, capabilities)
            }
            (Next::Ref, Line::Text(text)) => self.reference(&text),
            (Next::FirstRef | Next::Ref, Line::Flush) if self.any => Ok(Progress::Missing),
            (Next::FirstRef | Next::Ref, Line::Flush) => Ok(Progress::Found(Head::Empty)),
            (next, Line::Text(text)) => Err(RefsError::Unexpected {
                line: format!("{text:?}"),
                expected: format!("{next:?}"),
            }),
            (next, Line::Flush) => Err(RefsError::Unexpected {
                line: "a flush".to_owned(),
                expected: format!("{next:?}"),
            }),
        }
    }

    /// HEAD comes first, and the capabilities say which branch it is.
    fn first(&mut self, text: &str, capabilities: &str) -> Result<Progress, RefsError> {
        let default = format!("symref=HEAD:{}", self.wanted);
        match split(text)? {
            (commit, "HEAD") if capabilities.split(' ').any(|it| it == default) => {
                Ok(found(commit))
            }
            _ => self.reference(text),
        }
    }

    fn reference(&mut self, text: &str) -> Result<Progress, RefsError> {
        if text.starts_with("shallow ") {
            return Ok(Progress::More);
        }
        match split(text)? {
            (_, NO_REFS) => return Ok(Progress::More),
            (commit, name) if name == self.wanted => return Ok(found(commit)),
            (_, _) => self.any = true,
        }
        Ok(Progress::More)
    }
}

fn found(commit: &str) -> Progress {
    Progress::Found(Head::Commit(commit.to_owned()))
}

/// What is wrong with an advertisement of refs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RefsError {
    /// A line begins with no length.
    #[error("{0:?} is no length")]
    Length(String),
    /// A line stands where another should be.
    #[error("{line} where {expected} should be")]
    Unexpected { line: String, expected: String },
    /// A line is no ref.
    #[error("{0:?} is no ref")]
    Ref(String),
}

/// An object's id and the ref's name.
fn split(text: &str) -> Result<(&str, &str), RefsError> {
    let parts = text.split_once(' ');
    let is_id = |id: &str| id.len() >= 40 && id.bytes().all(|b| b.is_ascii_hexdigit());
    parts
        .filter(|(id, _)| is_id(id))
        .ok_or_else(|| RefsError::Ref(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(text: &str) -> String {
        format!("{:04x}{text}\n", text.len() + 5)
    }

    fn advertised(refs: &[&str]) -> String {
        let lines: String = refs.iter().map(|it| line(it)).collect();
        line("# service=git-upload-pack") + "0000" + &lines + "0000"
    }

    fn id(digit: char) -> String {
        digit.to_string().repeat(40)
    }

    fn refs() -> String {
        advertised(&[
            &format!(
                "{} HEAD\0thin-pack symref=HEAD:refs/heads/main agent=git/2",
                id('a')
            ),
            &format!("{} refs/heads/main", id('a')),
            &format!("{} refs/heads/other", id('b')),
            &format!("shallow {}", id('c')),
        ])
    }

    fn read(text: &str, branch: &str) -> Result<Progress, RefsError> {
        Advertisement::new(branch).push(text.as_bytes())
    }

    #[test]
    fn the_default_branch_is_known_from_the_first_line() {
        let all = refs();
        let first = all.find("refs/heads/main\n").unwrap();

        assert_eq!(read(&all[..first - 45], "main"), Ok(found(&id('a'))));
    }

    #[test]
    fn another_branch_is_found_further_down_and_one_that_is_none_is_missing() {
        assert_eq!(read(&refs(), "other"), Ok(found(&id('b'))));
        assert_eq!(read(&refs(), "mai"), Ok(Progress::Missing));
    }

    #[test]
    fn a_repository_without_refs_is_empty_whatever_git_says_of_it() {
        let empty = Ok(Progress::Found(Head::Empty));

        assert_eq!(read(&advertised(&[]), "main"), empty);
        let capabilities = format!("{} capabilities^{{}}\0agent=git", id('0'));
        assert_eq!(read(&advertised(&[&capabilities]), "main"), empty);
    }

    #[test]
    fn anything_else_is_an_error() {
        for text in [
            "<html>",
            "0000",
            "0003",
            "ffff",
            "+001",
            &line("# service=git-receive-pack"),
            &(line("# service=git-upload-pack") + &line("x")),
            &advertised(&["no ref"]),
        ] {
            assert!(read(text, "main").is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_the_bytes_are_cut(cut in 0..300_usize) {
            let all = refs();
            let cut = cut.min(all.len());
            let mut advertisement = Advertisement::new("other");

            let first = advertisement.push(&all.as_bytes()[..cut]).unwrap();
            let whole = match first {
                Progress::More => advertisement.push(&all.as_bytes()[cut..]).unwrap(),
                done => done,
            };

            prop_assert_eq!(whole, found(&id('b')));
        }

        #[test]
        fn garbage_does_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Advertisement::new("main").push(&bytes);
        }
    }
}

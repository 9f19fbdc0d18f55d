//! Whatever the documents say where to look is there: files, and places within documents.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// The documents beside `docs`.
const TOP: [&str; 7] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "deploy/compose/README.md",
    "deploy/k8s/charts/agentk/README.md",
    "deploy/k8s/charts/kas/README.md",
];
/// The table of contents of the book, whose links are those of the folder above.
const CONTENTS: &str = "docs/book/SUMMARY.md";

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// All documents, by their paths from the root.
fn documents() -> Vec<PathBuf> {
    let mut found: Vec<_> = TOP.iter().map(PathBuf::from).collect();
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).expect("the folder can be listed") {
            let path = folder.join(entry.expect("it can be listed").file_name());
            if root().join(&path).is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "md") && path != Path::new(CONTENTS) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn text(document: &Path) -> String {
    std::fs::read_to_string(root().join(document)).expect("it is text")
}

/// The lines outside of blocks of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence && !line.starts_with("    ")
    })
}

/// The targets of links, as far as they are not code.
fn links(text: &str) -> impl Iterator<Item = String> {
    let plain = prose(text).map(|line| line.split('`').step_by(2).collect::<String>());
    plain.flat_map(|line| {
        let linked = line.split("](").skip(1);
        let targets = linked.filter_map(|rest| Some(rest.split(')').next()?.to_owned()));
        targets.collect::<Vec<_>>()
    })
}

/// The paths that a document names: between back quotes, and as targets of links.
fn named(text: &str) -> impl Iterator<Item = String> {
    let quoted = text
        .lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2).map(str::to_owned));
    let linked = links(text).filter_map(|link| Some(link.split('#').next()?.to_owned()));
    let plain = |path: &String| {
        let in_path = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
        path.contains('/') && path.chars().all(in_path)
    };
    quoted.chain(linked).filter(plain)
}

/// The names by which headings are linked to, as code hosts and mdBook make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter(|line| line.starts_with('#'));
    let mut anchors = BTreeSet::new();
    for heading in headings {
        let mut name = String::new();
        for letter in heading.trim_start_matches('#').trim().chars() {
            match letter {
                ' ' => name.push('-'),
                '-' | '_' => name.push(letter),
                letter if letter.is_alphanumeric() => name.extend(letter.to_lowercase()),
                _ => {}
            }
        }
        let first = name.clone();
        for number in 1.. {
            if anchors.insert(name) {
                break;
            }
            name = format!("{first}-{number}");
        }
    }
    anchors
}

#[test]
fn the_files_that_documents_name_exist() {
    let mut missing = Vec::new();
    for document in documents() {
        let text = text(&document);
        let beside = root().join(&document);
        let beside = beside.parent().map(Path::to_owned).unwrap_or_default();
        for path in named(&text) {
            let folder = path.split('/').next().unwrap_or_default();
            // What is built there comes and goes; other words with slashes are no paths.
            let is_ours = folder != "target" && !folder.is_empty() && root().join(folder).is_dir();
            let places: [PathBuf; 2] = [root().join(&path), beside.join(&path)];
            if is_ours && !places.iter().any(|place| place.exists()) {
                missing.push(format!("{}: {path}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn links_within_the_documents_lead_to_a_file_and_a_heading() {
    let mut broken = Vec::new();
    let contents = PathBuf::from(CONTENTS);
    for document in documents().into_iter().chain([contents]) {
        let folder = match document == Path::new(CONTENTS) {
            true => root(),
            false => &root().join(document.parent().unwrap_or(Path::new(""))),
        };
        for link in links(&text(&document)) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, place) = link.split_once('#').unwrap_or((&link, ""));
            let file = match path {
                "" => root().join(&document),
                path => folder.join(path),
            };
            let is_there = match place {
                "" => file.exists(),
                place => {
                    let text = std::fs::read_to_string(&file);
                    text.is_ok_and(|text| anchors(&text).contains(place))
                }
            };
            if !is_there {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_book_has_each_document_once() {
    let contents = text(Path::new(CONTENTS));
    let listed: Vec<_> = links(&contents).map(PathBuf::from).collect();
    let listed_once: BTreeSet<_> = listed.iter().cloned().collect();
    let documents: BTreeSet<_> = documents().into_iter().collect();

    assert_eq!(listed.len(), listed_once.len(), "one is listed twice");
    assert_eq!(listed_once, documents);
}

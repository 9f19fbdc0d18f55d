//! Whatever the documents say where to look is there.

use std::path::{Path, PathBuf};

/// The paths that a document names: between back quotes, and as targets of links.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text
        .lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    let linked = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', '#']).next());
    let plain = |path: &&str| {
        let in_path = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
        path.contains('/') && path.chars().all(in_path)
    };
    quoted.chain(linked).filter(plain)
}

#[test]
fn the_files_that_documents_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let top = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(|name| root.join(name));
    let docs = std::fs::read_dir(root.join("docs")).expect("there are documents");
    let docs = docs.map(|entry| entry.expect("it can be listed").path());
    let mut missing = Vec::new();
    for document in top.into_iter().chain(docs) {
        let text = std::fs::read_to_string(&document).expect("it is text");
        let beside = document.parent().map(Path::to_owned).unwrap_or_default();
        for path in named(&text) {
            let folder = path.split('/').next().unwrap_or_default();
            // What is built there comes and goes; other words with slashes are no paths.
            let is_ours = folder != "target" && !folder.is_empty() && root.join(folder).is_dir();
            let places: [PathBuf; 2] = [root.join(path), beside.join(path)];
            if is_ours && !places.iter().any(|place| place.exists()) {
                missing.push(format!("{}: {path}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

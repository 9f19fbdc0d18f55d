//! No file of a crate uses one that uses it: a reader can begin anywhere and need not go round.
//!
//! A file and its own sub-files count as one, and tests may use what they like.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use syn::{ItemMod, ItemUse, UseTree, visit::Visit};

/// The path of a module within its crate.
type Module = Vec<String>;
/// Siblings, of any depth, and which of the others each of them uses, with an example.
type Graph = BTreeMap<Module, BTreeMap<Module, String>>;

/// Finds what a file uses of its own crate.
struct Uses<'a> {
    from: &'a Module,
    found: Vec<Module>,
}

impl Uses<'_> {
    /// Notes a path as it is written.
    fn note(&mut self, path: &[String]) {
        let mut from = self.from.clone();
        let mut rest = path;
        match path.first().map(String::as_str) {
            Some("crate") => {
                from.clear();
                rest = &path[1..];
            }
            Some("self") => rest = &path[1..],
            Some("super") => {
                while let Some((first, others)) = rest.split_first()
                    && first == "super"
                {
                    from.pop();
                    rest = others;
                }
            }
            _ => return,
        }
        from.extend_from_slice(rest);
        self.found.push(from);
    }

    fn expand(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(it) => self.expand(&with(&it.ident), &it.tree),
            UseTree::Name(it) => self.note(&with(&it.ident)),
            UseTree::Rename(it) => self.note(&with(&it.ident)),
            UseTree::Glob(_) => self.note(before),
            UseTree::Group(it) => it.items.iter().for_each(|tree| self.expand(before, tree)),
        }
    }
}

impl<'ast> Visit<'ast> for Uses<'_> {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.expand(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter();
        self.note(&segments.map(|it| it.ident.to_string()).collect::<Vec<_>>());
        syn::visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, _: &'ast ItemMod) {
        // Tests, or code that was generated: what is written in a file of its own is looked at there.
    }
}

/// All files below a folder that end in `.rs`, but for files of tests.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder can be listed") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// The folders with the sources of crates.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder can be listed") {
        let path = entry.expect("it can be listed").path();
        let name = path.file_name().unwrap_or_default();
        if !path.is_dir() || name == "target" || name.to_string_lossy().starts_with('.') {
            continue;
        }
        if name == "src" && folder.join("Cargo.toml").exists() {
            found.push(path);
        } else {
            sources(&path, found);
        }
    }
}

/// Which modules of a crate use which, lifted to the siblings that they are or are in.
fn graph(source: &Path) -> Graph {
    let mut all = Vec::new();
    files(source, &mut all);
    let modules: BTreeMap<Module, PathBuf> = all
        .into_iter()
        .map(|path| {
            let inside = path.strip_prefix(source).expect("it is below the folder");
            let mut module: Module = inside
                .with_extension("")
                .iter()
                .map(|part| part.to_string_lossy().into_owned())
                .collect();
            module.pop_if(|last| ["lib", "main", "mod"].contains(&last.as_str()));
            (module, path)
        })
        .collect();
    let mut graph = Graph::new();
    for (from, path) in &modules {
        let text = std::fs::read_to_string(path).expect("it is text");
        let file = syn::parse_file(&text).expect("it is Rust");
        let found = Vec::new();
        let mut uses = Uses { from, found };
        uses.visit_file(&file);
        for mut to in uses.found {
            while !modules.contains_key(&to) && to.pop().is_some() {}
            let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            if common == from.len() || common == to.len() {
                continue;
            }
            let example = format!("{} uses {}", from.join("::"), to.join("::"));
            let siblings = [from[..=common].to_vec(), to[..=common].to_vec()];
            let [user, used] = siblings;
            graph.entry(user).or_default().insert(used, example);
        }
    }
    graph
}

/// Takes away whoever uses nobody, or is used by nobody, until only circles are left.
fn circles(mut graph: Graph) -> Vec<String> {
    loop {
        let used: BTreeSet<Module> = graph.values().flat_map(|it| it.keys().cloned()).collect();
        let users: BTreeSet<Module> = graph.keys().cloned().collect();
        let before = graph.values().map(BTreeMap::len).sum::<usize>();
        graph.retain(|user, _| used.contains(user));
        for uses in graph.values_mut() {
            uses.retain(|used, _| users.contains(used));
        }
        graph.retain(|_, uses| !uses.is_empty());
        if graph.values().map(BTreeMap::len).sum::<usize>() == before {
            break;
        }
    }
    graph
        .into_values()
        .flat_map(BTreeMap::into_values)
        .collect()
}

#[test]
fn no_file_uses_one_that_uses_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders = Vec::new();
    sources(&root, &mut folders);
    assert!(folders.len() > 10, "the crates were not found");
    let found: BTreeMap<_, _> = folders
        .iter()
        .map(|it| (it.display().to_string(), circles(graph(it))))
        .filter(|(_, circles)| !circles.is_empty())
        .collect();
    assert!(found.is_empty(), "files that use each other: {found:#?}");
}

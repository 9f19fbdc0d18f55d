//! What a client is to see, and what it was told of that. Pure.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use serde_json::json;

use super::{
    message::{ArcKind, Attributes, Vertex},
    references::Arcs,
};

/// Objects of one query, at most.
pub(super) const MAX_OBJECTS: usize = 20_000;

/// An object that is to be seen.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// In JSON.
    pub(super) object: Bytes,
    /// The Helm release in it, in JSON.
    pub(super) release: Option<Bytes>,
    /// Whether it is a root.
    pub(super) root: bool,
    /// Where it leads.
    pub(super) arcs: Arcs,
}

impl Node {
    /// Bytes that it takes, about.
    pub(super) fn bytes(&self) -> usize {
        const NODE_BYTES: usize = 512;
        const ARC_BYTES: usize = 256;
        let release = self.release.as_ref().map_or(0, Bytes::len);
        NODE_BYTES + self.object.len() + release + self.arcs.len() * ARC_BYTES
    }
}

/// The graph.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// Kinds of arcs that are followed both ways from the roots; `None` where everything is to be seen.
    pub(super) roots: Option<Vec<ArcKind>>,
    /// Namespaces whose objects are to be seen; `None` for all.
    pub(super) namespaces: Option<HashSet<Arc<str>>>,
    /// Groups and resources of which all objects are known.
    pub(super) complete: HashSet<(Arc<str>, Arc<str>)>,
    nodes: HashMap<Vertex, (u64, Node)>,
    unselected: HashSet<Vertex>,
    changes: u64,
    shown: HashMap<Vertex, u64>,
    shown_arcs: HashMap<(Vertex, Vertex, ArcKind), Attributes>,
}

/// A change that a client is to be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// An object is there, or is another.
    Set(Vertex),
    /// An object is gone.
    Delete(Vertex),
    /// An arc is there, or is another.
    SetArc(Vertex, Vertex, ArcKind, Attributes),
    /// An arc is gone.
    DeleteArc(Vertex, Vertex, ArcKind),
}

impl Model {
    /// Objects that are known of.
    pub(super) fn objects(&self) -> usize {
        self.nodes.len() + self.unselected.len()
    }

    /// An object is there; gives the bytes that are kept no longer.
    pub(super) fn set(&mut self, vertex: Vertex, node: Node) -> usize {
        self.changes += 1;
        self.unselected.remove(&vertex);
        let old = self.nodes.insert(vertex, (self.changes, node));
        old.map_or(0, |(_, node)| node.bytes())
    }

    /// An object is there, but not to be seen.
    pub(super) fn unselect(&mut self, vertex: Vertex) -> usize {
        let freed = self.remove(&vertex);
        self.unselected.insert(vertex);
        freed
    }

    /// An object is gone.
    pub(super) fn remove(&mut self, vertex: &Vertex) -> usize {
        self.unselected.remove(vertex);
        self.nodes
            .remove(vertex)
            .map_or(0, |(_, node)| node.bytes())
    }

    /// Of the objects that `is_of`, no others are there than these.
    pub(super) fn keep(
        &mut self,
        is_of: impl Fn(&Vertex) -> bool,
        there: &HashSet<Vertex>,
    ) -> usize {
        let is_gone = |it: &&Vertex| is_of(it) && !there.contains(*it);
        let known = self.nodes.keys().chain(&self.unselected);
        let gone: Vec<_> = known.filter(is_gone).cloned().collect();
        gone.iter().map(|it| self.remove(it)).sum()
    }

    fn is_allowed(&self, vertex: &Vertex) -> bool {
        let namespaces = self.namespaces.as_ref();
        vertex.namespace.is_empty() || namespaces.is_none_or(|it| it.contains(&vertex.namespace))
    }

    fn is_there(&self, vertex: &Vertex) -> bool {
        self.nodes.contains_key(vertex) && self.is_allowed(vertex)
    }

    /// Objects that are to be seen now.
    fn visible(&self) -> HashSet<&Vertex> {
        let allowed = self.nodes.iter().filter(|(it, _)| self.is_allowed(it));
        let Some(both_ways) = &self.roots else {
            return allowed.map(|(vertex, _)| vertex).collect();
        };
        let mut back: HashMap<&Vertex, Vec<&Vertex>> = HashMap::new();
        for (from, (_, node)) in allowed.clone() {
            for (to, kind) in node.arcs.keys() {
                if both_ways.contains(kind) {
                    back.entry(to).or_default().push(from);
                }
            }
        }
        let roots = allowed.filter(|(_, (_, node))| node.root);
        let mut reached: HashSet<_> = roots.map(|(vertex, _)| vertex).collect();
        let mut left: Vec<_> = reached.iter().copied().collect();
        while let Some(from) = left.pop() {
            let Some((from, (_, node))) = self.nodes.get_key_value(from) else {
                continue;
            };
            let ahead = node.arcs.keys().map(|(to, _)| to);
            let behind = back.get(from).into_iter().flatten().copied();
            for to in ahead.chain(behind) {
                if self.is_there(to) && reached.insert(to) {
                    left.push(to);
                }
            }
        }
        reached
    }

    /// What an arc to this object is told with; nothing where it is not told.
    fn attributes(&self, to: &Vertex, known: Attributes) -> Option<Attributes> {
        if self.is_there(to) {
            return Some(known);
        }
        let key = (to.group.clone(), to.resource.clone());
        let missing =
            self.is_allowed(to) && self.complete.contains(&key) && !self.unselected.contains(to);
        missing.then_some(Attributes { missing, ..known })
    }

    /// What is to be told since the last time, in an order for clients that draw objects inside their namespaces: these
    /// come after what is in them and go after it, and an object goes after all arcs to it, also those that are told again
    /// because they lead nowhere now.
    pub(super) fn tell(&mut self) -> VecDeque<Change> {
        let (mut objects, mut arcs) = (HashMap::new(), HashMap::new());
        for vertex in self.visible() {
            let Some((change, node)) = self.nodes.get(vertex) else {
                continue;
            };
            objects.insert(vertex.clone(), *change);
            for ((to, kind), known) in &node.arcs {
                if let Some(attributes) = self.attributes(to, *known) {
                    arcs.insert((vertex.clone(), to.clone(), *kind), attributes);
                }
            }
        }
        let goes = |it: &Vertex| self.shown.contains_key(it) && !objects.contains_key(it);
        let cut = self.shown_arcs.keys();
        let cut = cut.filter(|it| !arcs.contains_key(*it) || goes(&it.1));
        let gone = self.shown.keys().filter(|it| goes(it));
        let set = objects
            .iter()
            .filter(|(it, change)| self.shown.get(*it) != Some(change));
        let new = arcs
            .iter()
            .filter(|(it, attributes)| self.shown_arcs.get(*it) != Some(attributes) || goes(&it.1));

        let mut changes = VecDeque::new();
        let cut = sorted(cut).cloned();
        changes.extend(cut.map(|(from, to, kind)| Change::DeleteArc(from, to, kind)));
        changes.extend(contents_first(gone).cloned().map(Change::Delete));
        let set = contents_first(set.map(|(vertex, _)| vertex));
        changes.extend(set.cloned().map(Change::Set));
        let new = sorted(new.map(|(arc, attributes)| (arc, *attributes)));
        changes.extend(new.map(|((from, to, kind), attributes)| {
            Change::SetArc(from.clone(), to.clone(), *kind, attributes)
        }));
        (self.shown, self.shown_arcs) = (objects, arcs);
        changes
    }

    /// A change as the client reads it, in JSON.
    pub(super) fn text(&self, change: &Change) -> Vec<u8> {
        let action = match change {
            Change::Set(vertex) => return self.set_text(vertex),
            Change::Delete(vertex) => json!({"dvx": {"vx": vertex}}),
            Change::SetArc(s, d, t, a) => json!({"sarc": {"s": s, "d": d, "t": t, "a": a}}),
            Change::DeleteArc(s, d, t) => json!({"darc": {"s": s, "d": d, "t": t}}),
        };
        action.to_string().into_bytes()
    }

    fn set_text(&self, vertex: &Vertex) -> Vec<u8> {
        let mut text = b"{\"svx\":{\"vx\":".to_vec();
        text.extend(json!(vertex).to_string().bytes());
        if let Some((_, node)) = self.nodes.get(vertex) {
            text.extend_from_slice(b",\"o\":");
            text.extend_from_slice(&node.object);
            if let Some(release) = &node.release {
                text.extend_from_slice(b",\"hr\":");
                text.extend_from_slice(release);
            }
        }
        text.extend_from_slice(b"}}");
        text
    }
}

/// Objects of namespaces before those of none, among which namespaces are.
fn contents_first<'a>(
    vertices: impl Iterator<Item = &'a Vertex>,
) -> impl Iterator<Item = &'a Vertex> {
    sorted(vertices.map(|it| (it.namespace.is_empty(), it))).map(|(_, it)| it)
}

fn sorted<T: Ord>(all: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    let mut all: Vec<_> = all.collect();
    all.sort_unstable();
    all.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vertex(resource: &str, namespace: &str, name: &str) -> Vertex {
        Vertex {
            group: "".into(),
            version: "v1".into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    fn node(arcs: &[(&Vertex, ArcKind)], root: bool) -> Node {
        let arcs = arcs
            .iter()
            .map(|(to, kind)| (((*to).clone(), *kind), Attributes::default()));
        Node {
            object: Bytes::from_static(b"{}"),
            release: None,
            root,
            arcs: arcs.collect(),
        }
    }

    fn told(model: &mut Model) -> Vec<String> {
        let changes = model.tell();
        let texts = changes
            .iter()
            .map(|it| String::from_utf8(model.text(it)).unwrap());
        texts.collect()
    }

    #[test]
    fn only_what_changed_is_told_and_a_missing_destination_is_marked() {
        let (pod, secret) = (vertex("pods", "a", "p"), vertex("secrets", "a", "s"));
        let mut model = Model::default();
        model.set(pod.clone(), node(&[(&secret, ArcKind::Reference)], false));
        let set = r#"{"svx":{"vx":{"v":"v1","r":"pods","ns":"a","n":"p"},"o":{}}}"#;
        assert_eq!(
            told(&mut model),
            [set],
            "it is not known whether the secret exists"
        );
        assert!(told(&mut model).is_empty());

        model.complete.insert(("".into(), "secrets".into()));
        let arc = told(&mut model);
        assert!(
            arc[0].starts_with(r#"{"sarc":{"s":"#)
                && arc[0].ends_with(r#""t":"r","a":{"e":true}}}"#),
            "{arc:?}"
        );
        model.set(secret.clone(), node(&[], false));
        let arc = &told(&mut model)[1];
        assert!(arc.ends_with(r#""a":{}}}"#), "{arc}");

        model.remove(&secret);
        let anew = told(&mut model);
        let kinds: Vec<_> = anew.iter().map(|it| &it[2..6]).collect();
        assert_eq!(kinds, ["darc", "dvx\"", "sarc"], "{anew:?}");
        assert!(anew[2].ends_with(r#""t":"r","a":{"e":true}}}"#), "{anew:?}");
        model.set(secret.clone(), node(&[], false));
        assert_eq!(told(&mut model).len(), 2);

        model.unselect(secret);
        let gone = told(&mut model);
        assert!(
            gone[0].starts_with(r#"{"darc":"#) && gone[1].starts_with(r#"{"dvx":"#),
            "{gone:?}"
        );
        model.remove(&pod);
        assert_eq!(
            told(&mut model),
            [r#"{"dvx":{"vx":{"v":"v1","r":"pods","ns":"a","n":"p"}}}"#]
        );
    }

    #[test]
    fn a_namespace_comes_and_goes_after_what_is_in_it() {
        let (pod, namespace) = (vertex("pods", "a", "p"), vertex("namespaces", "", "a"));
        let mut model = Model::default();
        model.set(namespace.clone(), node(&[], false));
        model.set(pod.clone(), node(&[], false));
        let set = [Change::Set(pod.clone()), Change::Set(namespace.clone())];
        assert_eq!(model.tell(), set);

        model.remove(&namespace);
        model.remove(&pod);
        let gone = [Change::Delete(pod), Change::Delete(namespace)];
        assert_eq!(model.tell(), gone);
    }

    #[test]
    fn from_roots_only_what_can_be_reached_is_seen_and_namespaces_bound_it() {
        let (web, set, pod) = (
            vertex("d", "a", "web"),
            vertex("rs", "a", "web-1"),
            vertex("pods", "a", "p"),
        );
        let (other, account) = (vertex("pods", "a", "other"), vertex("sa", "b", "sa"));
        let of = |both_ways: &[ArcKind], namespaces: Option<&str>| {
            let mut model = Model {
                roots: Some(both_ways.to_vec()),
                namespaces: namespaces.map(|it| HashSet::from([it.into()])),
                ..Model::default()
            };
            model.set(web.clone(), node(&[], true));
            model.set(set.clone(), node(&[(&web, ArcKind::Owner)], false));
            model.set(
                pod.clone(),
                node(
                    &[(&set, ArcKind::Owner), (&account, ArcKind::Reference)],
                    false,
                ),
            );
            model.set(
                other.clone(),
                node(&[(&account, ArcKind::Reference)], false),
            );
            model.set(account.clone(), node(&[], false));
            let changes = model.tell();
            let mut names: Vec<_> = changes
                .into_iter()
                .filter_map(|it| match it {
                    Change::Set(vertex) => Some(vertex.name.to_string()),
                    _ => None,
                })
                .collect();
            names.sort_unstable();
            names
        };
        assert_eq!(of(&[], None), ["web"]);
        assert_eq!(of(&[ArcKind::Owner], None), ["p", "sa", "web", "web-1"]);
        assert_eq!(of(&[ArcKind::Owner], Some("a")), ["p", "web", "web-1"]);
        let all = [ArcKind::Owner, ArcKind::Reference];
        assert_eq!(of(&all, None), ["other", "p", "sa", "web", "web-1"]);
    }
}

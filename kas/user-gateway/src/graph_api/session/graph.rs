//! What is known of a cluster, from the feeds of a query, and what of that its client is told.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use control_plane::Identity;
use futures_util::{future::BoxFuture, stream::FuturesUnordered};
use runtime::shares::Share;
use serde_json::json;
use tonic::Code;

use super::{
    super::{
        Shared,
        discovery::{self, Resource},
        feed::{Common, Feed, Update},
        message::{End, Namespaces, Query, Selector, Vertex, Warning},
        model::{Change, MAX_OBJECTS, Model},
        references::Resources,
        selection::{self, Budget, Evaluator, Seen, Wanted},
    },
    write,
};
use crate::{
    caller::Caller,
    scope::Scope,
    websocket::{Writer, Writing},
};

/// The longest message to the client, unless one action is longer: it reads 4 MiB, and an object has less than two, and
/// a Helm release at most one.
const TOLD_BYTES: usize = 1 << 20;
/// Lists and watches of one query, at most.
const MAX_FEEDS: usize = 200;

type Step = BoxFuture<'static, (Feed, Result<Update, End>)>;

/// What is known of the cluster.
pub(super) struct Graph {
    model: Model,
    pub(super) feeds: FuturesUnordered<Step>,
    /// Of each feed that has not told all yet.
    incomplete: Vec<Resource>,
    bytes: Share<Identity>,
    warnings: Vec<Warning>,
    pub(super) changed: bool,
}

/// Finds out what there is, and begins to read what is wanted of it.
pub(super) async fn begin(
    caller: &Arc<Caller>,
    shared: &Shared,
    query: Query,
) -> Result<Graph, End> {
    let all = discovery::resources(caller).await.map_err(|status| {
        let reason = status["message"].as_str().unwrap_or_default();
        let code = match status["code"].as_u64() {
            Some(401) => Code::Unauthenticated,
            Some(403) => Code::PermissionDenied,
            _ => Code::Unavailable,
        };
        End::new(code, format!("what the cluster has is not known: {reason}"))
    })?;
    let budget = Arc::new(Budget::new());
    let kinds = all
        .iter()
        .map(|it| ((it.group.clone(), it.kind.clone()), it.plural.clone()));
    let mut resources = Resources {
        kinds: kinds.collect(),
        ..Resources::default()
    };
    let namespaces = all
        .iter()
        .find(|it| it.group.is_empty() && &*it.plural == "namespaces");
    let namespaces = namespaces.cloned();
    let included = selection::resources(&shared.evaluator, &query, all, &budget)?;
    for (resource, _) in &included {
        let key = (resource.group.clone(), resource.plural.clone());
        resources.seen.insert(key, resource.clone());
    }
    let who = caller.identity().clone();
    let bytes = shared.graph_bytes.take(who, 0).map_err(too_much)?;
    let mut graph = Graph {
        model: Model::default(),
        feeds: FuturesUnordered::new(),
        incomplete: Vec::new(),
        bytes,
        warnings: Vec::new(),
        changed: true,
    };
    graph.model.roots = query.roots.as_ref().map(|it| it.both_ways.clone());
    let common = Common {
        caller: caller.clone(),
        evaluator: shared.evaluator.clone(),
        pages: shared.pages.clone(),
        bytes: shared.event_bytes.clone(),
    };
    let roots = query.roots.map(|it| it.expressions).unwrap_or_default();
    let resources = Arc::new(resources);
    let wanted = |selector: Arc<Selector>| Wanted {
        selector,
        roots: roots.clone(),
        resources: resources.clone(),
        budget: budget.clone(),
    };
    let Namespaces { names, selector } = query.namespaces;
    if let Some(selector) = selector {
        let namespaces = namespaces
            .ok_or_else(|| End::new(Code::FailedPrecondition, "the cluster has no namespaces"))?;
        graph.model.namespaces = Some(HashSet::new());
        let wanted = Wanted {
            roots: Arc::default(),
            ..wanted(selector)
        };
        let feed = Feed::new(common.clone(), namespaces, String::new(), wanted);
        graph.feeds.push(Box::pin(feed.of_namespaces().next()));
    }
    let mut names: Vec<_> = names.iter().map(ToString::to_string).collect();
    if names.is_empty() {
        names.push(String::new());
    }
    for (resource, selector) in included {
        let names = if resource.namespaced {
            &names[..]
        } else {
            &[String::new()]
        };
        for name in names {
            if graph.feeds.len() >= MAX_FEEDS {
                let reason = format!(
                    "the query asks for more than {MAX_FEEDS} lists: name fewer resources or namespaces"
                );
                return Err(End::new(Code::ResourceExhausted, reason));
            }
            let wanted = wanted(selector.clone());
            let feed = Feed::new(common.clone(), resource.clone(), name.clone(), wanted);
            graph.incomplete.push(resource.clone());
            graph.feeds.push(Box::pin(feed.next()));
        }
    }
    Ok(graph)
}

fn too_much(full: runtime::shares::Full) -> End {
    let reason = format!("the objects of the graph take too much memory (bytes): {full}");
    End::new(Code::ResourceExhausted, reason)
}

impl Graph {
    /// A feed has told something.
    pub(super) fn take(&mut self, feed: Feed, update: Result<Update, End>) -> Result<(), End> {
        let update = update?;
        self.warnings.extend(update.warning);
        self.changed |=
            !update.seen.is_empty() || !self.warnings.is_empty() || update.all.is_some();
        if feed.tells_namespaces() {
            self.take_namespaces(update.seen, update.all.as_ref());
        } else {
            for seen in update.seen {
                self.see(seen)?;
            }
            if let Some(all) = update.all {
                let freed = self.model.keep(|it| feed.is_of(it), &all);
                self.bytes.shrink(freed);
                self.complete(feed.resource());
            }
        }
        if !update.over {
            self.feeds.push(Box::pin(feed.next()));
        }
        Ok(())
    }

    fn see(&mut self, seen: Seen) -> Result<(), End> {
        let freed = match seen {
            Seen::There(vertex, Some(node)) => {
                self.bytes.grow(node.bytes()).map_err(too_much)?;
                self.model.set(vertex, *node)
            }
            Seen::There(vertex, None) => self.model.unselect(vertex),
            Seen::Gone(vertex) => self.model.remove(&vertex),
        };
        self.bytes.shrink(freed);
        if self.model.objects() > MAX_OBJECTS {
            let reason = format!("the query is about more than {MAX_OBJECTS} objects");
            return Err(End::new(Code::ResourceExhausted, reason));
        }
        Ok(())
    }

    fn take_namespaces(&mut self, seen: Vec<Seen>, all: Option<&HashSet<Vertex>>) {
        let Some(known) = &mut self.model.namespaces else {
            return;
        };
        for seen in seen {
            match seen {
                Seen::There(vertex, Some(_)) => {
                    if known.len() < MAX_OBJECTS {
                        known.insert(vertex.name);
                    }
                }
                Seen::There(vertex, None) | Seen::Gone(vertex) => {
                    known.remove(&vertex.name);
                }
            }
        }
        if let Some(all) = all {
            let names: HashSet<_> = all.iter().map(|it| it.name.clone()).collect();
            known.retain(|it| names.contains(it));
        }
    }

    /// One feed of this resource has told all.
    fn complete(&mut self, resource: &Resource) {
        let is_same = |it: &Resource| it.group == resource.group && it.plural == resource.plural;
        if let Some(place) = self.incomplete.iter().position(is_same) {
            self.incomplete.swap_remove(place);
        }
        if !self.incomplete.iter().any(is_same) {
            let key = (resource.group.clone(), resource.plural.clone());
            self.model.complete.insert(key);
        }
    }

    /// Tells the client what has changed; says whether it took it.
    pub(super) async fn tell(
        &mut self,
        evaluator: &Evaluator,
        writer: &mut Writer,
        scope: &mut Scope,
    ) -> Result<bool, End> {
        self.changed = false;
        let mut model = std::mem::take(&mut self.model);
        let compared = evaluator.run(move || (model.tell(), model)).await?;
        let mut changes = compared.0;
        self.model = compared.1;
        let mut warnings = std::mem::take(&mut self.warnings);
        while !changes.is_empty() || !warnings.is_empty() {
            let text = told(&self.model, &mut changes, &std::mem::take(&mut warnings));
            if !write(Writing::Text(text), writer, scope).await {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A message of some changes.
fn told(model: &Model, changes: &mut VecDeque<Change>, warnings: &[Warning]) -> Vec<u8> {
    let mut actions: Vec<u8> = Vec::new();
    while let Some(change) = changes.pop_front() {
        let action = model.text(&change);
        if !actions.is_empty() {
            if actions.len() + action.len() > TOLD_BYTES {
                changes.push_front(change);
                break;
            }
            actions.push(b',');
        }
        actions.extend(action);
    }
    let warnings = match warnings {
        [] => String::new(),
        all => format!(",\"warnings\":{}", json!(all)),
    };
    [
        b"{\"actions\":[",
        &actions[..],
        b"]",
        warnings.as_bytes(),
        b"}",
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::{super::super::model::Node, *};
    use bytes::Bytes;

    #[test]
    fn a_message_ends_before_the_action_that_would_make_it_too_long() {
        let mut model = Model::default();
        for (name, length) in [
            ("a", 600 << 10),
            ("b", 600 << 10),
            ("c", 3 << 20),
            ("d", 10),
        ] {
            let vertex = Vertex {
                group: "".into(),
                version: "v1".into(),
                resource: "secrets".into(),
                namespace: "default".into(),
                name: name.into(),
            };
            let node = Node {
                object: Bytes::from(json!("x".repeat(length)).to_string()),
                release: None,
                root: false,
                arcs: Default::default(),
            };
            model.set(vertex, node);
        }
        let mut changes = model.tell();

        let messages: Vec<_> = std::iter::from_fn(|| {
            let more = !changes.is_empty();
            more.then(|| told(&model, &mut changes, &[]))
        })
        .collect();

        let lengths = messages.iter().map(|it| it.len() >> 10);
        assert_eq!(lengths.collect::<Vec<_>>(), [600, 600, 3 << 10, 0]);
    }
}

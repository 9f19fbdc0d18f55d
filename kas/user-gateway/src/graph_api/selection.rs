//! Which objects a query means: its expressions evaluated over each, away from the threads that serve, and within a
//! budget.

use std::{
    fmt,
    num::NonZero,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use cel::Env;
use serde_json::{Value, json};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;

use super::{
    discovery::Resource,
    expression::{Expression, ExpressionError, Variables},
    helm,
    message::{End, Query, Selector, Vertex},
    model::Node,
    references::Resources,
};

/// Steps that a query may take at once.
const STEPS: u64 = 100_000_000;
/// Steps that it gets anew each second.
const STEPS_PER_SECOND: u64 = 1_000_000;

/// Evaluates for all callers, one batch beside another only where there are processors for both.
#[derive(Clone)]
pub(super) struct Evaluator {
    env: Arc<Env>,
    running: Arc<Semaphore>,
}

impl fmt::Debug for Evaluator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Evaluator")
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

impl Default for Evaluator {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            env: Arc::new(Env::stdlib()),
            running: Arc::new(Semaphore::new((processors / 2).max(1))),
        }
    }
}

/// What a query's expressions may take.
#[derive(Debug)]
pub(super) struct Budget(Mutex<(u64, Instant)>);

impl Budget {
    /// All of it.
    pub(super) fn new() -> Self {
        Self(Mutex::new((STEPS, Instant::now())))
    }

    fn charge(&self, steps: u64) -> Result<(), End> {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = left.1.elapsed().as_secs();
        if seconds > 0 {
            let more = seconds.saturating_mul(STEPS_PER_SECOND);
            *left = (left.0.saturating_add(more).min(STEPS), Instant::now());
        }
        left.0 = left.0.checked_sub(steps).ok_or_else(|| {
            let reason = format!(
                "the query is too dear: its expressions may take {STEPS} steps, and {STEPS_PER_SECOND} more each second"
            );
            End::new(Code::ResourceExhausted, reason)
        })?;
        Ok(())
    }
}

/// What is looked for among the objects of a resource.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Which of them.
    pub(super) selector: Arc<Selector>,
    /// Which of these are roots.
    pub(super) roots: Arc<Vec<Expression>>,
    /// What they may lead to.
    pub(super) resources: Arc<Resources>,
    /// What all this may take.
    pub(super) budget: Arc<Budget>,
}

/// An object that was looked at: not there any more, not meant, or to be seen.
#[derive(Debug)]
pub(super) enum Seen {
    /// Its names, and what there is to be seen.
    There(Vertex, Option<Box<Node>>),
    /// The cluster has it no more.
    Gone(Vertex),
}

/// Resources with the rule that includes them. The first rule that holds decides, and of several versions of one
/// resource the first that is included.
pub(super) fn resources(
    evaluator: &Evaluator,
    query: &Query,
    all: Vec<Resource>,
    budget: &Budget,
) -> Result<Vec<(Resource, Arc<Selector>)>, End> {
    let mut included: Vec<(Resource, Arc<Selector>)> = Vec::new();
    for resource in all {
        let is_same = |it: &Resource| it.group == resource.group && it.plural == resource.plural;
        if included.iter().any(|(it, _)| is_same(it)) {
            continue;
        }
        let variables = Variables::default()
            .with("group", &json!(*resource.group))
            .with("version", &json!(*resource.version))
            .with("resource", &json!(*resource.plural))
            .with("namespaced", &json!(resource.namespaced));
        for rule in &query.rules {
            if holds(&rule.resources, evaluator, &variables, budget)? {
                if let Some(selector) = &rule.include {
                    included.push((resource, selector.clone()));
                }
                break;
            }
        }
    }
    Ok(included)
}

fn holds(
    expression: &Expression,
    evaluator: &Evaluator,
    of: &Variables,
    budget: &Budget,
) -> Result<bool, End> {
    let invalid = |error: ExpressionError| End::new(Code::InvalidArgument, error.to_string());
    let steps = expression.steps(of).map_err(invalid)?;
    budget.charge(steps)?;
    match expression.is_true(&evaluator.env, of) {
        Ok(is) => Ok(is),
        // An object without what an expression looks at is not meant by it.
        Err(ExpressionError::Failed(_)) => Ok(false),
        Err(error) => Err(invalid(error)),
    }
}

impl Evaluator {
    /// Looks at objects of a resource.
    ///
    /// # Errors
    /// The end of a query that is wrong or too dear.
    pub(super) async fn look(
        &self,
        wanted: Wanted,
        resource: Resource,
        objects: Vec<(Value, bool)>,
    ) -> Result<Vec<Seen>, End> {
        let evaluator = self.clone();
        self.run(move || {
            let all = objects.into_iter();
            all.map(|(object, there)| evaluator.look_at(&wanted, &resource, &object, there))
                .collect()
        })
        .await?
    }

    /// Does what takes a while away from the threads that serve, after what others have asked for before.
    ///
    /// # Errors
    /// Where it panics.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, End> {
        let running = self.running.clone();
        // A task of its own: a turn that comes must be taken at once, though its caller waits for something else.
        let working = AbortOnDropHandle::new(tokio::spawn(async move {
            let turn = running.acquire_owned().await;
            let work = move || {
                let _turn = turn;
                work()
            };
            tokio::task::spawn_blocking(work).await
        }));
        let failed = |error: tokio::task::JoinError| End::new(Code::Internal, error.to_string());
        working.await.map_err(failed)?.map_err(failed)
    }

    fn look_at(
        &self,
        wanted: &Wanted,
        resource: &Resource,
        object: &Value,
        there: bool,
    ) -> Result<Seen, End> {
        let metadata = &object["metadata"];
        let text = |name: &str| metadata[name].as_str().unwrap_or_default();
        let vertex = Vertex {
            group: resource.group.clone(),
            version: resource.version.clone(),
            resource: resource.plural.clone(),
            namespace: text("namespace").into(),
            name: text("name").into(),
        };
        if !there {
            return Ok(Seen::Gone(vertex));
        }
        let expressions = wanted.selector.expression.iter().chain(&*wanted.roots);
        let mut variables = Variables::default();
        if expressions.count() > 0 {
            let map = |name: &str| match &metadata[name] {
                map @ Value::Object(_) => map.clone(),
                _ => json!({}),
            };
            variables = variables
                .with("obj", object)
                .with("group", &json!(*resource.group))
                .with("version", &json!(*resource.version))
                .with("resource", &json!(*resource.plural))
                .with("namespace", &json!(text("namespace")))
                .with("name", &json!(text("name")))
                .with("labels", &map("labels"))
                .with("annotations", &map("annotations"));
        }
        let holds = |it: &Expression| holds(it, self, &variables, &wanted.budget);
        if let Some(expression) = &wanted.selector.expression
            && !holds(expression)?
        {
            return Ok(Seen::There(vertex, None));
        }
        let mut root = false;
        for expression in wanted.roots.iter() {
            root = root || holds(expression)?;
        }
        let is_secret = resource.group.is_empty() && &*resource.plural == "secrets";
        let release = is_secret.then(|| helm::release(object)).flatten();
        let release = release.map(|it| Bytes::from(it.to_string()));
        let node = Node {
            arcs: wanted.resources.arcs(&vertex, object),
            object: Bytes::from(object.to_string()),
            release: release.filter(|it| it.len() <= helm::MAX_SHOWN_BYTES),
            root,
        };
        Ok(Seen::There(vertex, Some(Box::new(node))))
    }
}

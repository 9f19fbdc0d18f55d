//! Queries of a graph, for the fuzz targets (`tests/fuzz`).

use std::io::Write;

use base64::{Engine, prelude::BASE64_STANDARD};
use cel::Env;
use serde_json::{Value, json};

use super::{
    expression::{Expression, Variables},
    helm,
    message::Query,
};

/// Evaluations that take more steps are not made here: the fuzz targets are to be fast.
const MAX_STEPS: u64 = 100_000;

/// What was made of a query.
#[derive(Debug, Default)]
pub struct Evaluated {
    /// Bytes of the answer to who asked, if it was refused.
    pub refusal: usize,
    /// Expressions that were evaluated.
    pub expressions: usize,
}

pub(crate) fn query(text: &[u8], object: &[u8]) -> Evaluated {
    let mut evaluated = Evaluated::default();
    let query = match Query::read(text) {
        Ok(query) => query,
        Err(error) => {
            evaluated.refusal = error.to_string().len();
            return evaluated;
        }
    };
    let Ok(object) = serde_json::from_slice::<Value>(object) else {
        return evaluated;
    };
    let variables = Variables::default()
        .with("obj", &object)
        .with("group", &json!("apps"))
        .with("version", &json!("v1"))
        .with("resource", &json!("deployments"))
        .with("namespaced", &json!(true))
        .with("name", &json!("web"))
        .with("labels", &json!({"app": "web"}));
    let env = std::sync::Arc::new(Env::stdlib());
    let of_namespaces = query.namespaces.selector.as_ref();
    let of_namespaces = of_namespaces.and_then(|it| it.expression.as_ref());
    let resources = query.rules.iter().map(|it| &it.resources);
    let objects = (query.rules.iter()).filter_map(|it| it.include.as_ref()?.expression.as_ref());
    let roots = query.roots.iter().flat_map(|it| it.expressions.iter());
    let all = resources.chain(objects).chain(roots).chain(of_namespaces);
    for expression in all {
        evaluate(expression, &env, &variables, &mut evaluated);
    }
    evaluated
}

fn evaluate(
    expression: &Expression,
    env: &std::sync::Arc<Env>,
    variables: &Variables,
    evaluated: &mut Evaluated,
) {
    match expression.steps(variables) {
        Ok(steps) if steps <= MAX_STEPS => {
            evaluated.expressions += 1;
            if let Err(error) = expression.is_true(env, variables) {
                evaluated.refusal = evaluated.refusal.max(error.to_string().len());
            }
        }
        Ok(_) => {}
        Err(error) => evaluated.refusal = evaluated.refusal.max(error.to_string().len()),
    }
}

pub(crate) fn helm_release(zipped: &[u8]) -> Option<usize> {
    let outer = BASE64_STANDARD.encode(BASE64_STANDARD.encode(zipped));
    let secret =
        json!({"kind": "Secret", "type": "helm.sh/release.v1", "data": {"release": outer}});
    let mut length = Length(0);
    serde_json::to_writer(&mut length, &helm::release(&secret)?).ok()?;
    Some(length.0)
}

/// Counts what is written.
struct Length(usize);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

//! CEL expressions of a query: compiled once, and evaluated with a bound on what an evaluation may cost.
//!
//! The interpreter has no cost limit of its own. So the cost is bounded before ([`bounds`]): what might be too dear is
//! refused, and never begun. Not bounded in steps, but by the length of expressions: parsing, and compiling a regular
//! expression.

mod bounds;

use std::{collections::HashMap, sync::Arc};

use cel::{
    Context, Env, ExecutionError, IdedExpr, Value as CelValue, objects::Key, parser::PrattParser,
};
use serde_json::Value;

use bounds::Size;

/// The longest expression, in bytes.
const MAX_EXPRESSION_BYTES: usize = 4 << 10;
/// How deep expressions may be nested.
const MAX_DEPTH: u16 = 32;
/// How many nodes an expression has at most, macros expanded.
const MAX_NODES: usize = 2_000;
/// What one evaluation may cost, in steps.
const MAX_STEPS: u64 = 4_000_000;
/// Characters of an error that are shown.
const MAX_ERROR_CHARACTERS: usize = 200;
/// What is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ExpressionError {
    /// It is too long.
    #[error("an expression has at most {MAX_EXPRESSION_BYTES} bytes")]
    TooLong,
    /// It cannot be parsed.
    #[error("the expression {0:?} is not valid: {1}")]
    Invalid(String, String),
    /// It is nested too deeply.
    #[error("the expression is nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    /// It would cost too much.
    #[error(
        "the expression is too dear: it may take {0} steps, of which an evaluation has {MAX_STEPS}"
    )]
    TooDear(u64),
    /// It names what there is not.
    #[error("the expression is not valid: {0}")]
    Unknown(String),
    /// It failed.
    #[error("the expression failed: {0}")]
    Failed(String),
    /// It gives something else than true or false.
    #[error("the expression must give true or false")]
    NotBool,
}

/// A compiled expression that gives true or false.
#[derive(Debug)]
pub(super) struct Expression(IdedExpr);

/// Variables that expressions know.
#[derive(Debug, Default)]
pub(super) struct Variables(Vec<(&'static str, CelValue, Size)>);

impl Expression {
    /// Compiles one.
    pub(super) fn compile(text: &str) -> Result<Self, ExpressionError> {
        if text.len() > MAX_EXPRESSION_BYTES {
            return Err(ExpressionError::TooLong);
        }
        if nesting(text) > usize::from(MAX_DEPTH) {
            return Err(ExpressionError::TooDeep);
        }
        let parser = PrattParser::new()
            .max_recursion_depth(MAX_DEPTH)
            .max_expression_node_count(MAX_NODES);
        let parsed = parser.parse(text).map_err(|errors| {
            let text: String = text.chars().take(64).collect();
            ExpressionError::Invalid(text, shown(&errors))
        })?;
        // Chains of operators nest as well.
        bounds::steps(&parsed, Vec::new())?;
        Ok(Self(parsed))
    }

    /// How many steps it may take to evaluate it.
    ///
    /// # Errors
    /// Where that is more than one evaluation has.
    pub(super) fn steps(&self, of: &Variables) -> Result<u64, ExpressionError> {
        let known =
            of.0.iter()
                .map(|(name, _, size)| ((*name).to_owned(), *size));
        let steps = bounds::steps(&self.0, known.collect())?;
        if steps > MAX_STEPS {
            return Err(ExpressionError::TooDear(steps));
        }
        Ok(steps)
    }

    /// Evaluates it, which takes no more than [`Self::steps`].
    ///
    /// # Errors
    /// Where it cannot be evaluated over this.
    pub(super) fn is_true(&self, env: &Arc<Env>, of: &Variables) -> Result<bool, ExpressionError> {
        let mut context = Context::with_env(env.clone());
        for (name, value, _) in &of.0 {
            context.add_variable_from_value(*name, value.clone());
        }
        match CelValue::resolve(&self.0, &context) {
            Ok(CelValue::Bool(it)) => Ok(it),
            Ok(_) => Err(ExpressionError::NotBool),
            Err(error) => {
                let text = shown(&error);
                Err(match error {
                    ExecutionError::UndeclaredReference(_) => ExpressionError::Unknown(text),
                    _ => ExpressionError::Failed(text),
                })
            }
        }
    }
}

impl Variables {
    /// Adds one.
    pub(super) fn with(mut self, name: &'static str, value: &Value) -> Self {
        let mut size = Size::of_scalar(0);
        let value = convert(value, &mut size);
        self.0.push((name, value, size));
        self
    }
}

/// The beginning of an error's text: the parser shows the whole expression once for each mistake in it.
fn shown(error: &impl ToString) -> String {
    error
        .to_string()
        .chars()
        .take(MAX_ERROR_CHARACTERS)
        .collect()
}

/// How deep brackets are nested, at most: those in texts count too.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// The value as CEL has it: whole numbers are `int`, as in Kubernetes.
fn convert(value: &Value, size: &mut Size) -> CelValue {
    size.total = size.total.saturating_add(1);
    match value {
        Value::Null => CelValue::Null,
        Value::Bool(it) => CelValue::Bool(*it),
        Value::Number(it) => match it.as_i64() {
            Some(it) => CelValue::Int(it),
            None => CelValue::Float(it.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(it) => {
            size.total = size.total.saturating_add(it.len() as u64);
            CelValue::String(Arc::new(it.clone()))
        }
        Value::Array(all) => {
            size.elements = size.elements.max(all.len() as u64);
            let all: Vec<_> = all.iter().map(|it| convert(it, size)).collect();
            CelValue::List(all.into())
        }
        Value::Object(all) => {
            size.elements = size.elements.max(all.len() as u64);
            let mut map = HashMap::with_capacity(all.len());
            for (key, value) in all {
                size.total = size.total.saturating_add(key.len() as u64 + 1);
                map.insert(Key::String(Arc::new(key.clone())), convert(value, size));
            }
            CelValue::Map(cel::objects::Map { map: Arc::new(map) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(object: &Value) -> Variables {
        Variables::default()
            .with("obj", object)
            .with("group", &json!("apps"))
            .with("labels", &object["metadata"]["labels"])
    }

    fn evaluate(text: &str, object: &Value) -> Result<bool, ExpressionError> {
        let env = Arc::new(Env::stdlib());
        let expression = Expression::compile(text)?;
        let variables = of(object);
        expression.steps(&variables)?;
        expression.is_true(&env, &variables)
    }

    #[test]
    fn expressions_see_objects_as_they_are() {
        let object = json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {"replicas": 2, "containers": [{"image": "a/b:1"}, {"image": "c"}]},
        });
        for (text, expected) in [
            ("group == 'apps' && labels['app'] == 'web'", true),
            ("group in ['', 'batch']", false),
            ("obj.spec.replicas + 1 == 3", true),
            (
                "obj.spec.containers.exists(c, c.image.startsWith('a/'))",
                true,
            ),
            (
                "obj.spec.containers.map(c, c.image) == ['a/b:1', 'c']",
                true,
            ),
            ("has(obj.status)", false),
            ("labels['app'].matches('^w.b$')", true),
        ] {
            assert_eq!(evaluate(text, &object), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let object = json!({});
        let deep = format!("{}1{}", "(".repeat(200), ")".repeat(200));
        let chain = format!("1{} == 1", " + 1".repeat(900));
        for text in ["1 +", "group ==", &deep, &chain, &"x".repeat(5000)] {
            assert!(Expression::compile(text).is_err(), "{text:.40}");
        }
        assert_eq!(evaluate("1", &object), Err(ExpressionError::NotBool));
        let unknown = evaluate("nope == 1", &object).unwrap_err();
        assert!(matches!(unknown, ExpressionError::Unknown(_)), "{unknown}");
        let failed = evaluate("obj.nope == 1", &object).unwrap_err();
        assert!(matches!(failed, ExpressionError::Failed(_)), "{failed}");
    }

    #[test]
    fn what_may_take_too_long_is_never_begun() {
        let object = json!({"l": vec![1; 10_000], "text": "x".repeat(1 << 20)});
        let nested = "obj.l.all(a, obj.l.all(b, obj.l.all(c, a + b + c > 0)))";
        let compared = "obj.l.all(a, obj == obj)";
        let copied = "obj.l.map(a, obj.text + obj.text).size() > 0";
        for text in [nested, compared, copied] {
            let refused = evaluate(text, &object).unwrap_err();
            assert!(
                matches!(refused, ExpressionError::TooDear(_)),
                "{text}: {refused}"
            );
        }
        assert_eq!(evaluate("obj.l.all(a, a == 1)", &object), Ok(true));
        assert_eq!(evaluate("obj.text.contains('y')", &object), Ok(false));
    }
}

//! CEL expressions of a query: compiled once, and evaluated with a bound on what an evaluation may cost.
//!
//! The interpreter has no cost limit of its own. So the cost is bounded before: an abstract evaluation, over an object
//! of so many bytes whose containers have so many elements, gives more steps than the real one can take. What might be
//! too dear is refused, and never begun. Not bounded in steps, but by the length of expressions: parsing, and compiling
//! a regular expression.

use std::{collections::HashMap, sync::Arc};

use cel::{
    Context, Env, ExecutionError, IdedExpr, Value as CelValue,
    common::ast::{EntryExpr, Expr, LiteralValue},
    objects::Key,
    parser::PrattParser,
};
use serde_json::Value;

/// The longest expression, in bytes.
const MAX_EXPRESSION_BYTES: usize = 4 << 10;
/// How deep expressions may be nested.
const MAX_DEPTH: u16 = 32;
/// How many nodes an expression has at most, macros expanded.
const MAX_NODES: usize = 2_000;
/// What one evaluation may cost, in steps.
const MAX_STEPS: u64 = 4_000_000;
/// Steps a byte that a regular expression looks at.
const REGEX_STEPS: u64 = 16;
/// Steps that compiling one takes.
const REGEX_COMPILE_STEPS: u64 = 50_000;

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

/// How large a value may be.
#[derive(Debug, Clone, Copy)]
struct Size {
    /// Bytes of all texts in it, and one for each other value.
    total: u64,
    /// Elements of its largest container.
    elements: u64,
    /// Whether it is a list for certain.
    list: bool,
}

/// What evaluating something costs, and how large the outcome is.
#[derive(Debug, Clone, Copy)]
struct Bound {
    steps: u64,
    size: Size,
}

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
            ExpressionError::Invalid(text, errors.to_string())
        })?;
        // Chains of operators nest as well.
        let mut probe = Bounds {
            scope: Vec::new(),
            other: Size::of_scalar(1),
        };
        probe.of(&parsed, 0)?;
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
        let mut bounds = Bounds {
            scope: known.collect(),
            other: Size::of_scalar(1),
        };
        let steps = bounds.of(&self.0, 0)?.steps;
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
                let text: String = error.to_string().chars().take(200).collect();
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

impl Size {
    fn of_scalar(total: u64) -> Self {
        Self {
            total,
            elements: 0,
            list: false,
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            total: self.total.saturating_add(other.total),
            elements: self.elements.saturating_add(other.elements),
            list: self.list || other.list,
        }
    }

    /// What it costs to join it to another: elements of lists are not looked into.
    fn joining(self) -> u64 {
        if self.list { self.elements } else { self.total }
    }
}

/// The abstract evaluation.
#[derive(Debug)]
struct Bounds {
    /// Variables, the innermost last.
    scope: Vec<(String, Size)>,
    /// Of what is not known.
    other: Size,
}

impl Bounds {
    fn of(&mut self, expression: &IdedExpr, depth: u16) -> Result<Bound, ExpressionError> {
        // What a macro becomes is nested deeper than it was written.
        if depth > MAX_DEPTH * 4 {
            return Err(ExpressionError::TooDeep);
        }
        let depth = depth + 1;
        Ok(match &expression.expr {
            Expr::Unspecified => Bound::of(1, self.other),
            Expr::Literal(LiteralValue::String(it)) => {
                Bound::of(1, Size::of_scalar(it.inner().len() as u64 + 1))
            }
            Expr::Literal(LiteralValue::Bytes(it)) => {
                Bound::of(1, Size::of_scalar(it.inner().len() as u64 + 1))
            }
            Expr::Literal(_) => Bound::of(1, Size::of_scalar(1)),
            Expr::Ident(name) => {
                let known = self.scope.iter().rev().find(|(it, _)| it == name);
                Bound::of(1, known.map_or(self.other, |(_, size)| *size))
            }
            Expr::Select(select) => {
                let of = self.of(&select.operand, depth)?;
                let size = Size {
                    list: false,
                    ..of.size
                };
                Bound::of(of.steps.saturating_add(1), size)
            }
            Expr::Call(call) => {
                let mut arguments = Vec::with_capacity(call.args.len() + 1);
                for argument in call.target.as_deref().into_iter().chain(&call.args) {
                    arguments.push(self.of(argument, depth)?);
                }
                of_call(&call.func_name, &arguments)
            }
            Expr::List(list) => {
                let mut all = Bound::of(1, Size::of_scalar(1));
                for element in &list.elements {
                    all = all.and(self.of(element, depth)?);
                }
                all.size.elements = all.size.elements.max(list.elements.len() as u64);
                all.size.list = true;
                all
            }
            Expr::Map(map) => {
                let mut all = Bound::of(1, Size::of_scalar(1));
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        all = all.and(self.of(&entry.key, depth)?);
                        all = all.and(self.of(&entry.value, depth)?);
                    }
                }
                all.size.elements = all.size.elements.max(map.entries.len() as u64);
                all.size.list = false;
                all
            }
            Expr::Struct(_) => {
                let message = "messages cannot be made";
                return Err(ExpressionError::Failed(message.to_owned()));
            }
            Expr::Comprehension(loops) => {
                let range = self.of(&loops.iter_range, depth)?;
                let start = self.of(&loops.accu_init, depth)?;
                let times = range.size.elements.min(range.size.total);
                let scope = self.scope.len();
                let element = Size {
                    list: false,
                    ..range.size
                };
                self.scope.push((loops.iter_var.clone(), element));
                if let Some(second) = &loops.iter_var2 {
                    self.scope.push((second.clone(), element));
                }
                // What one turn adds, and then what there is at most behind all of them.
                self.scope.push((loops.accu_var.clone(), start.size));
                let added = self.of(&loops.loop_step, depth)?.size;
                let all = Size {
                    total: start
                        .size
                        .total
                        .saturating_add(times.saturating_mul(added.total)),
                    elements: (start.size.elements)
                        .saturating_add(times.saturating_mul(added.elements.max(1))),
                    list: start.size.list,
                };
                let accumulator = self.scope.len() - 1;
                self.scope[accumulator].1 = all;
                let turn = self
                    .of(&loops.loop_cond, depth)?
                    .and(self.of(&loops.loop_step, depth)?);
                let result = self.of(&loops.result, depth)?;
                self.scope.truncate(scope);
                let steps = range
                    .steps
                    .saturating_add(start.steps)
                    .saturating_add(result.steps);
                let steps =
                    steps.saturating_add(times.saturating_mul(turn.steps.saturating_add(1)));
                Bound::of(steps, result.size)
            }
        })
    }
}

impl Bound {
    fn of(steps: u64, size: Size) -> Self {
        Self { steps, size }
    }

    fn and(self, other: Self) -> Self {
        Self {
            steps: self.steps.saturating_add(other.steps),
            size: self.size.and(other.size),
        }
    }
}

/// A function or an operator, of which more is not known than its name.
fn of_call(name: &str, arguments: &[Bound]) -> Bound {
    let nothing = Bound::of(1, Size::of_scalar(0));
    let all = arguments.iter().fold(nothing, |all, it| all.and(*it));
    let sizes = || arguments.iter().map(|it| it.size);
    let sum = sizes().fold(0, |sum: u64, size| sum.saturating_add(size.total));
    let least = sizes().map(|size| size.total).min().unwrap_or(0);
    let (steps, size) = match name {
        "_&&_" | "_||_" | "!_" | "@not_strictly_false" | "size" | "type" => (0, Size::of_scalar(8)),
        "_?_:_" | "_[_]" | "dyn" => (
            0,
            Size {
                list: false,
                ..all.size
            },
        ),
        "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" | "startsWith" | "endsWith" => {
            (least, Size::of_scalar(1))
        }
        "_+_" => (
            sizes().fold(0, |sum, size| size.joining().saturating_add(sum)),
            all.size,
        ),
        "@in" | "in" | "contains" => (sum, Size::of_scalar(1)),
        "matches" => {
            let steps = sum.saturating_mul(REGEX_STEPS);
            (
                steps.saturating_add(REGEX_COMPILE_STEPS),
                Size::of_scalar(1),
            )
        }
        _ => (sum, all.size),
    };
    Bound::of(all.steps.saturating_add(steps), size)
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

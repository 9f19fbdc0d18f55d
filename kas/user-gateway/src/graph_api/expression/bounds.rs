//! What evaluating an expression may cost at most: an abstract evaluation, over an object of so many bytes whose
//! containers have so many elements, gives more steps than the real one can take.

use cel::{
    IdedExpr,
    common::ast::{EntryExpr, Expr, LiteralValue},
};

use super::{ExpressionError, MAX_DEPTH};

/// Steps a byte that a regular expression looks at.
const REGEX_STEPS: u64 = 16;
/// Steps that compiling one takes.
const REGEX_COMPILE_STEPS: u64 = 50_000;

/// How large a value may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// Bytes of all texts in it, and one for each other value.
    pub(super) total: u64,
    /// Elements of its largest container.
    pub(super) elements: u64,
    /// Whether it is a list for certain.
    list: bool,
}

/// What evaluating something costs, and how large the outcome is.
#[derive(Debug, Clone, Copy)]
struct Bound {
    steps: u64,
    size: Size,
}

/// How many steps an expression may take, where these variables are so large.
///
/// # Errors
/// Where it is nested too deeply, or no expression of a query.
pub(super) fn steps(
    expression: &IdedExpr,
    variables: Vec<(String, Size)>,
) -> Result<u64, ExpressionError> {
    let mut bounds = Bounds {
        scope: variables,
        other: Size::of_scalar(1),
    };
    Ok(bounds.of(expression, 0)?.steps)
}

impl Size {
    pub(super) fn of_scalar(total: u64) -> Self {
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

//! What client and kas say to each other. Inferred are: the numbers of errors, which are those of gRPC; the types of
//! warnings; and what a Helm release consists of.

use std::sync::Arc;

use runtime::names::Label;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use tonic::Code;

use super::expression::{Expression, ExpressionError};

/// Expressions of one query, at most.
const MAX_EXPRESSIONS: usize = 100;
/// Namespaces that a query may name.
const MAX_NAMESPACES: usize = 100;
/// The longest selector, in bytes.
const MAX_SELECTOR_BYTES: usize = 4 << 10;

/// What is wrong with a query.
#[derive(Debug, thiserror::Error)]
pub(super) enum QueryError {
    /// It has not the form of one.
    #[error("the query is not understood: {0}")]
    Json(#[from] serde_json::Error),
    /// An expression is wrong.
    #[error("{0}: {1}")]
    Expression(&'static str, #[source] ExpressionError),
    /// It has too much of something.
    #[error("the query has more than {0} {1}")]
    TooMany(usize, &'static str),
    /// A namespace is none.
    #[error("namespaces: {0}")]
    Namespace(#[from] runtime::names::InvalidName),
    /// It asks for what is not known how to do.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// It selects nothing.
    #[error("the query includes nothing: queries is empty")]
    Empty,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    queries: Vec<WantedRule>,
    #[serde(default)]
    namespaces: Option<WantedNamespaces>,
    #[serde(default)]
    roots: Option<WantedRoots>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum WantedRule {
    Include(WantedInclude),
    Exclude(WantedExclude),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedInclude {
    resource_selector_expression: String,
    #[serde(default)]
    object: Option<WantedObjects>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedExclude {
    resource_selector_expression: String,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct WantedObjects {
    label_selector: String,
    field_selector: String,
    object_selector_expression: String,
    json_path: String,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct WantedNamespaces {
    names: Vec<String>,
    label_selector: String,
    field_selector: String,
    object_selector_expression: String,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct WantedRoots {
    object_selector_expressions: Vec<String>,
    ignore_arc_direction: Vec<ArcKind>,
}

/// What a client wants to see.
#[derive(Debug)]
pub(super) struct Query {
    /// Which resources, of which the first rule decides that holds for one.
    pub(super) rules: Vec<Rule>,
    /// Objects of which namespaces.
    pub(super) namespaces: Namespaces,
    /// From where to go, if not everything is wanted.
    pub(super) roots: Option<Roots>,
}

/// Resources that are to be seen or not.
#[derive(Debug)]
pub(super) struct Rule {
    /// For which resources it holds.
    pub(super) resources: Expression,
    /// Which of their objects, or none.
    pub(super) include: Option<Arc<Selector>>,
}

/// Some objects of a resource.
#[derive(Debug, Default)]
pub(super) struct Selector {
    /// As Kubernetes has it.
    pub(super) labels: String,
    /// As Kubernetes has it.
    pub(super) fields: String,
    /// Whether an object is meant.
    pub(super) expression: Option<Expression>,
}

/// Namespaces whose objects are to be seen: those that are named and selected.
#[derive(Debug)]
pub(super) struct Namespaces {
    /// These; all where there are none.
    pub(super) names: Vec<Label>,
    /// Those that it selects; `None` for all.
    pub(super) selector: Option<Arc<Selector>>,
}

/// Objects to begin with.
#[derive(Debug)]
pub(super) struct Roots {
    /// Whether an object is one.
    pub(super) expressions: Arc<Vec<Expression>>,
    /// Arcs that are followed both ways.
    pub(super) both_ways: Vec<ArcKind>,
}

/// What leads from one object to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum ArcKind {
    /// To the owner.
    #[serde(rename = "or")]
    Owner,
    /// To what the object uses.
    #[serde(rename = "r")]
    Reference,
    /// To what objects that this one makes will use.
    #[serde(rename = "t")]
    Transitive,
}

impl Query {
    /// Reads the first message.
    pub(super) fn read(text: &[u8]) -> Result<Self, QueryError> {
        let wanted: Wanted = serde_json::from_slice(text)?;
        let roots = wanted.roots.unwrap_or_default();
        let more = roots.object_selector_expressions.len();
        if wanted.queries.len() + more > MAX_EXPRESSIONS {
            return Err(QueryError::TooMany(MAX_EXPRESSIONS, "expressions"));
        }
        if wanted.queries.is_empty() {
            return Err(QueryError::Empty);
        }
        let rules = wanted.queries.into_iter().map(Rule::of);
        Ok(Self {
            rules: rules.collect::<Result<_, _>>()?,
            namespaces: Namespaces::of(wanted.namespaces.unwrap_or_default())?,
            roots: Roots::of(roots)?,
        })
    }
}

impl Rule {
    fn of(wanted: WantedRule) -> Result<Self, QueryError> {
        let (text, include) = match wanted {
            WantedRule::Exclude(exclude) => (exclude.resource_selector_expression, None),
            WantedRule::Include(include) => {
                let objects = include.object.unwrap_or_default();
                if !objects.json_path.is_empty() {
                    return Err(QueryError::Unsupported("json_path"));
                }
                let selector = Selector::of(
                    objects.label_selector,
                    objects.field_selector,
                    &objects.object_selector_expression,
                )?;
                (
                    include.resource_selector_expression,
                    Some(Arc::new(selector)),
                )
            }
        };
        let resources = compile("resource_selector_expression", &text)?;
        Ok(Self { resources, include })
    }
}

impl Selector {
    fn of(labels: String, fields: String, expression: &str) -> Result<Self, QueryError> {
        if labels.len().max(fields.len()) > MAX_SELECTOR_BYTES {
            return Err(QueryError::TooMany(
                MAX_SELECTOR_BYTES,
                "bytes in a selector",
            ));
        }
        let expression = match expression {
            "" => None,
            text => Some(compile("object_selector_expression", text)?),
        };
        Ok(Self {
            labels,
            fields,
            expression,
        })
    }
}

impl Namespaces {
    fn of(wanted: WantedNamespaces) -> Result<Self, QueryError> {
        if wanted.names.len() > MAX_NAMESPACES {
            return Err(QueryError::TooMany(MAX_NAMESPACES, "namespaces"));
        }
        let names = wanted.names.iter().map(|it| Label::parse(it));
        let mut names: Vec<_> = names.collect::<Result<_, _>>()?;
        names.sort_unstable();
        names.dedup();
        let selector = Selector::of(
            wanted.label_selector,
            wanted.field_selector,
            &wanted.object_selector_expression,
        )?;
        let selects = !selector.labels.is_empty()
            || !selector.fields.is_empty()
            || selector.expression.is_some();
        let selector = selects.then(|| Arc::new(selector));
        Ok(Self { names, selector })
    }
}

impl Roots {
    fn of(wanted: WantedRoots) -> Result<Option<Self>, QueryError> {
        if wanted.object_selector_expressions.is_empty() {
            return Ok(None);
        }
        let texts = wanted.object_selector_expressions.iter();
        let expressions = texts
            .map(|it| compile("roots", it))
            .collect::<Result<_, _>>()?;
        Ok(Some(Self {
            expressions: Arc::new(expressions),
            both_ways: wanted.ignore_arc_direction,
        }))
    }
}

fn compile(what: &'static str, text: &str) -> Result<Expression, QueryError> {
    Expression::compile(text).map_err(|error| QueryError::Expression(what, error))
}

/// An object by its names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub(super) struct Vertex {
    /// Its group; empty for the core group.
    #[serde(
        rename = "g",
        serialize_with = "text",
        skip_serializing_if = "str::is_empty"
    )]
    pub(super) group: Arc<str>,
    /// The version in which it is seen.
    #[serde(rename = "v", serialize_with = "text")]
    pub(super) version: Arc<str>,
    /// The plural of its resource.
    #[serde(rename = "r", serialize_with = "text")]
    pub(super) resource: Arc<str>,
    /// Its namespace, if it has one.
    #[serde(
        rename = "ns",
        serialize_with = "text",
        skip_serializing_if = "str::is_empty"
    )]
    pub(super) namespace: Arc<str>,
    /// Its name.
    #[serde(rename = "n", serialize_with = "text")]
    pub(super) name: Arc<str>,
}

fn text<S: Serializer>(it: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(it)
}

/// What is to be known of an arc.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Attributes {
    /// The owner is the controller.
    #[serde(rename = "c", skip_serializing_if = "is_false")]
    pub(super) controller: bool,
    /// The owner waits for this object when it is deleted.
    #[serde(rename = "b", skip_serializing_if = "is_false")]
    pub(super) block_owner_deletion: bool,
    /// The destination does not exist.
    #[serde(rename = "e", skip_serializing_if = "is_false")]
    pub(super) missing: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(it: &bool) -> bool {
    !it
}

/// Something that is not as it was wanted.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Warning {
    /// Of which type.
    #[serde(rename = "t")]
    pub(super) kind: &'static str,
    /// What it is.
    #[serde(rename = "m")]
    pub(super) message: String,
    /// What it is about.
    #[serde(rename = "a")]
    pub(super) attributes: Value,
}

/// Why a conversation ends.
#[derive(Debug)]
pub(super) struct End {
    /// As gRPC has it.
    pub(super) code: Code,
    /// The reason.
    pub(super) reason: String,
}

impl End {
    /// An end for this reason.
    pub(super) fn new(code: Code, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { code, reason }
    }

    /// The message that says so.
    pub(super) fn text(&self) -> Vec<u8> {
        let error = serde_json::json!({"error": {
            "code": self.code as i32, "code_string": format!("{:?}", self.code), "reason": self.reason,
        }});
        error.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refusal(query: &Value) -> String {
        Query::read(query.to_string().as_bytes())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_query_is_read_whole_or_refused_with_the_reason() {
        let include = json!({"include": {"resource_selector_expression": "resource == 'pods'"}});
        let query = json!({
            "queries": [{"exclude": {"resource_selector_expression": "group == 'apps'"}}, include],
            "namespaces": {"names": ["b", "a", "b"], "object_selector_expression": "name != 'a'"},
            "roots": {"object_selector_expressions": ["name == 'a'"], "ignore_arc_direction": ["or", "t"]},
        });
        let read = Query::read(query.to_string().as_bytes()).unwrap();
        assert_eq!(read.rules.len(), 2);
        assert_eq!(read.namespaces.names.len(), 2);
        assert!(read.namespaces.selector.is_some());
        let roots = read.roots.unwrap();
        assert_eq!(roots.both_ways, [ArcKind::Owner, ArcKind::Transitive]);

        let many = json!({"queries": vec![include.clone(); 101]});
        let path = json!({"queries": [{"include": {"resource_selector_expression": "true", "object": {"json_path": "{.a}"}}}]});
        for (query, reason) in [
            (json!({}), "includes nothing"),
            (json!({"queries": [{}]}), "not understood"),
            (
                json!({"queries": [include], "more": 1}),
                "unknown field `more`",
            ),
            (
                json!({"queries": [include], "namespaces": {"names": ["a/b"]}}),
                "the namespace",
            ),
            (
                json!({"queries": [{"exclude": {"resource_selector_expression": "1 +"}}]}),
                "is not valid",
            ),
            (path, "json_path is not supported"),
            (many, "more than 100 expressions"),
        ] {
            let refused = refusal(&query);
            assert!(refused.contains(reason), "{refused}");
        }
    }
}

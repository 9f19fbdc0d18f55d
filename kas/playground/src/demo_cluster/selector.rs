//! Label and field selectors, parsed and matched.

use serde_json::{Map, Value};

use super::failure::Failure;

/// A conjunction of requirements on an object's labels.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Labels(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

/// A conjunction of comparisons with an object's fields.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Fields(Vec<Comparison>);

#[derive(Debug, Clone, PartialEq)]
struct Comparison {
    pointer: String,
    value: String,
    equal: bool,
}

impl Labels {
    /// Reads a `labelSelector`.
    pub(crate) fn parse(selector: &str) -> Result<Self, Failure> {
        split(selector)
            .into_iter()
            .map(|part| requirement(part).ok_or_else(|| unreadable(selector)))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Selects what carries all of these labels.
    pub(crate) fn equal_to(labels: Option<&Map<String, Value>>) -> Self {
        let requirement = |(key, value): (&String, &Value)| Requirement {
            key: key.clone(),
            test: Test::In(vec![value.as_str().unwrap_or_default().to_owned()]),
        };
        Self(labels.into_iter().flatten().map(requirement).collect())
    }

    /// Whether the object's labels meet every requirement.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.0
            .iter()
            .all(|part| part.test.holds(labels[&part.key].as_str()))
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::In(values) => value.is_some_and(|value| values.iter().any(|v| v == value)),
            Self::NotIn(values) => !value.is_some_and(|value| values.iter().any(|v| v == value)),
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
        }
    }
}

/// Splits at commas outside of parentheses.
fn split(selector: &str) -> Vec<&str> {
    let mut depth = 0i32;
    selector
        .split(move |c| {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            c == ',' && depth == 0
        })
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect()
}

fn requirement(part: &str) -> Option<Requirement> {
    let (key, test) = if let Some((key, value)) = part.split_once("!=") {
        (key, Test::NotIn(vec![value.trim().to_owned()]))
    } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (key, Test::In(vec![value.trim().to_owned()]))
    } else if let Some((key, values)) = part.split_once(" notin ") {
        (key, Test::NotIn(set(values)?))
    } else if let Some((key, values)) = part.split_once(" in ") {
        (key, Test::In(set(values)?))
    } else if let Some(key) = part.strip_prefix('!') {
        (key, Test::Absent)
    } else {
        (part, Test::Exists)
    };
    let key = key.trim();
    is_key(key).then(|| Requirement {
        key: key.to_owned(),
        test,
    })
}

fn set(values: &str) -> Option<Vec<String>> {
    let inner = values.trim().strip_prefix('(')?.strip_suffix(')')?;
    Some(inner.split(',').map(|v| v.trim().to_owned()).collect())
}

fn is_key(key: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    !key.is_empty() && key.chars().all(allowed)
}

fn unreadable(selector: &str) -> Failure {
    Failure::bad_request(format!(
        "unable to parse requirement in label selector {selector:?}"
    ))
}

impl Fields {
    /// Reads a `fieldSelector`.
    pub(crate) fn parse(selector: &str) -> Result<Self, Failure> {
        selector
            .split(',')
            .filter(|part| !part.trim().is_empty())
            .map(comparison)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether the object's fields compare as asked.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.0
            .iter()
            .all(|part| (field(object, &part.pointer) == part.value) == part.equal)
    }
}

const SUPPORTED: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.unschedulable",
    "status.phase",
    "status.podIP",
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

fn comparison(part: &str) -> Result<Comparison, Failure> {
    let (key, value, equal) = if let Some((key, value)) = part.split_once("!=") {
        (key, value, false)
    } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (key, value, true)
    } else {
        let message = format!("invalid field selector: {part:?}");
        return Err(Failure::bad_request(message));
    };
    let key = key.trim();
    if !SUPPORTED.contains(&key) {
        let message = format!("field label not supported: {key}");
        return Err(Failure::bad_request(message));
    }
    Ok(Comparison {
        pointer: pointer(key),
        value: value.trim().to_owned(),
        equal,
    })
}

fn pointer(key: &str) -> String {
    match key {
        "source" => "/source/component".to_owned(),
        _ => format!("/{}", key.replace('.', "/")),
    }
}

fn field(object: &Value, pointer: &str) -> String {
    match object.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(flag)) => flag.to_string(),
        None if pointer == "/spec/unschedulable" => "false".to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labelled() -> Value {
        json!({"metadata": {"name": "a", "labels": {"app": "hello", "tier": "web"}},
               "spec": {"nodeName": "n"}, "status": {"phase": "Running"}})
    }

    fn labels_match(selector: &str) -> bool {
        Labels::parse(selector).unwrap().matches(&labelled())
    }

    #[test]
    fn label_selectors_match_what_they_say() {
        for selector in [
            "",
            "app=hello",
            "app==hello,tier!=db",
            "app in (x, hello),tier",
            "tier notin (db,cache)",
            "!gone",
            "gone notin (x)",
            "gone!=x",
        ] {
            assert!(labels_match(selector), "{selector}");
        }
    }

    #[test]
    fn label_selectors_refuse_what_they_do_not_say() {
        for selector in [
            "app=x",
            "app!=hello",
            "gone",
            "!app",
            "app in (x,y)",
            "gone=x",
        ] {
            assert!(!labels_match(selector), "{selector}");
        }
    }

    #[test]
    fn unreadable_selectors_are_refused() {
        for selector in ["app in x", "a b", "=x", "app notin (x"] {
            assert_eq!(Labels::parse(selector).unwrap_err().code, 400, "{selector}");
        }
        for selector in ["metadata.name", "spec.colour=red"] {
            assert_eq!(Fields::parse(selector).unwrap_err().code, 400, "{selector}");
        }
    }

    #[test]
    fn field_selectors_compare_fields() {
        let matches = |selector| Fields::parse(selector).unwrap().matches(&labelled());

        assert!(matches("metadata.name=a,status.phase!=Failed"));
        assert!(matches("spec.nodeName==n"));
        assert!(matches("spec.unschedulable=false"));
        assert!(!matches("metadata.name!=a"));
        assert!(!matches("metadata.namespace=b"));
    }
}

//! The fields and types of the API's objects, read from a table.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::failure::Failure;

/// A type's fields, by the type's name.
type Table = HashMap<&'static str, Vec<Field>>;

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    include_str!("schema.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut words = line.split(' ');
            let name = words.next().unwrap_or_default();
            (name, words.filter_map(Field::parse).collect())
        })
        .collect()
});

/// A field of a type.
#[derive(Debug)]
pub(crate) struct Field {
    /// `~` for a field whose own fields lie flat in the parent.
    pub(crate) name: &'static str,
    pub(crate) number: u64,
    pub(crate) kind: Type,
    /// Whether absent and empty are different things.
    pub(crate) optional: bool,
}

/// What a field holds.
#[derive(Debug, Clone)]
pub(crate) enum Type {
    Text,
    Integer,
    Flag,
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrText,
    Raw,
    Texts,
    List(Box<Type>),
    Map(Box<Type>),
    Object(&'static str),
}

impl Field {
    fn parse(word: &'static str) -> Option<Self> {
        let mut parts = word.splitn(3, ':');
        let (name, number, kind) = (parts.next()?, parts.next()?, parts.next()?);
        let required = kind.trim_end_matches('?');
        Some(Self {
            name,
            number: number.parse().ok()?,
            kind: Type::parse(required),
            optional: required.len() < kind.len(),
        })
    }

    /// The type of a field whose own fields lie flat in the parent.
    pub(crate) fn flat(&self) -> Option<&'static str> {
        if let Type::Object(name) = self.kind
            && self.name == "~"
        {
            return Some(name);
        }
        None
    }
}

impl Type {
    fn parse(word: &'static str) -> Self {
        let inner = |open, close| word.strip_prefix(open)?.strip_suffix(close);
        if let Some(item) = inner('[', ']') {
            return Self::List(Box::new(Self::parse(item)));
        }
        if let Some(value) = inner('{', '}') {
            return Self::Map(Box::new(Self::parse(value)));
        }
        match word {
            "string" => Self::Text,
            "int" => Self::Integer,
            "bool" => Self::Flag,
            "bytes" => Self::Bytes,
            "time" => Self::Time,
            "microtime" => Self::MicroTime,
            "quantity" => Self::Quantity,
            "intstr" => Self::IntOrText,
            "raw" => Self::Raw,
            "strings" => Self::Texts,
            name => Self::Object(name),
        }
    }
}

/// The fields of a type; empty for one that the table does not have.
pub(crate) fn fields(name: &str) -> &'static [Field] {
    TABLE.get(name).map(Vec::as_slice).unwrap_or_default()
}

/// The field of that name, also one that lies flat in the type.
fn field(of: &str, name: &str) -> Option<&'static Field> {
    fields(of).iter().find_map(|field| match field.flat() {
        Some(inner) => self::field(inner, name),
        None => (field.name == name).then_some(field),
    })
}

/// Brings an object of that type into shape: removes nulls and fields that do not exist, and
/// answers which did not.
///
/// # Errors
/// Names the first field that holds something of the wrong type.
pub(crate) fn tidy(of: &str, object: &mut Value) -> Result<Vec<String>, Failure> {
    let mut unknown = Vec::new();
    tidy_fields(of, object, "", &mut unknown)?;
    Ok(unknown)
}

fn tidy_fields(
    of: &str,
    object: &mut Value,
    path: &str,
    unknown: &mut Vec<String>,
) -> Result<(), Failure> {
    let Some(members) = object.as_object_mut() else {
        return Err(mismatch(path, "an object"));
    };
    members.retain(|name, value| {
        let top = path.is_empty() && matches!(name.as_str(), "apiVersion" | "kind");
        let known = top || field(of, name).is_some();
        if !known {
            unknown.push(join(path, name));
        }
        known && !value.is_null()
    });
    for (name, value) in members {
        if let Some(field) = field(of, name) {
            tidy_value(&field.kind, value, &join(path, name), unknown)?;
        }
    }
    Ok(())
}

fn tidy_value(
    kind: &Type,
    value: &mut Value,
    path: &str,
    unknown: &mut Vec<String>,
) -> Result<(), Failure> {
    let (fits, wanted) = match kind {
        Type::Text | Type::Bytes | Type::Time | Type::MicroTime => (value.is_string(), "a string"),
        Type::Integer => (value.is_i64() || value.is_u64(), "a whole number"),
        Type::Flag => (value.is_boolean(), "true or false"),
        Type::IntOrText => (value.is_i64() || value.is_string(), "a number or a string"),
        Type::Quantity => (value.is_number() || value.is_string(), "a quantity"),
        Type::Raw => (true, ""),
        Type::Texts => (value.is_array(), "a list of strings"),
        Type::Object(name) => return tidy_fields(name, value, path, unknown),
        Type::List(item) => {
            let items = value
                .as_array_mut()
                .ok_or_else(|| mismatch(path, "a list"))?;
            let numbered = items.iter_mut().enumerate();
            return numbered.into_iter().try_for_each(|(index, one)| {
                tidy_value(item, one, &format!("{path}[{index}]"), unknown)
            });
        }
        Type::Map(inner) => {
            let members = value
                .as_object_mut()
                .ok_or_else(|| mismatch(path, "a map"))?;
            members.retain(|_, value| !value.is_null());
            return members
                .iter_mut()
                .try_for_each(|(name, one)| tidy_value(inner, one, &join(path, name), unknown));
        }
    };
    if fits {
        Ok(())
    } else {
        Err(mismatch(path, wanted))
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        return name.to_owned();
    }
    format!("{path}.{name}")
}

fn mismatch(path: &str, wanted: &str) -> Failure {
    Failure::bad_request(format!("{path} must be {wanted}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::kinds;
    use super::*;

    #[test]
    fn every_kind_and_every_type_that_is_named_is_there() {
        for kind in kinds::all() {
            assert!(!fields(kind.info().kind).is_empty(), "{:?}", kind.info());
        }
        for field in TABLE.values().flatten() {
            let mut kind = &field.kind;
            while let Type::List(inner) | Type::Map(inner) = kind {
                kind = inner;
            }
            if let Type::Object(name) = kind {
                assert!(TABLE.contains_key(name), "{name}");
            }
        }
    }

    #[test]
    fn unknown_fields_are_named_and_nulls_removed() {
        let mut pod = json!({"kind": "Pod", "metadata": {"name": "a", "creationTimestamp": null},
            "spec": {"containers": [{"name": "c", "imag": "x"}],
                     "volumes": [{"name": "v", "emptyDir": {}}]}, "stats": {}});

        let unknown = tidy("Pod", &mut pod).unwrap();

        assert_eq!(unknown, ["stats", "spec.containers[0].imag"]);
        assert_eq!(
            pod,
            json!({"kind": "Pod", "metadata": {"name": "a"},
                   "spec": {"containers": [{"name": "c"}],
                            "volumes": [{"name": "v", "emptyDir": {}}]}})
        );
    }

    #[test]
    fn wrong_types_are_refused() {
        for wrong in [
            json!({"spec": {"replicas": "3"}}),
            json!({"spec": []}),
            json!({"metadata": {"labels": {"a": 1}}}),
            json!({"spec": {"template": {"spec": {"containers": {}}}}}),
            json!([]),
        ] {
            let refused = tidy("Deployment", &mut wrong.clone());
            assert_eq!(refused.unwrap_err().code, 400, "{wrong}");
        }
    }
}

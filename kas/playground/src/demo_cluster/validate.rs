//! The rules that an object of the right types must keep.

use serde_json::Value;

use super::failure::Failure;
use super::kinds::KindId;
use super::object;

/// What a rule says when it is broken: the field and why.
type Violation = (String, String);
type Validity = Result<(), Violation>;

/// Checks a new object, or the next version of one.
pub(crate) fn check(kind: KindId, object: &Value) -> Result<(), Failure> {
    rules(kind, object)
        .map_err(|(field, why)| Failure::invalid(kind, object::name(object), &field, &why))
}

/// Checks what may not change between two versions.
pub(crate) fn check_change(kind: KindId, old: &Value, new: &Value) -> Result<(), Failure> {
    let fixed: &[&str] = match kind.info().plural {
        "deployments" | "replicasets" => &["spec.selector"],
        "services" => &["spec.clusterIP"],
        "secrets" => &["type"],
        _ => &[],
    };
    let name = object::name(old);
    for field in fixed {
        let pointer = format!("/{}", field.replace('.', "/"));
        if old.pointer(&pointer) != new.pointer(&pointer) {
            return Err(Failure::invalid(kind, name, field, "field is immutable"));
        }
    }
    if kind.info().plural == "pods" && fixed_spec(old) != fixed_spec(new) {
        let why = "Forbidden: pod updates may not change fields other than \
                   `spec.containers[*].image`, `spec.activeDeadlineSeconds` and `spec.tolerations`";
        return Err(Failure::invalid(kind, name, "spec", why));
    }
    if old["immutable"] == true && (old["data"] != new["data"] || new["immutable"] != true) {
        let why = "field is immutable when `immutable` is set";
        return Err(Failure::invalid(kind, name, "data", why));
    }
    Ok(())
}

fn fixed_spec(pod: &Value) -> Value {
    let mut spec = pod["spec"].clone();
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            if let Some(container) = container.as_object_mut() {
                container.shift_remove("image");
            }
        }
    }
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|name, _| {
            !matches!(
                name.as_str(),
                "tolerations" | "activeDeadlineSeconds" | "terminationGracePeriodSeconds"
            )
        });
    }
    spec
}

fn rules(kind: KindId, object: &Value) -> Validity {
    metadata(object)?;
    match kind.info().plural {
        "pods" => pod_spec(object, "/spec"),
        "deployments" | "replicasets" => workload(object),
        "services" => service(object),
        _ => Ok(()),
    }
}

fn require(holds: bool, field: &str, why: &str) -> Validity {
    if holds {
        return Ok(());
    }
    Err((field.to_owned(), why.to_owned()))
}

fn dotted(pointer: &str) -> String {
    pointer.trim_start_matches('/').replace('/', ".")
}

fn metadata(object: &Value) -> Validity {
    let name = object::name(object);
    let why = format!(
        "Invalid value: {name:?}: a lowercase RFC 1123 subdomain must consist of lower case \
         alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character"
    );
    require(is_name(name), "metadata.name", &why)
}

/// RBAC names may hold colons, every other name is a subdomain.
fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    !name.is_empty()
        && name.len() <= 253
        && name.starts_with(inner)
        && name.ends_with(inner)
        && name
            .chars()
            .all(|c| inner(c) || matches!(c, '-' | '.' | ':'))
}

fn workload(object: &Value) -> Validity {
    let replicas = object.pointer("/spec/replicas");
    let counted = replicas.is_none_or(|n| n.as_i64().is_some_and(|n| (0..=100_000).contains(&n)));
    require(
        counted,
        "spec.replicas",
        "must be a whole number, at least 0",
    )?;
    let labels = object::map(object, "/spec/selector/matchLabels");
    let selected = labels.is_some_and(|labels| !labels.is_empty());
    require(selected, "spec.selector", "Required value")?;
    for (key, value) in labels.into_iter().flatten() {
        let label = &object["spec"]["template"]["metadata"]["labels"][key];
        let field = "spec.template.metadata.labels";
        require(
            label == value,
            field,
            "`selector` does not match template `labels`",
        )?;
    }
    pod_spec(object, "/spec/template/spec")
}

fn pod_spec(object: &Value, pointer: &str) -> Validity {
    let field = format!("{}.containers", dotted(pointer));
    let containers = object::list(object, &format!("{pointer}/containers"));
    require(!containers.is_empty(), &field, "Required value")?;
    for (index, container) in containers.iter().enumerate() {
        let named = is_name(object::text(container, "/name"));
        require(named, &format!("{field}[{index}].name"), "Required value")?;
        let image = object::text(container, "/image");
        let field = format!("{field}[{index}].image");
        require(!image.trim().is_empty(), &field, "Required value")?;
        let twin = containers[..index]
            .iter()
            .any(|c| c["name"] == container["name"]);
        require(!twin, &field.replace(".image", ".name"), "Duplicate value")?;
    }
    Ok(())
}

fn service(object: &Value) -> Validity {
    let ports = object::list(object, "/spec/ports");
    let external = object["spec"]["type"] == "ExternalName";
    let headless = object["spec"]["clusterIP"] == "None";
    let enough = !ports.is_empty() || external || headless;
    require(enough, "spec.ports", "Required value")?;
    for port in ports {
        let valid = (1..=65_535).contains(&object::number(port, "/port"));
        require(valid, "spec.ports", "port must be between 1 and 65535")?;
    }
    Ok(())
}

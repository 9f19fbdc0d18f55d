//! What the API's verbs do to the store: create, update, patch and delete.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::failure::Failure;
use super::kinds::{self, KindId};
use super::patch::Format;
use super::store::{Key, Store};
use super::{defaults, object, schema, validate};

mod create;
mod delete;

pub(crate) use create::create;
pub(crate) use delete::{Deletion, Outcome, delete, remove_when_free};

/// The part of an object that an update writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Main,
    Status,
}

/// When a write happens, and whether it only pretends to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WriteContext {
    pub(crate) now: Timestamp,
    pub(crate) dry_run: bool,
    /// Whether fields that do not exist are refused; otherwise they are dropped.
    pub(crate) strict: bool,
}

impl WriteContext {
    /// A write of the demo cluster's own.
    pub(crate) fn at(now: Timestamp) -> Self {
        Self {
            now,
            dry_run: false,
            strict: false,
        }
    }
}

/// Writes the object's next version, when the caller knows the latest one.
pub(crate) fn update(
    store: &mut Store,
    key: &Key,
    part: Part,
    mut body: Value,
    context: WriteContext,
) -> Result<Arc<Value>, Failure> {
    let old = existing(store, key)?;
    identify(key.kind, &key.namespace, &mut body)?;
    tidy(key.kind, &mut body, context)?;
    if object::name(&body) != key.name {
        return Err(Failure::bad_request(
            "the name of the object does not match the name on the URL",
        ));
    }
    up_to_date(key, &old, &body)?;
    let mut next = next_version(key.kind, part, &old, body);
    defaults::fill(key.kind, &mut next);
    validate::check(key.kind, &next)?;
    validate::check_change(key.kind, &old, &next)?;
    if next["spec"] != old["spec"] && defaults::has_generation(key.kind) {
        let generation = object::number(&old, "/metadata/generation") + 1;
        object::set(&mut next, "metadata", "generation", json!(generation));
    }
    if context.dry_run {
        return Ok(Arc::new(next));
    }
    let written = store.replace(key.clone(), next)?;
    remove_when_free(store, key);
    Ok(written)
}

fn existing(store: &Store, key: &Key) -> Result<Arc<Value>, Failure> {
    store
        .get(key)
        .cloned()
        .ok_or_else(|| Failure::not_found(key.kind, &key.name))
}

fn up_to_date(key: &Key, old: &Value, body: &Value) -> Result<(), Failure> {
    for (field, why) in [
        (
            "/metadata/resourceVersion",
            "the object has been modified; please apply your changes to the latest version and try again",
        ),
        ("/metadata/uid", "the object was deleted and made anew"),
    ] {
        let given = object::text(body, field);
        if !given.is_empty() && given != "0" && given != object::text(old, field) {
            return Err(Failure::conflict(key.kind, &key.name, why));
        }
    }
    Ok(())
}

/// What the body may change, on top of the version that there is.
fn next_version(kind: KindId, part: Part, old: &Value, body: Value) -> Value {
    if part == Part::Status {
        let mut next = old.clone();
        next["status"] = body["status"].clone();
        if next["status"].is_null() {
            next["status"] = json!({});
        }
        return next;
    }
    let mut next = body;
    for field in [
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        match old["metadata"].get(field) {
            Some(value) => object::set(&mut next, "metadata", field, value.clone()),
            None => object::unset(&mut next, "metadata", field),
        }
    }
    if kind.info().has_status()
        && let Some(fields) = next.as_object_mut()
    {
        fields.shift_remove("status");
        if let Some(status) = old.get("status") {
            fields.insert("status".to_owned(), status.clone());
        }
    }
    for field in ["clusterIP", "clusterIPs"] {
        let kept = &old["spec"][field];
        if kind == kinds::named("services") && next["spec"].get(field).is_none() && !kept.is_null()
        {
            object::set(&mut next, "spec", field, kept.clone());
        }
    }
    next
}

/// Changes the object as the patch says; server-side apply makes it when it is missing.
pub(crate) fn patch(
    store: &mut Store,
    key: &Key,
    part: Part,
    format: Format,
    change: &Value,
    context: WriteContext,
) -> Result<Arc<Value>, Failure> {
    let Some(old) = store.get(key).cloned() else {
        if format == Format::Apply && part == Part::Main {
            let mut body = change.clone();
            object::set(&mut body, "metadata", "name", json!(key.name));
            return create(store, key.kind, &key.namespace, body, context);
        }
        return Err(Failure::not_found(key.kind, &key.name));
    };
    let body = format.apply(&old, change)?;
    update(store, key, part, body, context)
}

/// Checks that the body is an object of that kind and place, and says so in it.
fn identify(kind: KindId, namespace: &str, body: &mut Value) -> Result<(), Failure> {
    let info = kind.info();
    let api_version = info.api_version();
    for (field, wanted) in [("apiVersion", api_version.as_str()), ("kind", info.kind)] {
        match body.get(field).map(|value| value.as_str()) {
            None | Some(Some("")) => {}
            Some(Some(given)) if given == wanted => {}
            Some(_) => {
                return Err(Failure::bad_request(format!(
                    "the {field} in the data does not match the expected {wanted:?}"
                )));
            }
        }
    }
    let Some(fields) = body.as_object_mut() else {
        return Err(Failure::bad_request("the body is not an object"));
    };
    let mut identified = serde_json::Map::new();
    identified.insert("apiVersion".to_owned(), json!(api_version));
    identified.insert("kind".to_owned(), json!(info.kind));
    let metadata = fields.shift_remove("metadata").unwrap_or(Value::Null);
    identified.insert("metadata".to_owned(), placed(kind, namespace, metadata)?);
    for (name, value) in std::mem::take(fields) {
        identified.entry(name).or_insert(value);
    }
    *fields = identified;
    Ok(())
}

fn tidy(kind: KindId, body: &mut Value, context: WriteContext) -> Result<(), Failure> {
    let unknown = schema::tidy(kind.info().kind, body)?;
    if unknown.is_empty() || !context.strict {
        return Ok(());
    }
    let named: Vec<_> = unknown
        .iter()
        .map(|field| format!("unknown field {field:?}"))
        .collect();
    let message = format!("strict decoding error: {}", named.join(", "));
    Err(Failure::bad_request(message))
}

fn placed(kind: KindId, namespace: &str, mut metadata: Value) -> Result<Value, Failure> {
    if metadata.is_null() {
        metadata = json!({});
    }
    let Some(fields) = metadata.as_object_mut() else {
        return Err(Failure::bad_request("metadata is not an object"));
    };
    let given = fields.get("namespace").and_then(Value::as_str);
    if !kind.info().namespaced {
        fields.shift_remove("namespace");
    } else if given.is_none_or(str::is_empty) {
        fields.insert("namespace".to_owned(), json!(namespace));
    } else if given != Some(namespace) {
        return Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests;

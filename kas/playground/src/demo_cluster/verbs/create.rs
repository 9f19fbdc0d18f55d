//! Creating: naming, furnishing and checking a new object.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::kinds::{self, KindId};
use super::super::store::{Key, Store};
use super::super::{clock, defaults, object, validate};
use super::{WriteContext, identify, tidy};

/// Makes a new object of that kind; `namespace` is the one of the request's path.
pub(crate) fn create(
    store: &mut Store,
    kind: KindId,
    namespace: &str,
    mut body: Value,
    context: WriteContext,
) -> Result<Arc<Value>, Failure> {
    identify(kind, namespace, &mut body)?;
    tidy(kind, &mut body, context)?;
    if !object::text(&body, "/metadata/resourceVersion").is_empty() {
        return Err(Failure::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    name_it(store, &mut body);
    open_namespace(store, kind, &body)?;
    birth(store, kind, &mut body, context.now);
    defaults::fill(kind, &mut body);
    address(store, kind, &mut body);
    validate::check(kind, &body)?;
    let key = Key::of(kind, &body);
    if context.dry_run {
        return pretend(store, &key, body);
    }
    store.insert(key, body)
}

fn pretend(store: &Store, key: &Key, body: Value) -> Result<Arc<Value>, Failure> {
    if store.get(key).is_some() {
        return Err(Failure::already_exists(key.kind, &key.name));
    }
    Ok(Arc::new(body))
}

fn name_it(store: &mut Store, body: &mut Value) {
    let prefix = object::text(body, "/metadata/generateName").to_owned();
    if object::name(body).is_empty() && !prefix.is_empty() {
        let name = format!("{prefix}{}", store.new_suffix());
        object::set(body, "metadata", "name", json!(name));
    }
}

fn open_namespace(store: &Store, kind: KindId, body: &Value) -> Result<(), Failure> {
    if !kind.info().namespaced {
        return Ok(());
    }
    let namespaces = kinds::named("namespaces");
    let name = object::namespace(body);
    let Some(namespace) = store.get(&Key::new(namespaces, "", name)) else {
        return Err(Failure::not_found(namespaces, name));
    };
    if object::deleting(namespace) {
        let why = format!(
            "unable to create new content in namespace {name} because it is being terminated"
        );
        return Err(Failure::forbidden(kind, object::name(body), &why));
    }
    Ok(())
}

fn birth(store: &mut Store, kind: KindId, body: &mut Value, now: Timestamp) {
    for field in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
    ] {
        object::unset(body, "metadata", field);
    }
    let uid = store.new_uid();
    object::set(body, "metadata", "uid", json!(uid));
    object::set(
        body,
        "metadata",
        "creationTimestamp",
        json!(clock::seconds(now)),
    );
    if defaults::has_generation(kind) {
        object::set(body, "metadata", "generation", json!(1));
    }
    let own_status = kind.info().has_status() && kind != kinds::named("nodes");
    if own_status && let Some(fields) = body.as_object_mut() {
        fields.shift_remove("status");
    }
}

/// Gives a new service the first free cluster address.
fn address(store: &Store, kind: KindId, body: &mut Value) {
    let wanted = object::text(body, "/spec/clusterIP");
    let external = body["spec"]["type"] == "ExternalName";
    if kind != kinds::named("services") || !wanted.is_empty() || external {
        return;
    }
    let taken: HashSet<_> = store
        .list(kind, None)
        .map(|service| object::text(service, "/spec/clusterIP"))
        .collect();
    let free = (1..=u16::MAX)
        .map(|host| format!("10.96.{}.{}", host >> 8, host & 0xff))
        .find(|address| !taken.contains(address.as_str()));
    if let Some(free) = free {
        object::set(body, "spec", "clusterIPs", json!([free]));
        object::set(body, "spec", "clusterIP", json!(free));
    }
}

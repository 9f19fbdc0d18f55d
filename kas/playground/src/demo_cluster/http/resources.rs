//! Requests on objects, collections and subresources.

use std::sync::Arc;

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::super::cluster::Cluster;
use super::super::failure::Failure;
use super::super::patch::Format;
use super::super::request::{Selection, Target};
use super::super::shape::Shape;
use super::super::store::{Key, Store};
use super::super::verbs::{self, Deletion, Outcome, Part, WriteContext};
use super::super::{kinds, logs, watch};
use super::{Answer, ApiRequest, document, streamed, success, with_status};

mod list;
mod scale;

/// Answers a request on a resource.
pub(super) fn respond(
    cluster: Arc<Cluster>,
    target: Target,
    request: &ApiRequest,
) -> Result<Answer, Failure> {
    let namespaced = target.kind.info().namespaced;
    if target.name.is_some() && namespaced && target.namespace.is_none() {
        return Err(Failure::no_such_path());
    }
    match (target.name.clone(), target.subresource.clone()) {
        (None, _) => collection(cluster, target, request),
        (Some(name), None) => single(cluster, target, &name, request),
        (Some(name), Some(sub)) => subresource(cluster, target, &name, &sub, request),
    }
}

fn key(target: &Target, name: &str) -> Key {
    Key::new(
        target.kind,
        target.namespace.as_deref().unwrap_or_default(),
        name,
    )
}

impl ApiRequest {
    fn context(&self, cluster: &Cluster) -> WriteContext {
        WriteContext {
            now: cluster.clock.now(),
            dry_run: self.query.get("dryRun").is_some(),
            strict: self.query.get("fieldValidation") == Some("Strict"),
        }
    }

    fn shape(&self) -> Result<Shape, Failure> {
        Shape::accepted(self.header(&ACCEPT), self.query.get("includeObject"))
    }

    fn deletion(&self) -> Result<Deletion, Failure> {
        let options = if self.body.is_empty() {
            Value::Null
        } else {
            self.json()?
        };
        let grace = self.query.get("gracePeriodSeconds");
        let propagation = self.query.get("propagationPolicy");
        Ok(Deletion::read(&options, grace, propagation))
    }

    fn patch_format(&self) -> Result<Format, Failure> {
        let content_type = self.header(&CONTENT_TYPE);
        Format::of(content_type).ok_or_else(|| Failure::unsupported_media(content_type))
    }
}

fn collection(
    cluster: Arc<Cluster>,
    target: Target,
    request: &ApiRequest,
) -> Result<Answer, Failure> {
    let watching = request.query.flag("watch");
    match request.method {
        Method::GET if watching => observe(cluster, &target, request),
        Method::GET => list::answer(&cluster, &target, request),
        Method::POST => {
            let context = request.context(&cluster);
            let body = request.json()?;
            let namespace = target.namespace.unwrap_or_default();
            if target.kind.info().namespaced && namespace.is_empty() {
                return Err(Failure::method_not_allowed());
            }
            let made = cluster
                .write(|store| verbs::create(store, target.kind, &namespace, body, context))?;
            Ok(with_status(StatusCode::CREATED, &made))
        }
        Method::DELETE => delete_selected(&cluster, &target, request),
        _ => Err(Failure::method_not_allowed()),
    }
}

fn observe(
    cluster: Arc<Cluster>,
    target: &Target,
    request: &ApiRequest,
) -> Result<Answer, Failure> {
    let selection = Selection::of(target, &request.query)?;
    let chunks = watch::open(cluster, selection, request.shape()?, &request.query)?;
    Ok(streamed("application/json", chunks))
}

fn delete_selected(
    cluster: &Cluster,
    target: &Target,
    request: &ApiRequest,
) -> Result<Answer, Failure> {
    let selection = Selection::of(target, &request.query)?;
    let deletion = request.deletion()?;
    let context = request.context(cluster);
    let gone = cluster.write(|store| {
        let keys: Vec<_> = store
            .list(target.kind, target.namespace.as_deref())
            .filter(|object| selection.holds(object))
            .map(|object| Key::of(target.kind, object))
            .collect();
        keys.iter()
            .map(|key| verbs::delete(store, key, &deletion, context))
            .map(|outcome| outcome.map(Outcome::into_object))
            .collect::<Result<Vec<_>, _>>()
    })?;
    let now = context.now;
    let list = Shape::Plain.many(target.kind, &gone, json!({}), now);
    Ok(document(&list))
}

fn single(
    cluster: Arc<Cluster>,
    target: Target,
    name: &str,
    request: &ApiRequest,
) -> Result<Answer, Failure> {
    let key = key(&target, name);
    match request.method {
        Method::GET if request.query.flag("watch") => observe(cluster, &target, request),
        Method::GET => {
            let object = find(&cluster, &key)?;
            let shaped = request.shape()?;
            Ok(document(&shaped.one(
                key.kind,
                &object,
                cluster.clock.now(),
            )))
        }
        Method::DELETE => delete(&cluster, &key, request),
        _ => write(&cluster, &key, Part::Main, request),
    }
}

fn find(cluster: &Cluster, key: &Key) -> Result<Arc<Value>, Failure> {
    cluster
        .read(|store| store.get(key).cloned())
        .ok_or_else(|| Failure::not_found(key.kind, &key.name))
}

fn delete(cluster: &Cluster, key: &Key, request: &ApiRequest) -> Result<Answer, Failure> {
    let deletion = request.deletion()?;
    let context = request.context(cluster);
    let outcome = cluster.write(|store| verbs::delete(store, key, &deletion, context))?;
    Ok(match outcome {
        Outcome::Gone(object) => document(&success(key.kind.info(), &object)),
        Outcome::Going(object) => document(&object),
    })
}

fn write(
    cluster: &Cluster,
    key: &Key,
    part: Part,
    request: &ApiRequest,
) -> Result<Answer, Failure> {
    let context = request.context(cluster);
    let written = match request.method {
        Method::PUT => {
            let body = request.json()?;
            cluster.write(|store| verbs::update(store, key, part, body, context))
        }
        Method::PATCH => {
            let format = request.patch_format()?;
            let change = request.json()?;
            return cluster.write(|store| {
                let fresh = store.get(key).is_none();
                let object = verbs::patch(store, key, part, format, &change, context)?;
                let status = if fresh {
                    StatusCode::CREATED
                } else {
                    StatusCode::OK
                };
                Ok(with_status(status, &object))
            });
        }
        _ => Err(Failure::method_not_allowed()),
    }?;
    Ok(document(&written))
}

fn subresource(
    cluster: Arc<Cluster>,
    target: Target,
    name: &str,
    sub: &str,
    request: &ApiRequest,
) -> Result<Answer, Failure> {
    let key = key(&target, name);
    let known = key.kind.info().subresource(sub).is_some();
    let finalize = key.kind == kinds::named("namespaces") && sub == "finalize";
    if !known && !finalize {
        return Err(Failure::no_such_path());
    }
    match sub {
        "status" if request.method == Method::GET => find(&cluster, &key).map(|o| document(&o)),
        "status" => write(&cluster, &key, Part::Status, request),
        "finalize" => write(&cluster, &key, Part::Main, request),
        "scale" => scale::answer(&cluster, &key, request),
        "log" => {
            let lines = logs::open(cluster, &key, &request.query)?;
            Ok(streamed("text/plain", lines))
        }
        "eviction" => evict(&cluster, &key, request),
        _ => {
            find(&cluster, &key)?;
            Err(Failure::no_containers(&format!(
                "{sub} in pod \"{}\"",
                key.name
            )))
        }
    }
}

fn evict(cluster: &Cluster, key: &Key, request: &ApiRequest) -> Result<Answer, Failure> {
    if request.method != Method::POST {
        return Err(Failure::method_not_allowed());
    }
    let body = request.json()?;
    let deletion = Deletion::read(&body["deleteOptions"], None, None);
    let context = request.context(cluster);
    let delete = |store: &mut Store| verbs::delete(store, key, &deletion, context);
    let object = cluster.write(delete)?.into_object();
    let status = success(key.kind.info(), &object);
    Ok(with_status(StatusCode::CREATED, &status))
}

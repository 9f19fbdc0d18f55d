//! Lists, whole or in pages.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::super::super::cluster::Cluster;
use super::super::super::failure::Failure;
use super::super::super::object;
use super::super::super::request::{Selection, Target};
use super::super::{Answer, ApiRequest, document};

/// Where a page ended; travels as the opaque `continue` token.
#[derive(Debug, Clone, PartialEq)]
struct ContinueToken {
    namespace: String,
    name: String,
}

/// One page of a list.
struct Page {
    objects: Vec<Arc<Value>>,
    revision: u64,
    remaining: usize,
}

/// Answers with the objects that the query selects.
pub(super) fn answer(
    cluster: &Cluster,
    target: &Target,
    request: &ApiRequest,
) -> Result<Answer, Failure> {
    let selection = Selection::of(target, &request.query)?;
    let shape = request.shape()?;
    let after = request
        .query
        .get("continue")
        .map(ContinueToken::decode)
        .transpose()?;
    let limit = match request.query.number("limit")? {
        None | Some(0) => usize::MAX,
        Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let page = page(cluster, &selection, after.as_ref(), limit);
    let asked_revision = request.query.number("resourceVersion")?.unwrap_or(0);
    if asked_revision > page.revision {
        return Err(Failure::from_the_future(asked_revision, page.revision));
    }
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if let Some(last) = page.objects.last().filter(|_| page.remaining > 0) {
        metadata["continue"] = json!(ContinueToken::of(last).encode());
        metadata["remainingItemCount"] = json!(page.remaining);
    }
    let now = cluster.clock.now();
    Ok(document(&shape.many(
        target.kind,
        &page.objects,
        metadata,
        now,
    )))
}

fn page(
    cluster: &Cluster,
    selection: &Selection,
    after: Option<&ContinueToken>,
    limit: usize,
) -> Page {
    cluster.read(|store| {
        let mut selected = store
            .list(selection.kind, selection.namespace.as_deref())
            .filter(|object| after.is_none_or(|token| token.is_before(object)))
            .filter(|object| selection.holds(object));
        Page {
            objects: selected.by_ref().take(limit).cloned().collect(),
            remaining: selected.count(),
            revision: store.revision(),
        }
    })
}

impl ContinueToken {
    fn of(object: &Value) -> Self {
        Self {
            namespace: object::namespace(object).to_owned(),
            name: object::name(object).to_owned(),
        }
    }

    fn is_before(&self, object: &Value) -> bool {
        (self.namespace.as_str(), self.name.as_str())
            < (object::namespace(object), object::name(object))
    }

    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}/{}", self.namespace, self.name))
    }

    fn decode(token: &str) -> Result<Self, Failure> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let token = text.as_deref().and_then(|text| text.split_once('/'));
        let (namespace, name) =
            token.ok_or_else(|| Failure::bad_request("the continue token is not one of ours"))?;
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_its_token() {
        let token = ContinueToken::of(&json!({"metadata": {"namespace": "a", "name": "b"}}));

        assert_eq!(ContinueToken::decode(&token.encode()), Ok(token));
        assert_eq!(ContinueToken::decode("???").unwrap_err().code, 400);
    }
}

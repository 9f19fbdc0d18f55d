//! The shape in which a client wants objects: as they are, as a table, or their metadata.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::failure::Failure;
use super::kinds::KindId;
use super::object::{META, partial};
use super::table::{self, Include};

/// How objects are written into a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Plain,
    Table(Include),
    Metadata,
}

impl Shape {
    /// The first shape of the `Accept` header that is served.
    pub(crate) fn accepted(accept: &str, include: Option<&str>) -> Result<Self, Failure> {
        if accept.trim().is_empty() {
            return Ok(Self::Plain);
        }
        accept
            .split(',')
            .find_map(|one| Self::of(one, include))
            .ok_or_else(Failure::not_acceptable)
    }

    fn of(media_type: &str, include: Option<&str>) -> Option<Self> {
        let mut parts = media_type.split(';').map(str::trim);
        if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
            return None;
        }
        let mut shape = Self::Plain;
        for part in parts {
            match part.split_once('=') {
                Some(("as", "Table")) => shape = Self::Table(Include::parse(include)),
                Some(("as", "PartialObjectMetadata" | "PartialObjectMetadataList")) => {
                    shape = Self::Metadata;
                }
                Some(("as", _)) => return None,
                Some(("v", version)) if version != "v1" => return None,
                Some(_) | None => {}
            }
        }
        Some(shape)
    }

    /// One object.
    pub(crate) fn one(self, kind: KindId, object: &Value, now: Timestamp) -> Value {
        match self {
            Self::Plain => object.clone(),
            Self::Metadata => partial(object),
            Self::Table(include) => {
                let mut table = table::head(kind, true);
                let revision = object["metadata"]["resourceVersion"].clone();
                table["metadata"]["resourceVersion"] = revision;
                table["rows"] = json!([table::row(kind, object, include, now)]);
                table
            }
        }
    }

    /// A list, with `metadata` as its own.
    pub(crate) fn many(
        self,
        kind: KindId,
        objects: &[Arc<Value>],
        metadata: Value,
        now: Timestamp,
    ) -> Value {
        match self {
            Self::Plain => {
                let items: Vec<_> = objects.iter().map(|one| Value::clone(one)).collect();
                json!({"kind": format!("{}List", kind.info().kind),
                       "apiVersion": kind.info().api_version(),
                       "metadata": metadata, "items": items})
            }
            Self::Metadata => {
                let items: Vec<_> = objects.iter().map(|one| partial(one)).collect();
                json!({"kind": "PartialObjectMetadataList", "apiVersion": META,
                       "metadata": metadata, "items": items})
            }
            Self::Table(include) => {
                let mut table = table::head(kind, true);
                table["metadata"] = metadata;
                table["rows"] = objects
                    .iter()
                    .map(|one| table::row(kind, one, include, now))
                    .collect();
                table
            }
        }
    }

    /// The object of a bookmark.
    pub(crate) fn bookmark(self, kind: KindId, revision: u64, initial_end: bool) -> Value {
        let mut metadata = json!({"resourceVersion": revision.to_string(),
                                  "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let info = kind.info();
        match self {
            Self::Plain => {
                json!({"kind": info.kind, "apiVersion": info.api_version(), "metadata": metadata})
            }
            Self::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": META, "metadata": metadata})
            }
            Self::Table(_) => {
                let mut table = table::head(kind, false);
                table["metadata"]["resourceVersion"] = json!(revision.to_string());
                let object = json!({"kind": "PartialObjectMetadata", "apiVersion": META,
                                    "metadata": metadata});
                table["rows"] = json!([{"cells": [], "object": object}]);
                table
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_served_media_type_counts() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let shape = |accept| Shape::accepted(accept, None);

        assert_eq!(shape(kubectl), Ok(Shape::Table(Include::Metadata)));
        assert_eq!(shape(""), Ok(Shape::Plain));
        assert_eq!(
            shape("application/vnd.kubernetes.protobuf, */*"),
            Ok(Shape::Plain)
        );
        assert_eq!(
            shape("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
            Ok(Shape::Metadata)
        );
        assert_eq!(
            shape("application/vnd.kubernetes.protobuf")
                .unwrap_err()
                .code,
            406
        );
    }
}

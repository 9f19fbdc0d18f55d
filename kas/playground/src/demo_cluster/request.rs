//! What a request's path and query ask for.

use percent_encoding::percent_decode_str;

use super::failure::Failure;
use super::kinds::{self, KindId};
use super::selector::{Fields, Labels};

/// The thing that a path names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Route {
    Health,
    Version,
    /// `/api`, `/apis` and the documents below them.
    Discovery(Vec<String>),
    /// `/openapi/v3` and the documents below it.
    OpenApi(Vec<String>),
    /// A review, named by its plural.
    Review(String),
    Resource(Target),
    Unknown,
}

/// An object, a collection, or a subresource.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target {
    pub(crate) kind: KindId,
    /// `None` for cluster-scoped kinds and for all namespaces.
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

impl Route {
    /// Reads a path.
    pub(crate) fn parse(path: &str) -> Self {
        let segments: Vec<String> = path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
            .collect();
        let words: Vec<&str> = segments.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["healthz" | "readyz" | "livez", ..] => Self::Health,
            ["version"] => Self::Version,
            ["openapi", "v3", rest @ ..] => Self::OpenApi(owned(rest)),
            ["api"] | ["api", _] | ["apis"] | ["apis", _] | ["apis", _, _] => {
                Self::Discovery(segments)
            }
            [
                "apis",
                "authentication.k8s.io" | "authorization.k8s.io",
                "v1",
                review,
            ] => Self::Review((*review).to_owned()),
            ["api", version, rest @ ..] => target("", version, rest),
            ["apis", group, version, rest @ ..] => target(group, version, rest),
            _ => Self::Unknown,
        }
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn target(group: &str, version: &str, rest: &[&str]) -> Route {
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if namespaced(group, version, rest) => {
            (Some((*namespace).to_owned()), rest)
        }
        _ => (None, rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (plural, None, None),
        [plural, name] => (plural, Some(name), None),
        [plural, name, subresource, ..] => (plural, Some(name), Some(subresource)),
        [] => return Route::Unknown,
    };
    let Some(kind) = kinds::find(group, version, plural) else {
        return Route::Unknown;
    };
    Route::Resource(Target {
        kind,
        namespace,
        name: name.map(|name| (*name).to_owned()),
        subresource: subresource.map(|sub| (*sub).to_owned()),
    })
}

/// Tells `namespaces/x/pods` from `namespaces/x/status`.
fn namespaced(group: &str, version: &str, rest: &[&str]) -> bool {
    rest.first()
        .and_then(|plural| kinds::find(group, version, plural))
        .is_some_and(|kind| kind.info().namespaced)
}

/// The parameters of a query.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string.
    pub(crate) fn parse(query: &str) -> Self {
        let decode = |text: &str| {
            let spaced = text.replace('+', " ");
            percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
        };
        Self(
            query
                .split('&')
                .filter(|part| !part.is_empty())
                .map(|part| part.split_once('=').unwrap_or((part, "")))
                .map(|(name, value)| (decode(name), decode(value)))
                .collect(),
        )
    }

    /// The first value of that parameter, unless it is empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.iter().find(|(key, _)| key == name);
        value
            .map(|(_, value)| value.as_str())
            .filter(|v| !v.is_empty())
    }

    /// Whether the parameter says yes.
    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1" | "True"))
    }

    /// The parameter as a whole number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Failure> {
        self.get(name)
            .map(|text| {
                text.parse()
                    .map_err(|_| Failure::bad_request(format!("invalid {name}: {text:?}")))
            })
            .transpose()
    }
}

/// Which objects a list or a watch is about.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    pub(crate) kind: KindId,
    pub(crate) namespace: Option<String>,
    name: Option<String>,
    labels: Labels,
    fields: Fields,
}

impl Selection {
    /// What the path and the query select.
    pub(crate) fn of(target: &Target, query: &Query) -> Result<Self, Failure> {
        Ok(Self {
            kind: target.kind,
            namespace: target.namespace.clone(),
            name: target.name.clone(),
            labels: Labels::parse(query.get("labelSelector").unwrap_or_default())?,
            fields: Fields::parse(query.get("fieldSelector").unwrap_or_default())?,
        })
    }

    /// Whether the object, of the right kind and namespace, is selected.
    pub(crate) fn holds(&self, object: &serde_json::Value) -> bool {
        let named = super::object::name(object);
        self.name.as_deref().is_none_or(|name| name == named)
            && self.labels.matches(object)
            && self.fields.matches(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(path: &str) -> Target {
        let Route::Resource(target) = Route::parse(path) else {
            panic!("{path} names no resource");
        };
        target
    }

    #[test]
    fn paths_name_objects_and_collections() {
        let log = resource("/api/v1/namespaces/default/pods/a/log");
        assert_eq!(log.kind, kinds::named("pods"));
        assert_eq!(log.namespace.as_deref(), Some("default"));
        assert_eq!(log.subresource.as_deref(), Some("log"));

        let namespace = resource("/api/v1/namespaces/default/status");
        assert_eq!(namespace.kind, kinds::named("namespaces"));
        assert_eq!(namespace.name.as_deref(), Some("default"));

        let everywhere = resource("/apis/apps/v1/deployments");
        assert_eq!((everywhere.namespace, everywhere.name), (None, None));
    }

    #[test]
    fn other_paths_are_unknown() {
        for path in [
            "/",
            "/apis/batch/v1/jobs",
            "/api/v1/namespaces/a/nothing/b/c",
            "/x",
        ] {
            let route = Route::parse(path);
            let unknown = matches!(&route, Route::Unknown);
            let namespace_sub = matches!(&route, Route::Resource(t) if t.subresource.is_some());
            assert!(unknown || namespace_sub, "{path}: {route:?}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("labelSelector=a%3Db%2Cc&watch=1&x=a+b&limit=5&bad=x");

        assert_eq!(query.get("labelSelector"), Some("a=b,c"));
        assert_eq!(query.get("x"), Some("a b"));
        assert!(query.flag("watch"));
        assert_eq!(query.number("limit"), Ok(Some(5)));
        assert_eq!(query.number("bad").unwrap_err().code, 400);
    }
}

//! Names of Kubernetes resources, parsed where they come in, and the one builder of paths from them.
//!
//! What somebody calls a namespace or a version is text until it is parsed here. Whoever asks the
//! cluster for rights and whoever reads from it take both from one [`Collection`], so that they
//! cannot speak of different things.

use std::fmt::{self, Write as _};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use proto::graph::rpc::Resource;

/// The longest label, in bytes (RFC 1123).
const LABEL_BYTES: usize = 63;
/// The longest DNS subdomain, in bytes (RFC 1123).
const SUBDOMAIN_BYTES: usize = 253;
/// How much of a text that is no name is said again.
const QUOTED_CHARS: usize = 64;
/// What a segment of a path may have as it is (RFC 3986, unreserved).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A text is not the name that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {quoted} is not valid: {rule}")]
pub struct InvalidName {
    what: &'static str,
    /// The text, escaped and cut.
    quoted: String,
    rule: &'static str,
}

impl InvalidName {
    fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        let cut: String = text.chars().take(QUOTED_CHARS).collect();
        let more = if cut.len() < text.len() { "…" } else { "" };
        Self {
            what,
            quoted: format!("{cut:?}{more}"),
            rule,
        }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $is:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// Takes a text that is such a name.
            ///
            /// # Errors
            /// [`InvalidName`], which says what such a name has.
            pub fn parse(text: &str) -> Result<Self, InvalidName> {
                let is: fn(&str) -> bool = $is;
                if is(text) {
                    return Ok(Self(text.into()));
                }
                Err(InvalidName::new($what, text, $rule))
            }

            /// The name itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// An RFC 1123 label, such as a namespace.
    Label,
    "the namespace",
    "a namespace has at most 63 lower-case letters, digits and hyphens, and begins and ends with a letter or digit",
    is_label
);
name!(
    /// A DNS subdomain (RFC 1123), such as an API group.
    Subdomain,
    "the group",
    "a group has at most 253 lower-case letters, digits, hyphens and dots, with a letter or digit at both ends of each part",
    is_subdomain
);
name!(
    /// A version of an API, such as `v1beta1`: a DNS-1035 label.
    Version,
    "the version",
    "a version has at most 63 lower-case letters, digits and hyphens and begins with a letter, such as v1 or v1beta1",
    |text| is_label(text) && text.starts_with(|first: char| first.is_ascii_lowercase())
);
name!(
    /// The plural name of a resource as in URLs, such as `configmaps`; never a subresource.
    Plural,
    "the resource",
    "a resource is the lower-case plural as in URLs, such as configmaps: at most 63 letters, digits and hyphens",
    is_label
);

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=LABEL_BYTES).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Parts between dots may be longer than a label, as in Kubernetes.
fn is_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        let inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        !part.is_empty()
            && part.bytes().all(inner)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= SUBDOMAIN_BYTES && text.split('.').all(part)
}

/// All objects of one resource, in one namespace or in all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Collection {
    /// `None` is the core group.
    group: Option<Subdomain>,
    version: Version,
    plural: Plural,
    /// `None` is all namespaces, or a resource that has none.
    namespace: Option<Label>,
}

impl Collection {
    /// Parses all names of a request.
    ///
    /// # Errors
    /// [`InvalidName`] of the first that is none.
    pub fn parse(resource: &Resource) -> Result<Self, InvalidName> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Ok(Self {
            group: some(&resource.group)
                .map(|it| Subdomain::parse(&it))
                .transpose()?,
            version: Version::parse(&resource.version)?,
            plural: Plural::parse(&resource.resource)?,
            namespace: some(&resource.namespace)
                .map(|it| Label::parse(&it))
                .transpose()?,
        })
    }

    /// The group; empty for the core group.
    #[must_use]
    pub fn group(&self) -> &str {
        self.group.as_ref().map_or("", Subdomain::as_str)
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> &str {
        self.version.as_str()
    }

    /// The plural name of the resource.
    #[must_use]
    pub fn plural(&self) -> &str {
        self.plural.as_str()
    }

    /// The namespace; empty for all.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.namespace.as_ref().map_or("", Label::as_str)
    }

    /// `apiVersion` of its objects: `v1`, `apps/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        match &self.group {
            None => self.version.to_string(),
            Some(group) => format!("{group}/{}", self.version),
        }
    }

    /// What a message on the way says of it.
    #[must_use]
    pub fn resource(&self, whole: bool) -> Resource {
        Resource {
            group: self.group().to_owned(),
            version: self.version().to_owned(),
            resource: self.plural().to_owned(),
            namespace: self.namespace().to_owned(),
            whole,
        }
    }

    /// The path at which the API server lists what its version of the group has.
    #[must_use]
    pub fn api_path(&self) -> String {
        path(&self.api_segments())
    }

    /// The path of its objects at the API server.
    #[must_use]
    pub fn path(&self) -> String {
        let mut segments = self.api_segments();
        if let Some(namespace) = &self.namespace {
            segments.extend(["namespaces", namespace.as_str()]);
        }
        segments.push(self.plural());
        path(&segments)
    }

    fn api_segments(&self) -> Vec<&str> {
        match &self.group {
            None => vec!["api", self.version()],
            Some(group) => vec!["apis", group.as_str(), self.version()],
        }
    }
}

/// `v1 configmaps in default`, for logs and errors.
impl fmt::Display for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.api_version(), self.plural)?;
        match &self.namespace {
            Some(namespace) => write!(f, " in {namespace}"),
            None => Ok(()),
        }
    }
}

/// A path of these segments. Whatever a segment has that could end it is encoded, so that there are
/// exactly as many as were given, and no query. A segment of one or two dots, which some servers
/// resolve, does not stay one.
#[must_use]
pub fn path<S: AsRef<str>>(segments: &[S]) -> String {
    let mut path = String::new();
    for segment in segments.iter().map(AsRef::as_ref) {
        path.push('/');
        if matches!(segment, "." | "..") {
            path.push_str(&segment.replace('.', "%2E"));
            continue;
        }
        write!(path, "{}", utf8_percent_encode(segment, SEGMENT))
            .expect("writing to a String cannot fail");
    }
    path
}

#[cfg(test)]
mod tests;

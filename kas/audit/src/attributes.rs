//! What a request asks of Kubernetes, read from its path as an API server reads it (`k8s.io/apiserver`, request
//! info).

use http::Method;

/// How much a record of a request is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It reads.
    Read,
    /// It opens what goes on (exec, attach, port-forward, proxy, logs, watches), or shows secrets.
    Open,
    /// It changes something.
    Change,
}

/// A request in the words of Kubernetes. Empty texts are absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// How much a record is wanted.
    pub class: Class,
    /// As in `list` or `deletecollection`; the method in lower case for what is no resource.
    pub verb: String,
    /// The API group.
    pub group: String,
    /// The API version; empty for what is no resource.
    pub version: String,
    /// The resource; empty for what is none.
    pub resource: String,
    /// The subresource.
    pub subresource: String,
    /// The namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// The container.
    pub container: String,
    /// The command of an exec, word by word.
    pub command: Vec<String>,
}

/// Subresources that open a stream, or reach beyond the API.
const OPENING: [&str; 5] = ["exec", "attach", "portforward", "proxy", "log"];
/// What reads show that must be known to have been read.
const SECRET: [&str; 1] = ["secrets"];

impl Attributes {
    /// What a request asks for, by its method, its decoded path, the values of its query's parameters, and whether it
    /// asks for another protocol.
    #[must_use]
    pub fn of<'q>(
        method: &Method,
        path: &str,
        parameter: impl Fn(&str) -> &'q [String],
        upgrade: bool,
    ) -> Self {
        let mut asked = Self {
            class: Class::Read,
            verb: method.as_str().to_ascii_lowercase(),
            group: String::new(),
            version: String::new(),
            resource: String::new(),
            subresource: String::new(),
            namespace: String::new(),
            name: String::new(),
            container: String::new(),
            command: Vec::new(),
        };
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let of_resource = match parts[..] {
            ["api", version, ref rest @ ..] if !rest.is_empty() => {
                version.clone_into(&mut asked.version);
                Some(rest)
            }
            ["apis", group, version, ref rest @ ..] if !rest.is_empty() => {
                group.clone_into(&mut asked.group);
                version.clone_into(&mut asked.version);
                Some(rest)
            }
            _ => None,
        };
        if let Some(rest) = of_resource {
            let watch = asked.read_resource(rest);
            let watch = watch || is_true(parameter("watch"));
            asked.verb = asked.kubernetes_verb(method, watch).to_owned();
        }
        if matches!(&*asked.subresource, "exec" | "attach" | "log") {
            if let [container, ..] = parameter("container") {
                asked.container.clone_from(container);
            }
            if asked.subresource == "exec" {
                asked.command = parameter("command").to_vec();
            }
        }
        asked.class = asked.class(method, upgrade);
        asked
    }

    /// Whether it opens the streams of a process in a container.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(&*self.subresource, "exec" | "attach")
    }

    /// Whether it goes to a kubelet past the API, which executes commands too.
    #[must_use]
    pub fn is_kubelet(&self) -> bool {
        self.resource == "nodes" && self.subresource == "proxy"
    }

    /// Takes what follows the version. Whether it is a watch of the old form.
    fn read_resource(&mut self, mut rest: &[&str]) -> bool {
        let mut watch = false;
        if let ["watch", below @ ..] = rest
            && !below.is_empty()
        {
            (watch, rest) = (true, below);
        }
        if let ["namespaces", namespace, below @ ..] = rest {
            (*namespace).clone_into(&mut self.namespace);
            if !below.is_empty() && !matches!(below[0], "status" | "finalize") {
                rest = below;
            }
        }
        let part = |number: usize| rest.get(number).copied().unwrap_or_default().to_owned();
        (self.resource, self.name, self.subresource) = (part(0), part(1), part(2));
        watch
    }

    fn kubernetes_verb(&self, method: &Method, watch: bool) -> &'static str {
        match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if self.name.is_empty() => "deletecollection",
            Method::DELETE => "delete",
            _ if watch => "watch",
            _ if self.name.is_empty() => "list",
            _ => "get",
        }
    }

    fn class(&self, method: &Method, upgrade: bool) -> Class {
        let opens = upgrade
            || self.verb == "watch"
            || OPENING.contains(&&*self.subresource)
            || SECRET.contains(&&*self.resource);
        match method.is_safe() {
            _ if OPENING.contains(&&*self.subresource) => Class::Open,
            false => Class::Change,
            true if opens => Class::Open,
            true => Class::Read,
        }
    }
}

/// Whether a parameter is one of the words that Kubernetes reads as true.
fn is_true(values: &[String]) -> bool {
    let first = values.first().map(String::as_str);
    first.is_some_and(|it| !matches!(it.to_ascii_lowercase().as_str(), "0" | "f" | "false"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: Method, path: &str, query: &[(&str, &[&str])], upgrade: bool) -> Attributes {
        let query: Vec<(String, Vec<String>)> = query
            .iter()
            .map(|(name, values)| {
                let values = values.iter().map(|it| (*it).to_owned()).collect();
                ((*name).to_owned(), values)
            })
            .collect();
        let parameter = |name: &str| {
            let found = query.iter().find(|(known, _)| known == name);
            found.map_or(&[][..], |(_, values)| &values[..])
        };
        Attributes::of(&method, path, parameter, upgrade)
    }

    #[test]
    fn requests_are_what_an_api_server_takes_them_for() {
        for (method, path, expected, class) in [
            (Method::GET, "/api/v1/pods", "list /v1 pods//", Class::Read),
            (
                Method::GET,
                "/api/v1/namespaces/a/pods/b",
                "get /v1 pods/b/ in a",
                Class::Read,
            ),
            (
                Method::GET,
                "/api/v1/namespaces/a",
                "get /v1 namespaces/a/ in a",
                Class::Read,
            ),
            (
                Method::PUT,
                "/api/v1/namespaces/a/finalize",
                "update /v1 namespaces/a/finalize in a",
                Class::Change,
            ),
            (
                Method::DELETE,
                "/apis/apps/v1/namespaces/a/deployments",
                "deletecollection apps/v1 deployments// in a",
                Class::Change,
            ),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                "patch apps/v1 deployments/d/scale in a",
                Class::Change,
            ),
            (
                Method::GET,
                "/api/v1/watch/namespaces/a/pods",
                "watch /v1 pods// in a",
                Class::Open,
            ),
            (
                Method::GET,
                "/api/v1/namespaces/a/pods/b/log",
                "get /v1 pods/b/log in a",
                Class::Open,
            ),
            (
                Method::GET,
                "/api/v1/namespaces/a/secrets",
                "list /v1 secrets// in a",
                Class::Open,
            ),
            (Method::GET, "/version", "get / //", Class::Read),
            (Method::GET, "/api/v1", "get / //", Class::Read),
        ] {
            let it = of(method, path, &[], false);
            let at = match &*it.namespace {
                "" => String::new(),
                namespace => format!(" in {namespace}"),
            };
            let said = format!(
                "{} {}/{} {}/{}/{}{at}",
                it.verb, it.group, it.version, it.resource, it.name, it.subresource
            );
            assert_eq!((&*said, it.class), (expected, class), "{path}");
        }
    }

    #[test]
    fn an_exec_has_its_command_and_container() {
        let path = "/api/v1/namespaces/a/pods/b/exec";
        let query: &[(&str, &[&str])] = &[("command", &["sh", "-c", "id"]), ("container", &["c"])];

        for method in [Method::GET, Method::POST] {
            let exec = of(method, path, query, true);
            assert_eq!(exec.command, ["sh", "-c", "id"]);
            assert_eq!((&*exec.container, exec.class), ("c", Class::Open));
        }
    }

    #[test]
    fn a_watch_is_one_by_its_query() {
        for (value, verb) in [("true", "watch"), ("1", "watch"), ("false", "list")] {
            let query: &[(&str, &[&str])] = &[("watch", &[value])];
            assert_eq!(of(Method::GET, "/api/v1/pods", query, false).verb, verb);
        }
    }
}

//! What client and kas say to each other. Inferred are: the type of a message that ends a watch, and the parameters
//! besides version, group, resource and namespace, of which GitLab's page sends none.

use proto::graph::rpc::Resource;
use runtime::names::{Collection, InvalidName};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::target::Target;

/// The longest id of a watch, in bytes.
const WATCH_ID_BYTES: usize = 256;

/// What a client calls a watch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(try_from = "String")]
pub(super) struct WatchId(Box<str>);

impl TryFrom<String> for WatchId {
    type Error = MessageError;

    fn try_from(text: String) -> Result<Self, MessageError> {
        if (1..=WATCH_ID_BYTES).contains(&text.len()) {
            return Ok(Self(text.into()));
        }
        Err(MessageError::WatchId)
    }
}

/// Why a message is not understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    /// It is not of the form.
    #[error("the message is not understood: {0}")]
    Json(#[from] serde_json::Error),
    /// It has no sensible id.
    #[error("watch_id must have 1 to {WATCH_ID_BYTES} bytes")]
    WatchId,
    /// It is neither the begin nor the end of a watch.
    #[error("the type must be watch or unwatch")]
    Type,
    /// It is the begin of a watch without what to watch.
    #[error("watch_params is missing")]
    NoParameters,
    /// A name is none.
    #[error("watch_params: {0}")]
    Name(#[from] InvalidName),
    /// The path is none, which no name can bring about.
    #[error("watch_params: {0}")]
    Path(#[from] crate::target::Malformed),
}

/// What a client asks for.
#[derive(Debug)]
pub(super) enum Asked {
    /// To begin a watch.
    Watch(Wanted),
    /// To end one.
    Unwatch,
}

#[derive(Deserialize)]
struct Message {
    #[serde(rename = "type")]
    kind: String,
    watch_id: WatchId,
    watch_params: Option<WatchParams>,
}

/// Keys that are not known would make a watch of more than was asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WatchParams {
    group: Option<String>,
    version: String,
    resource: String,
    namespace: Option<String>,
    resource_version: Option<String>,
    label_selector: Option<String>,
    field_selector: Option<String>,
}

/// Reads a message: for which watch it is, if that can be told, and what it asks for.
pub(super) fn read(text: &[u8]) -> (WatchId, Result<Asked, MessageError>) {
    let message: Message = match serde_json::from_slice(text) {
        Ok(message) => message,
        Err(error) => {
            // One that is wrong elsewhere may name its watch.
            let id = serde_json::from_slice::<Value>(text).ok();
            let id = id.and_then(|it| WatchId::deserialize(&it["watch_id"]).ok());
            return (id.unwrap_or_default(), Err(error.into()));
        }
    };
    let asked = match (&*message.kind, message.watch_params) {
        ("watch", Some(params)) => Wanted::of(params).map(Asked::Watch),
        ("watch", None) => Err(MessageError::NoParameters),
        ("unwatch", _) => Ok(Asked::Unwatch),
        _ => Err(MessageError::Type),
    };
    (message.watch_id, asked)
}

/// What is to be watched.
#[derive(Debug)]
pub(super) struct Wanted(Target);

impl Wanted {
    fn of(params: WatchParams) -> Result<Self, MessageError> {
        let collection = Collection::parse(&Resource {
            group: params.group.unwrap_or_default(),
            version: params.version,
            resource: params.resource,
            namespace: params.namespace.unwrap_or_default(),
            whole: true,
        })?;
        let mut target = Target::at(&collection.path())?;
        for (name, value) in [
            ("resourceVersion", params.resource_version),
            ("labelSelector", params.label_selector),
            ("fieldSelector", params.field_selector),
        ] {
            if let Some(value) = value.filter(|it| !it.is_empty()) {
                target.set(name, &value);
            }
        }
        Ok(Self(target))
    }

    /// What is asked of the cluster.
    pub(super) fn into_target(self) -> Target {
        self.0
    }
}

/// An event of a watch, which is JSON itself.
pub(super) fn event(id: &WatchId, event: &[u8]) -> Vec<u8> {
    let head = json!({"watchId": id, "type": "event"}).to_string();
    let head = head.trim_end_matches('}');
    [head.as_bytes(), b",\"watchEvent\":", event, b"}"].concat()
}

/// A watch ended, or did not begin; `object` is a Kubernetes `Status`, or has a message.
pub(super) fn error(id: &WatchId, object: &Value) -> Vec<u8> {
    let message = json!({"watchId": id, "type": "error", "error": {"object": object}});
    message.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(params: &str) -> Result<String, String> {
        let text = format!(r#"{{"type":"watch","watch_id":"w","watch_params":{params}}}"#);
        match read(text.as_bytes()) {
            (id, Ok(Asked::Watch(wanted))) if &*id.0 == "w" => {
                Ok(wanted.into_target().for_agent().2)
            }
            (_, Err(error)) => Err(error.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_make_one_path_and_selectors_no_parameters_of_their_own() {
        let pods = r#"{"version":"v1","resource":"pods","namespace":"default"}"#;
        assert_eq!(target(pods), Ok("/api/v1/namespaces/default/pods".into()));
        let selected = r#"{"group":"apps","version":"v1","resource":"deployments","namespace":null,"label_selector":"a=b&watch=false"}"#;
        let path = "/apis/apps/v1/deployments?labelSelector=a%3Db%26watch%3Dfalse";
        assert_eq!(target(selected), Ok(path.into()));
    }

    #[test]
    fn what_is_no_name_or_not_known_is_refused_with_the_reason() {
        for (params, reason) in [
            (
                r#"{"version":"v1","resource":"pods","namespace":"a/secrets?x="}"#,
                "the namespace",
            ),
            (r#"{"version":"v1","resource":"pods/exec"}"#, "the resource"),
            (
                r#"{"version":"v1","resource":"pods","shard":"1"}"#,
                "unknown field `shard`",
            ),
            (r#"{"resource":"pods"}"#, "missing field `version`"),
            ("null", "watch_params is missing"),
        ] {
            let refused = target(params).unwrap_err();
            assert!(refused.contains(reason), "{params}: {refused}");
        }
    }

    #[test]
    fn a_message_that_is_wrong_is_answered_for_its_watch() {
        for (text, id, reason) in [
            (r#"{"type":"stop","watch_id":"a"}"#, "a", "watch or unwatch"),
            (r#"{"watch_id":"b"}"#, "b", "missing field `type`"),
            (r#"{"type":"watch","watch_id":""}"#, "", "1 to 256 bytes"),
            ("[", "", "not understood"),
        ] {
            let (of, refused) = read(text.as_bytes());
            assert_eq!(&*of.0, id);
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains(reason), "{text}: {refused}");
        }
    }

    #[test]
    fn an_event_is_passed_on_as_it_is() {
        let id = WatchId("k8s \"pods\"".into());
        let text = event(&id, br#"{"type":"ADDED","object":{"n":1.0}}"#);
        let expected = r#"{"watchId":"k8s \"pods\"","type":"event","watchEvent":{"type":"ADDED","object":{"n":1.0}}}"#;
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }
}
